package ksock_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// relay sends as a Limpet does and returns what came of it.
func (a *actor) relay(m *ksock.Message, copy bool) error {
	_, err := a.Relay(&m.Header, m.Data, copy)
	return err
}

// R8.5: from another bus ALL_OR_WAIT acts as ALL_OR_FAIL, and the flag stays.
func TestRelayNeverWaits(t *testing.T) {
	s := setStage(t)
	limpet, full, l, r := s.open(), s.listener("$.F"), s.listener("$.F"), s.replier("$.R")
	full.holds(1)
	m := flagged(say("$.F", "1"), ksock.AllOrWait)
	s.want("first", limpet.relay(m, false), nil)
	if err := limpet.relay(m, false); !errors.Is(err, unix.EBUSY) || limpet.Pending() {
		t.Errorf("with a full Listener: %v, pending %v", err, limpet.Pending())
	}
	if got := l.one(); got.Flags != ksock.AllOrWait {
		t.Errorf("flags %#x", got.Flags)
	}
	l.unread(0)
	r.holds(1)
	q := flagged(ask("$.R", "q"), ksock.AllOrWait)
	s.want("Request", limpet.relay(q, false), nil)
	if err := limpet.relay(q, false); !errors.Is(err, unix.EBUSY) || limpet.Pending() {
		t.Errorf("with a full Replier: %v, pending %v", err, limpet.Pending())
	}
	if got := r.one(); !got.MustReply() {
		t.Error("the Replier need not reply")
	}
}

// R8.9: a copy of a Request or Reply reaches Listeners and nobody else, holds no
// place, and nobody is asked to answer it or answered for it.
func TestRelayCopies(t *testing.T) {
	s := setStage(t)
	limpet, l, r := s.open(), s.listener("$.*"), s.replier("$.R")
	limpet.holds(1)
	user := uint32(0xabcd << 16)
	for range 200 { // far more than the Limpet has places
		m := flagged(ask("$.R", "q"), ksock.MustReply|ksock.Synthetic|user)
		m.ID, m.To = ksock.MessageID{Network: 2, Serial: 7}, 99 // a stateful one
		s.want("Request", limpet.relay(m, true), nil)
		got := l.one()
		if got.Flags != ksock.WantReply|user || got.To != 99 || got.ID != m.ID || got.From != limpet.ID() {
			t.Fatalf("the copy is %v", got)
		}
	}
	s.want("nobody replies to it", limpet.relay(ask("$.Nobody", "q"), true), nil)
	if got := l.one(); got.ID.Network != 0 || got.ID.Serial == 0 {
		t.Errorf("the copy has id %v", got.ID) // 0:0 takes a number
	}
	r.unread(0)
	limpet.unread(0)

	reply := say("$.R", "a")
	reply.To, reply.InReplyTo = l.ID(), ksock.MessageID{Serial: 1}
	s.want("Reply", limpet.relay(flagged(reply, ksock.AllOrWait), true), nil)
	if got := l.one(); got.InReplyTo != reply.InReplyTo || got.Flags != ksock.AllOrWait {
		t.Errorf("the copy is %v", got)
	}
	both := ask("$.R", "")
	both.InReplyTo = ksock.MessageID{Network: 2, Serial: 7}
	for _, bad := range []struct {
		m    *ksock.Message
		want unix.Errno
	}{
		{both, unix.EINVAL}, {say("$.%", ""), unix.EBADMSG}, {flagged(ask("$.R", ""), ksock.AllOrFail|ksock.AllOrWait), unix.EINVAL},
	} {
		if err := limpet.relay(bad.m, true); !errors.Is(err, bad.want) {
			t.Errorf("%v: %v", bad.m, err)
		}
	}
}

// R8.9: a copy of a Reply that bears the id of one's own Request is no answer to it.
func TestRelayedCopyIsNoAnswer(t *testing.T) {
	s := setStage(t)
	limpet, a, r := s.open(), s.listener("$.R"), s.replier("$.R")
	done := make(chan *ksock.Message)
	go func() {
		m, err := a.Call(s.ctx, ask("$.R", "q"))
		if err != nil {
			s.Error(err)
		}
		done <- m
	}()
	q, err := r.Next(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	false_ := ksock.ReplyTo(q, []byte("false"))
	s.want("copy", limpet.relay(false_, true), nil)
	l, err := limpet.Loan(len("false"))
	if err != nil {
		t.Fatal(err)
	}
	copy(l.Data(), "false")
	if _, err := limpet.RelayLoan(&false_.Header, l, true); err != nil {
		t.Fatal(err)
	}
	if _, err := limpet.RelayLoan(&false_.Header, l, true); !errors.Is(err, ksock.ErrInvalid) {
		t.Errorf("a Loan that is used up: %v", err)
	}
	r.reply(q, "true")
	if m := <-done; m == nil || string(m.Data) != "true" {
		t.Errorf("the answer is %v", m)
	}
	a.hears("q", "false", "false", "true")
}

// R8.4: a Limpet gets no copy of what it puts on the bus, which it would have to
// drop; but it needs room for it as any other Listener, and is asked as Replier.
func TestRelayComesBackToNobody(t *testing.T) {
	s := setStage(t)
	limpet, l := s.listener("$.*"), s.listener("$.*")
	for _, copy := range []bool{false, true} {
		s.want("relay", limpet.relay(say("$.A", "1"), copy), nil)
		l.one()
		limpet.unread(0)
	}
	if err := limpet.Bind(t.Context(), "$.R", ksock.Replier); err != nil {
		t.Fatal(err)
	}
	s.want("Request to itself", limpet.relay(ask("$.R", "q"), false), nil)
	if m := limpet.one(); !m.MustReply() {
		t.Errorf("read %v", m)
	}
	limpet.unread(0)
	l.one()
	limpet.holds(2) // one is held for the answer
	s.open().announce("$.A", "2")
	if err := limpet.relay(flagged(say("$.A", "3"), ksock.AllOrFail), false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("without room: %v", err)
	}
	s.want("plain", limpet.relay(say("$.A", "4"), false), nil)
	limpet.unread(1)
}
