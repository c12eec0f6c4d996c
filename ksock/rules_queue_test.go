package ksock_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// R3.1: ids count up and are not reused; what is not there can't be opened; read-only.
func TestOpening(t *testing.T) {
	s := setStage(t)
	a, b := s.open(), s.open()
	s.want("ids", [2]uint32{a.ID(), b.ID()}, [2]uint32{1, 2})
	b.Close()
	s.want("id", s.open().ID(), uint32(3))
	for _, n := range []int{1, 255, 256, 1 << 30, -1} {
		_, err := ksock.Open(s.ctx, n, &ksock.Options{Socket: s.socket})
		s.wantErr(err, unix.ENOENT)
		s.wantErr(err, ksock.ErrNoBus)
	}
	r := s.openWith(ksock.Options{ReadOnly: true})
	r.poll(false, false)
	r.listen("$.A")
	r.bind("$.R", ksock.Replier)
	for _, m := range []*ksock.Message{say("$.A", ""), say("", ""), say("$", ""), flagged(say("$.A", ""), ksock.AllOrFail|ksock.AllOrWait)} {
		r.fails(m, unix.EBADF, false) // before any other check
	}
	_, err := r.SendAgain()
	s.wantErr(err, unix.ENOMSG)
	a.announce("$.A", "hello")
	r.hears("hello")
	r.poll(false, false)
}

// R3.1: new buses.
func TestNewBuses(t *testing.T) {
	s := setStage(t)
	for want := 1; want <= 3; want++ {
		n, err := ksock.NewBus(s.ctx, s.socket, &ksock.BusConfig{MaxKsocks: 4, ArenaBytes: 1 << 20, MaxMessageSize: 4096})
		if err != nil || n != want {
			t.Fatalf("bus %d, %v; want %d", n, err, want)
		}
		k, err := ksock.Open(s.ctx, n, &ksock.Options{Socket: s.socket})
		if err != nil {
			t.Fatal(err)
		}
		s.want("first id of a bus", k.ID(), uint32(1))
		v, err := k.SetMaxMessageSize(s.ctx, 1)
		if err != nil || v != 4096 {
			t.Errorf("absolute maximum %d, %v", v, err)
		}
		k.Close()
	}
}

