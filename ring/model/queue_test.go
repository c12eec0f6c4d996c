package model

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKsocks(t *testing.T) { // R3.1
	b := start(t)
	if first, second := b.open(), b.open(); first != 1 || second != 2 {
		t.Errorf("the first ids are %d, %d", first, second)
	}
	b.no(b.Close(2))
	if third := b.Open(true); third != 3 {
		t.Errorf("an id was used again: %d", third)
	}
	b.is(b.Bind(2, "$.A", false), unix.EBADF) // closed
	b.no(b.Bind(3, "$.A", true))              // read-only
	b.sends(1, ask("$.A", ""), 1)
	b.poll(3, true, false)
	b.gets(3, "1 A?!")
	b.unreplied(3, 1)
	b.fails(3, answerTo(1, 1, ""), unix.EBADF, false)
	b.fails(3, Message{Flags: AllOrWait | AllOrFail}, unix.EBADF, false) // before any other check
	_, err := b.SendAgain(3)
	b.is(err, unix.ENOMSG)
	b.no(b.Discard(3))
	b.poll(3, false, false)
}

func TestBuses(t *testing.T) { // R3.1
	s := New(Config{})
	if _, err := s.Bus(1); err != unix.ENOENT {
		t.Errorf("bus 1: %v", err)
	}
	if _, err := s.Bus(-1); err != unix.ENOENT {
		t.Errorf("bus -1: %v", err)
	}
	for want := 1; want < 256; want++ {
		if n, err := s.NewBus(); n != want || err != nil {
			t.Fatalf("NewBus = %d, %v, want %d", n, err, want)
		}
	}
	if _, err := s.NewBus(); err != unix.EINVAL {
		t.Errorf("a bus too many: %v", err)
	}
	a, _ := s.Bus(0)
	z, _ := s.Bus(255)
	ka, kz := a.Open(false), z.Open(false)
	if ka != 1 || kz != 1 {
		t.Errorf("the buses share their ids: %d, %d", ka, kz)
	}
	bus{t, z}.listen(kz, "$.*")
	bus{t, a}.sends(ka, announce("$.A", ""), 1)
	bus{t, z}.gets(kz) // isolated
	bus{t, z}.sends(kz, announce("$.A", ""), 1)
}

func TestMaxMessages(t *testing.T) { // R3.2
	b := start(t)
	s, l := b.open(), b.open()
	b.listen(l, "$.A")
	if n, err := b.MaxMessages(l, 0); n != 100 || err != nil {
		t.Fatalf("MaxMessages(0) = %d, %v", n, err)
	}
	for i := range uint32(3) {
		b.sends(s, announce("$.A", ""), i+1)
	}
	b.limit(l, 1) // below what is queued: drops nothing
	b.unread(l, 3)
	b.fails(s, with(announce("$.A", ""), AllOrFail), unix.EBUSY, true)
	b.limit(l, 4_000_000_000)
	b.sends(s, with(announce("$.A", ""), AllOrFail), 5)
	b.gets(l, "1 A", "2 A", "3 A", "5 A")
}

func TestHeldPlaces(t *testing.T) { // R3.3
	b := start(t)
	s, r, x := b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.listen(s, "$.A")
	b.reply(s, "$.S")
	b.limit(s, 2)
	b.sends(s, ask("$.Q", ""), 1)
	b.sends(s, ask("$.Q", ""), 2)
	b.sends(x, announce("$.A", "missed"), 3)
	b.fails(x, with(announce("$.A", ""), AllOrFail), unix.EBUSY, true)
	b.fails(x, ask("$.S", ""), unix.EBUSY, true)
	b.gets(r, "1 Q?!", "2 Q?!")
	b.sends(r, answerTo(s, 1, ""), 6) // takes one of the places held
	b.limit(s, 1)
	b.no(b.Close(r)) // a Status ignores the limit
	b.gets(s, "6 A<1", "7 Replier.Ignored<2@2")
}

