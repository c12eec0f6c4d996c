package model

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestRoomIsJudgedOnce(t *testing.T) { // R6.1
	b := start(t)
	s, l, other := b.open(), b.open(), b.open()
	b.listen(l, "$.A", "$.A", "$.A")
	b.listen(other, "$.A")
	b.limit(l, 1)
	b.sends(s, announce("$.A", "1"), 1) // all its copies, over the limit
	b.sends(s, announce("$.A", "2"), 2) // none
	b.gets(l, "1 A=1", "1 A=1", "1 A=1")
	b.gets(other, "1 A=1", "2 A=2")
}

func TestOwnPlacesDoNotCount(t *testing.T) { // R6.1
	b := start(t)
	s, r := b.open(), b.open()
	b.reply(r, "$.Q")
	b.listen(s, "$.Q")
	b.limit(s, 1)
	b.sends(s, ask("$.Q", ""), 1) // the place that it will hold does not count against its own copy
	b.gets(r, "1 Q?!")
	b.fails(r, answerTo(s, 1, ""), unix.EBUSY, true)
	b.gets(s, "1 Q?")
	b.no(b.Unbind(s, "$.Q", false))
	b.listen(s, "$.A")
	b.sends(r, answerTo(s, 1, ""), 3) // the place that it frees is not room for the Listener's copy
	b.gets(s, "3 A<1")

	a := b.open()
	b.limit(a, 1)
	b.reply(a, "$.Me")
	b.listen(a, "$.Me")
	b.sends(a, ask("$.Me", ""), 4) // judged as Replier and as Listener by the queue before
	b.gets(a, "4 Me?!", "4 Me?")
}