// R3.1: there are at most 256 buses.
func TestMostBuses(t *testing.T) {
	s := setStage(t)
	c := &ksock.BusConfig{MaxKsocks: 2, ArenaBytes: 1 << 20, MaxMessageSize: 4096}
	for want := 1; want < 256; want++ {
		n, err := ksock.NewBus(s.ctx, s.socket, c)
		if err != nil || n != want {
			t.Fatalf("bus %d, %v; want %d", n, err, want)
		}
	}
	_, err := ksock.NewBus(s.ctx, s.socket, c)
	s.wantErr(err, unix.EINVAL)
	k, err := ksock.Open(s.ctx, 255, &ksock.Options{Socket: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
}

// R3.2: max_messages.
func TestMaxMessages(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	s.want("default", value(s, l.MaxMessages), uint32(100))
	for i := range 101 {
		a.announce("$.A", string(rune('a'+i%26)))
	}
	l.unread(100)
	l.holds(2) // drops nothing
	l.unread(100)
	for range 98 {
		l.one()
	}
	a.announce("$.A", "missed")
	l.one()
	a.announce("$.A", "heard")
	l.hears("v", "heard")
	if n, err := l.SetMaxMessages(s.ctx, 0); n != 2 || err != nil {
		t.Errorf("asked: %d, %v", n, err)
	}
	l.holds(1 << 31)
	l.holds(100)
}

// R3.3: own unanswered Requests hold places, for everybody's messages.
func TestHeldPlaces(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A"), s.replier("$.R"), s.open()
	a.holds(2)
	a.request("$.R", "1")
	b.announce("$.A", "heard")
	b.announce("$.A", "missed")
	r.reply(r.one(), "answer") // may use the place held
	a.unread(2)
	a.hears("heard", "answer")
	a.request("$.R", "2")
	b.announce("$.A", "x")
	r.Close() // a Status ignores the limit
	a.hears("x", ksock.StatusGoneAway)
}

// R3.4: reading nothing is no error; readable, writable.
func TestPolling(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	l.hears()
	l.poll(false, true)
	a.announce("$.A", "x")
	l.poll(true, true)
	l.hears("x")
	l.holds(1)
	a.announce("$.A", "x")
	a.fails(flagged(say("$.A", "y"), ksock.AllOrWait), unix.EAGAIN, true)
	a.poll(false, false)
	s.want("pending", a.Pending(), true)
	l.hears("x")
	a.poll(false, true)
	s.want("pending", a.Pending(), false)
	l.hears("y")
}

// R3.5, R3.6: one order for all, urgent ones in front, copy by copy.
func TestOrder(t *testing.T) {
	s := setStage(t)
	a, b := s.open(), s.open()
	l, m := s.listener("$.*"), s.listener("$.A", "$.A.*")
	a.announce("$.A", "1")
	b.announce("$.A", "2")
	a.announce("$.A.B", "3")
	l.hears("1", "2", "3")
	m.hears("1", "2", "3")
	a.announce("$.A", "1")
	a.send(flagged(say("$.A", "urgent 2"), ksock.Urgent))
	b.send(flagged(say("$.A", "urgent 3"), ksock.Urgent))
	l.hears("urgent 3", "urgent 2", "1")
	m.hears("urgent 3", "urgent 2", "1")
	// Of copies of one message the last one in is the first out: the Replier's.
	r := s.listener("$.R")
	r.bind("$.R", ksock.Replier)
	a.send(flagged(ask("$.R", "q"), ksock.Urgent))
	got := r.hears("q", "q")
	s.want("marked copies", [2]bool{got[0].MustReply(), got[1].MustReply()}, [2]bool{false, true})
}

// R3.7: what a Ksock can ask.
func TestQueries(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R", "$.W.*")
	s.want("replier", value(s, func() (uint32, error) { return a.Replier("$.R") }), r.ID())
	s.want("wildcard, literally", value(s, func() (uint32, error) { return a.Replier("$.W.*") }), r.ID())
	s.want("what the wildcard matches", value(s, func() (uint32, error) { return a.Replier("$.W.A") }), uint32(0))
	s.want("rubbish", value(s, func() (uint32, error) { return a.Replier("rubbish") }), uint32(0))
	for _, n := range []string{"", name1000(1001)} { // R1.4
		_, err := a.Replier(n)
		s.wantErr(err, unix.ENAMETOOLONG)
	}
	a.request("$.R", "1")
	a.request("$.R", "2")
	r.unread(2)
	r.unreplied(0)
	q := r.one()
	r.unread(1)
	r.unreplied(1)
	r.reply(q, "")
	r.unreplied(0)
	r.unbind("$.R", ksock.Replier)
	s.want("unbound", value(s, func() (uint32, error) { return a.Replier("$.R") }), uint32(0))
}

// R3.8: which errors come first, and which of them use an id.
func TestOrderOfChecks(t *testing.T) {
	s := setStage(t)
	a, r, full := s.open(), s.replier("$.R"), s.listener("$.F")
	full.holds(1)
	a.announce("$.F", "x")
	both := uint32(ksock.AllOrFail | ksock.AllOrWait)
	big := make([]byte, 500000)

	// First those that leave last sent alone.
	a.fails(flagged(say(name1000(1001), ""), both), unix.ENAMETOOLONG, false)
	a.fails(flagged(say("", ""), both), unix.EINVAL, false)
	a.fails(flagged(ksock.Announce("$", big), both), unix.EINVAL, false)
	a.fails(ksock.Announce("$", big), unix.EMSGSIZE, false)
	a.fails(say("$", ""), unix.EBADMSG, false)
	a.holds(1)
	a.request("$.R", "")
	a.fails(ask("$.Nobody", ""), unix.ENOLCK, false)
	a.holds(100)

	// Then those that have an id.
	a.fails(ask("$.Nobody", ""), unix.EADDRNOTAVAIL, true)
	reply := say("$.A", "")
	reply.InReplyTo, reply.To = ksock.MessageID{Serial: 1}, 99
	a.fails(reply, ksock.ErrAskerGone, true)
	reply.To = full.ID()
	a.fails(reply, unix.ECONNREFUSED, true)
	other := ask("$.R", "")
	other.To = a.ID()
	r.holds(1)
	a.fails(other, unix.EPIPE, true) // not EBUSY: the queue of r is full
	a.fails(ask("$.R", ""), unix.EBUSY, true)
	a.fails(flagged(ask("$.R", ""), ksock.AllOrWait), unix.EAGAIN, true)
	a.fails(flagged(say("", ""), both), unix.EALREADY, false)
}

// R3.9: the switches.
func TestSwitches(t *testing.T) {
	s := setStage(t)
	a, b := s.open(), s.open()
	type set func(context.Context, ksock.Switch) (bool, error)
	for _, f := range []set{a.SetOnlyOnce, a.SetReportReplierBinds} {
		for _, c := range []struct {
			to   ksock.Switch
			was  bool
			want error
		}{
			{ksock.AskOnly, false, nil}, {ksock.On, false, nil}, {ksock.AskOnly, true, nil}, {2, false, unix.EINVAL},
			{ksock.On, true, nil}, {ksock.Off, true, nil}, {ksock.AskOnly, false, nil}, {ksock.On, false, nil},
		} {
			was, err := f(s.ctx, c.to)
			s.wantErr(err, c.want)
			s.want("setting before", was, c.was)
		}
	}
	for f, want := range map[*set]bool{ptr(set(b.SetOnlyOnce)): false, ptr(set(b.SetReportReplierBinds)): true} {
		was, err := (*f)(s.ctx, ksock.AskOnly) // one is the Ksock's, one the bus's
		s.wantErr(err, nil)
		s.want("setting of another Ksock", was, want)
	}
}

func ptr[T any](v T) *T { return &v }