func TestNextAndPoll(t *testing.T) { // R3.4
	b := start(t)
	s, l := b.open(), b.open()
	b.listen(l, "$.A")
	b.poll(l, false, true)
	b.gets(l) // no error
	b.sends(s, announce("$.A", ""), 1)
	b.poll(l, true, true)
	b.gets(l, "1 A")
	b.poll(l, false, true)
}

func TestOrder(t *testing.T) { // R3.5, R3.6, R4.7
	b := start(t)
	s, r, other := b.open(), b.open(), b.open()
	b.listen(r, "$.A")
	b.reply(r, "$.A")
	b.listen(r, "$.*")
	b.listen(other, "$.A")
	b.sends(s, announce("$.A", "1"), 1)
	b.sends(s, ask("$.A", "2"), 2)
	b.sends(s, with(ask("$.A", "u"), Urgent), 3)
	b.sends(s, with(announce("$.A", "v"), Urgent), 4)
	b.sends(s, announce("$.A", "5"), 5)
	if b.find(r).queue[0].via == b.find(r).queue[1].via {
		t.Error("two copies by one binding")
	}
	// The last urgent one in is the first out, also among copies: the Replier's went in first.
	b.gets(r, "4 A=v", "4 A=v", "3 A?=u", "3 A?=u", "3 A?!=u", "1 A=1", "1 A=1", "2 A?!=2", "2 A?=2", "2 A?=2", "5 A=5", "5 A=5")
	b.gets(other, "4 A=v", "3 A?=u", "1 A=1", "2 A?=2", "5 A=5")
}

func TestUrgentNeedsRoom(t *testing.T) { // R3.3, R3.6
	b := start(t)
	s, l := b.open(), b.open()
	b.listen(l, "$.A")
	b.limit(l, 1)
	b.sends(s, announce("$.A", "1"), 1)
	b.sends(s, with(announce("$.A", "2"), Urgent), 2)
	b.gets(l, "1 A=1")
}

func TestQueries(t *testing.T) { // R3.7
	b := start(t)
	s, r := b.open(), b.open()
	last := func(want MessageID) {
		t.Helper()
		if id, err := b.LastSent(s); id != want || err != nil {
			t.Fatalf("LastSent = %v, %v, want %v", id, err, want)
		}
	}
	last(MessageID{})
	b.reply(r, "$.Q")
	b.sends(s, ask("$.Q", ""), 1)
	last(MessageID{0, 1})
	b.fails(s, ask("$.None", ""), unix.EADDRNOTAVAIL, true)
	last(MessageID{0, 2})
	b.fails(s, announce("bad", ""), unix.EBADMSG, false)
	last(MessageID{0, 2})
	b.unread(r, 1)
	b.unreplied(r, 0)
	b.gets(r, "1 Q?!")
	b.unread(r, 0)
	b.unreplied(r, 1)
	b.sends(r, answerTo(s, 1, ""), 3)
	b.unreplied(r, 0)
}

func TestOrderOfChecks(t *testing.T) { // R3.8
	b := start(t)
	s, r, l := b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.listen(l, "$.Q")
	_, err := b.MaxMessageSize(s, 2000)
	b.no(err)
	large := strings.Repeat("x", 3000)
	both := AllOrWait | AllOrFail
	b.fails(s, Message{Name: "", Data: large, Flags: both}, unix.EINVAL, false)
	b.fails(s, Message{Name: strings.Repeat("!", 1001), Data: large, Flags: both}, unix.ENAMETOOLONG, false)
	b.fails(s, Message{Name: "$.*", Data: large, Flags: both}, unix.EINVAL, false)
	b.fails(s, Message{Name: "$.*", Data: large, Flags: WantReply, InReplyTo: MessageID{0, 9}}, unix.EINVAL, false)
	b.fails(s, Message{Name: "$.*", Data: large}, unix.EMSGSIZE, false)
	_, err = b.SendAgain(s)
	b.is(err, unix.ENOMSG)
	b.listen(s, "$.F")
	b.limit(s, 1)
	b.sends(l, announce("$.F", "fill"), 1)
	b.fails(s, ask("$.*", ""), unix.EBADMSG, false)
	b.fails(s, ask("$.None", ""), unix.ENOLCK, false)
	b.gets(s, "1 F=fill")
	b.fails(s, Message{Name: "$.None", Flags: WantReply, To: 99}, unix.EADDRNOTAVAIL, true) // before EPIPE
	b.limit(r, 1)
	b.sends(l, ask("$.Q", "fill"), 3)
	b.limit(l, 1)
	reply := Message{Name: "$.Q", Flags: AllOrFail, To: 99, InReplyTo: MessageID{0, 3}}
	b.fails(s, reply, unix.EADDRNOTAVAIL, true)
	reply.To = l
	b.fails(s, reply, unix.ECONNREFUSED, true) // before EBUSY: l is full
	b.fails(s, Message{Name: "$.Q", Flags: WantReply | AllOrFail, To: 99}, unix.EPIPE, true)
	b.fails(s, with(ask("$.Q", ""), AllOrFail), unix.EBUSY, true)
	b.fails(s, ask("$.Q", ""), unix.EBUSY, true)
	b.fails(s, with(ask("$.Q", ""), AllOrWait), unix.EAGAIN, true)
	b.fails(s, Message{Name: ""}, unix.EALREADY, false)
}

