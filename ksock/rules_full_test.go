package ksock_test

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// R6.1: room is judged once for each recipient, as it was before the send.
func TestRoom(t *testing.T) {
	s := setStage(t)
	a, l, m := s.open(), s.listener("$.A", "$.A", "$.A"), s.listener("$.A")
	l.holds(2)
	a.announce("$.A", "1") // three copies into a queue for two
	l.unread(3)
	a.announce("$.A", "2")
	l.hears("1", "1", "1")
	m.hears("1", "2")
	// A Reply comes without the Listener's copy.
	b, r := s.listener("$.R"), s.replier("$.R")
	b.holds(1)
	b.request("$.R", "q") // the place that it will hold does not count: its own copy comes
	q := r.one()
	r.fails(ksock.ReplyTo(q, nil), unix.EBUSY, true) // R5.5
	b.hears("q")
	r.reply(q, "answer") // nor does the place that this frees
	b.hears("answer")
}

// R6.2: all or nobody.
func TestAllOrFail(t *testing.T) {
	s := setStage(t)
	a, free, full := s.open(), s.listener("$.A"), s.listener("$.A")
	full.holds(1)
	a.announce("$.A", "1")
	a.fails(flagged(say("$.A", "2"), ksock.AllOrFail), ksock.ErrQueueFull, true)
	free.hears("1")
	full.hears("1")
	a.send(flagged(say("$.A", "3"), ksock.AllOrFail))
	free.hears("3")
	full.hears("3")
}

// R6.3, R6.4: the Replier is never passed over, nor the asker; on a Reply the send flags do nothing.
func TestNeverPassedOver(t *testing.T) {
	s := setStage(t)
	a, r, full := s.open(), s.replier("$.R"), s.listener("$.R")
	full.holds(1)
	a.request("$.R", "q")
	q := r.one()
	for _, f := range []uint32{ksock.AllOrFail, ksock.AllOrWait} {
		reply := flagged(ksock.ReplyTo(q, []byte("answer")), f)
		r.send(reply)
		s.want("flags", a.one().Flags, f)
		full.hears("q")
		a.request("$.R", "q")
		q = r.one()
	}
	r.fails(flagged(ksock.ReplyTo(q, nil), ksock.AllOrFail|ksock.AllOrWait), unix.EINVAL, false)
}

// R6.5: a message waits in its Ksock.
func TestAllOrWait(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	l.holds(1)
	l.announce("$.A", "x")
	wait := flagged(say("$.A", "waits"), ksock.AllOrWait)
	id := func() ksock.MessageID { return value(s, a.LastSent) }

	_, err := a.SendAgain()
	s.wantErr(err, ksock.ErrNothingToSend)
	s.wantErr(a.Discard(), nil)
	a.fails(wait, ksock.ErrWouldBlock, true)
	given := id()
	a.fails(say("$.B", "other"), ksock.ErrSendPending, false)
	_, err = a.SendAgain()
	s.wantErr(err, unix.EAGAIN)
	l.hears("x")
	got, err := a.SendAgain()
	s.wantErr(err, nil)
	s.want("id", got, given)
	s.want("id read", l.one().ID, given)

	// Recipients are worked out afresh: one more has come, one has gone.
	l.announce("$.A", "x")
	a.fails(wait, unix.EAGAIN, true)
	late := s.listener("$.A")
	l.unbind("$.A", ksock.Listener)
	a.poll(false, true)
	late.hears("waits")
	l.hears()
	l.listen("$.A")

	// Discarded, its id stays used.
	l.announce("$.A", "x")
	a.fails(wait, unix.EAGAIN, true)
	given = id()
	s.wantErr(a.Discard(), nil)
	s.want("last sent", id(), given)
	a.poll(false, true)
	s.want("next id", a.announce("$.B", "").Serial, given.Serial+1)
	l.hears("x")
	a.poll(false, true)
	l.hears()

	// A failure found by "send again" is returned and makes no Status.
	r := s.replier("$.R")
	r.holds(1)
	a.request("$.R", "")
	a.fails(flagged(ask("$.R", ""), ksock.AllOrWait), unix.EAGAIN, true)
	r.Close()
	_, err = a.SendAgain()
	s.wantErr(err, ksock.ErrNoReplier)
	a.hears(ksock.StatusGoneAway)
	a.poll(false, true)

	// It looks for a place for the answer; waiting does not.
	r = s.replier("$.R")
	r.holds(1)
	a.request("$.R", "1")
	a.fails(flagged(ask("$.R", "2"), ksock.AllOrWait), unix.EAGAIN, true)
	a.holds(1)
	q := r.one()
	_, err = a.SendAgain()
	s.wantErr(err, ksock.ErrNoReplyRoom)
	a.poll(false, true) // lost
	r.hears()
	a.holds(2)
	a.request("$.R", "3")
	a.holds(3)
	a.fails(flagged(ask("$.R", "4"), ksock.AllOrWait), unix.EAGAIN, true)
	a.holds(2)
	r.hears("3")
	a.poll(false, true)
	r.hears("4")
	r.fails(ksock.ReplyTo(q, nil), unix.EBUSY, true) // over its limit: R5.5
	a.holds(3)
	r.reply(q, "answer 1")
	a.hears("answer 1")
}

// R6.6: who waits to send is woken by whatever may let it go on.
func TestWhatWakesASender(t *testing.T) {
	for what, free := range map[string]func(l *actor){
		"a read":         func(l *actor) { l.one() },
		"an unbind":      func(l *actor) { l.unbind("$.A", ksock.Listener) },
		"a raised limit": func(l *actor) { l.holds(3) },
		"a close":        func(l *actor) { l.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			s := setStage(t)
			a, l := s.open(), s.listener("$.A")
			s.replier("$.Q")
			l.holds(2)
			l.request("$.Q", "") // holds a place
			l.announce("$.A", "x")
			sent := make(chan error, 1)
			go func() {
				_, err := a.Send(s.ctx, flagged(say("$.A", "waits"), ksock.AllOrWait))
				sent <- err
			}()
			for !a.Pending() {
				runtime.Gosched()
			}
			free(l)
			s.wantErr(<-sent, nil)
		})
	}
	t.Run("its Replier's going", func(t *testing.T) {
		s := setStage(t)
		a, r := s.open(), s.replier("$.R")
		r.holds(1)
		a.request("$.R", "1")
		sent := make(chan error, 1)
		go func() {
			_, err := a.Send(s.ctx, flagged(ask("$.R", "2"), ksock.AllOrWait))
			sent <- err
		}()
		for !a.Pending() {
			runtime.Gosched()
		}
		r.Close()
		s.wantErr(<-sent, nil)
		// Closing takes several entries of the log, and the sender may be woken
		// between them: either may come first.
		got := map[string]bool{}
		for range 2 {
			m, err := a.Next(s.ctx)
			s.wantErr(err, nil)
			got[m.Name] = true
		}
		s.want("both", got[ksock.StatusGoneAway] && got[ksock.StatusDisappeared], true)
	})
}

// R6.7: who never reads delays nobody.
func TestSlowReader(t *testing.T) {
	s := setStage(t)
	a, slow, l := s.open(), s.listener("$.A"), s.listener("$.A")
	slow.holds(3)
	for i := range 500 {
		a.announce("$.A", string(rune('a'+i%26)))
		l.hears(string(rune('a' + i%26)))
	}
	slow.hears("a", "b", "c")
}