func TestAllOrFail(t *testing.T) { // R6.2
	b := start(t)
	s, r, l, m := b.open(), b.open(), b.open(), b.open()
	b.reply(r, "$.A")
	b.listen(l, "$.A")
	b.listen(m, "$.A")
	b.limit(l, 1)
	for i, message := range []Message{announce("$.A", ""), ask("$.A", "")} {
		b.sends(s, with(message, AllOrFail), uint32(2*i+1))
		b.fails(s, with(message, AllOrFail), unix.EBUSY, true)
		b.poll(s, false, true)
		b.unread(l, 1)
		b.unread(m, 1)
		for _, k := range []uint32{l, m} {
			if _, _, err := b.Next(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.gets(r, "3 A?!")
}

func TestSendFlagsOnReply(t *testing.T) { // R6.4
	for _, flag := range []uint32{AllOrFail, AllOrWait} {
		b := start(t)
		s, r, l := b.open(), b.open(), b.open()
		b.reply(r, "$.Q")
		b.listen(s, "$.T")
		b.listen(l, "$.A")
		b.limit(l, 1)
		b.sends(s, announce("$.A", "fill"), 1)
		b.sends(s, ask("$.Q", ""), 2)
		b.gets(r, "2 Q?!")
		b.fails(r, with(answerTo(s, 2, ""), AllOrFail|AllOrWait), unix.EINVAL, false)
		b.limit(s, 1)
		b.sends(r, announce("$.T", "missed"), 3)
		b.sends(r, with(answerTo(s, 2, "a"), flag), 4) // the full Listener misses it
		b.gets(s, "4 A<2=a")
		b.gets(l, "1 A=fill")

		b.sends(s, ask("$.Q", ""), 5)
		b.limit(s, 3)
		b.sends(r, announce("$.T", "x"), 6)
		b.limit(s, 1)
		b.gets(r, "5 Q?!")
		b.fails(r, with(answerTo(s, 5, ""), flag), unix.EBUSY, true) // and does not wait
		b.poll(r, false, true)
	}
}

func TestAllOrWait(t *testing.T) { // R6.5
	b := start(t)
	s, l, m := b.open(), b.open(), b.open()
	b.listen(l, "$.A")
	b.limit(l, 1)
	wait := func(data string) Message { return with(announce("$.A", data), AllOrWait) }
	b.sends(s, wait("1"), 1)
	b.fails(s, wait("2"), unix.EAGAIN, true)
	b.poll(s, false, false)
	b.fails(s, announce("$.B", ""), unix.EALREADY, false)
	b.fails(s, Message{}, unix.EALREADY, false)
	if pending, err := b.Pending(s); !pending || err != nil {
		t.Fatalf("Pending = %v, %v", pending, err)
	}
	_, err := b.SendAgain(s)
	b.is(err, unix.EAGAIN)
	b.listen(m, "$.A") // recipients are worked out afresh
	b.gets(l, "1 A=1")
	id, err := b.SendAgain(s) // EALREADY had left it untouched
	b.no(err)
	if id != (MessageID{0, 2}) || b.find(s).last != id {
		t.Errorf("it went out as %v, last sent is %v", id, b.find(s).last)
	}
	_, err = b.SendAgain(s)
	b.is(err, unix.ENOMSG)

	b.fails(s, wait("3"), unix.EAGAIN, true)
	b.no(b.Discard(s))
	b.no(b.Discard(s)) // nothing: no error
	b.poll(s, false, true)
	if b.find(s).last.Serial != 3 {
		t.Error("a discarded message is not last sent")
	}
	b.gets(l, "2 A=2")
	b.sends(s, wait("4"), 4)
	b.gets(m, "2 A=2", "4 A=4")
}

func TestPollSendsFirst(t *testing.T) { // R6.5
	b := start(t)
	a := b.open()
	b.listen(a, "$.A")
	b.limit(a, 1)
	b.sends(a, announce("$.A", "1"), 1)
	b.fails(a, with(announce("$.A", "2"), AllOrWait), unix.EAGAIN, true)
	b.poll(a, true, false)
	b.gets(a, "1 A=1")
	b.poll(a, true, true) // what it sent to itself is there already
	b.gets(a, "2 A=2")
}

// waiting returns a bus on which s waits with a Request to r, which is full.
func waiting(t *testing.T, to uint32) (b bus, s, r, x uint32) {
	b = start(t)
	s, r, x = b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.limit(r, 1)
	b.sends(x, ask("$.Q", "fill"), 1)
	b.fails(s, Message{Name: "$.Q", Flags: WantReply | AllOrWait, To: to}, unix.EAGAIN, true)
	return b, s, r, x
}

func TestWaitingRequestFails(t *testing.T) { // R5.6, R6.5
	b, s, r, _ := waiting(t, 0)
	b.no(b.Unbind(r, "$.Q", true))
	b.poll(s, true, true)
	b.gets(s, "4 Replier.Disappeared<2@0")
	b.poll(s, false, true)

	b, s, r, x := waiting(t, 2)
	b.no(b.Unbind(r, "$.Q", true))
	b.reply(x, "$.Q")
	b.poll(s, true, true)
	b.gets(s, "4 ErrorSending<2@0")

	b, s, r, _ = waiting(t, 0)
	b.no(b.Close(r))
	_, err := b.SendAgain(s)
	b.is(err, unix.EADDRNOTAVAIL) // told, so there is no Status
	b.poll(s, false, true)

	b, s, r, x = waiting(t, 2)
	b.no(b.Unbind(r, "$.Q", true))
	b.reply(x, "$.Q")
	_, err = b.SendAgain(s)
	b.is(err, unix.EPIPE)
	b.poll(s, false, true)
}

func TestWaitingRequestHoldsNoPlace(t *testing.T) { // R6.5
	setup := func() (b bus, s, r uint32) {
		b, s, r, x := waiting(t, 0)
		b.listen(s, "$.T")
		b.limit(s, 1)
		b.sends(x, announce("$.T", "takes the place"), 3)
		return b, s, r
	}
	b, s, _ := setup()
	_, err := b.SendAgain(s) // looks for a place first
	b.is(err, unix.ENOLCK)
	_, err = b.SendAgain(s) // the Request is lost, the Ksock free
	b.is(err, unix.ENOMSG)

	b, s, r := setup()
	b.gets(r, "1 Q?!=fill")
	b.poll(s, true, true) // does not look, and takes its asker over the limit
	b.gets(r, "2 Q?!")
	b.fails(r, answerTo(s, 2, ""), unix.EBUSY, true)
	b.gets(s, "3 T=takes the place")
	b.sends(r, answerTo(s, 2, ""), 5)

	b, s, r, _ = waiting(t, 0)
	other := b.open()
	b.no(b.Unbind(r, "$.Q", true))
	b.reply(other, "$.Q")
	b.poll(s, false, true)
	b.gets(other, "2 Q?!") // another Replier is as good
}