func TestSwitches(t *testing.T) { // R3.9
	b := start(t)
	k, other := b.open(), b.open()
	for _, f := range []func(uint32, Switch) (bool, error){b.OnlyOnce, b.ReportReplierBinds} {
		for _, c := range []struct {
			v   Switch
			was bool
			err unix.Errno
		}{
			{Ask, false, 0}, {On, false, 0}, {Ask, true, 0}, {On, true, 0}, {2, true, unix.EINVAL}, {Off, true, 0},
			{Ask, false, 0}, {Off, false, 0}, {On, false, 0},
		} {
			was, err := f(k, c.v)
			b.is(err, c.err)
			if err == nil && was != c.was {
				t.Errorf("%v: was %v, want %v", c.v, was, c.was)
			}
		}
	}
	if was, _ := b.OnlyOnce(other, Ask); was {
		t.Error("only once is not the Ksock's own")
	}
	b.no(b.Close(k))
	if was, _ := b.ReportReplierBinds(other, Ask); !was {
		t.Error("the reports went with who switched them on (R7.1)")
	}
}

func TestClosedKsock(t *testing.T) {
	b := start(t)
	k := b.open()
	b.no(b.Close(k))
	for what, f := range map[string]func() error{
		"Close":              func() error { return b.Close(k) },
		"Bind":               func() error { return b.Bind(k, "$.A", true) },
		"BindEnd":            func() error { return b.BindEnd(k, "$.A", true) },
		"Unbind":             func() error { return b.Unbind(k, "$.A", true) },
		"UnbindEdit":         func() error { return b.UnbindEdit(k, "$.A", true) },
		"Send":               func() error { _, err := b.Send(k, announce("$.A", "")); return err },
		"SendAgain":          func() error { _, err := b.SendAgain(k); return err },
		"Discard":            func() error { return b.Discard(k) },
		"Next":               func() error { _, _, err := b.Next(k); return err },
		"Poll":               func() error { _, _, err := b.Poll(k); return err },
		"Unread":             func() error { _, err := b.Unread(k); return err },
		"Unreplied":          func() error { _, err := b.Unreplied(k); return err },
		"LastSent":           func() error { _, err := b.LastSent(k); return err },
		"Pending":            func() error { _, err := b.Pending(k); return err },
		"MaxMessages":        func() error { _, err := b.MaxMessages(k, 1); return err },
		"MaxMessageSize":     func() error { _, err := b.MaxMessageSize(k, 0); return err },
		"OnlyOnce":           func() error { _, err := b.OnlyOnce(k, Ask); return err },
		"ReportReplierBinds": func() error { _, err := b.ReportReplierBinds(k, Ask); return err },
	} {
		if err := f(); err != unix.EBADF {
			t.Errorf("%s answers %v", what, err)
		}
	}
	if b.UnbindStep(k) || b.CloseStep(k) {
		t.Error("there are steps left of what never began")
	}
	b.CloseEnd(k)
}
