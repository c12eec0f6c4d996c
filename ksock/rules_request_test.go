package ksock_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// R5.1 to R5.4: what keeps a Request from being sent.
func TestRequestErrors(t *testing.T) {
	s := setStage(t)
	a, r, o := s.open(), s.replier("$.R"), s.open()
	a.fails(ask("$.Nobody", ""), ksock.ErrNoReplier, true) // R5.1
	m := ask("$.R", "")
	m.To = o.ID()
	a.fails(m, ksock.ErrReplierChanged, true) // R5.2
	m.To = r.ID()
	a.send(m)
	a.holds(1)
	a.fails(m, ksock.ErrNoReplyRoom, false) // R5.3
	a.holds(100)
	r.holds(1)
	a.fails(m, ksock.ErrQueueFull, true) // R5.4
	r.one()
	r.unread(0)
}

// R5.5: a Reply goes to its asker, bound or not; if that has no room it can be tried again.
func TestReplies(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A"), s.replier("$.R"), s.open()
	a.request("$.R", "q")
	q := r.one()
	b.announce("$.A", "1")
	b.announce("$.A", "2")
	a.holds(1)
	r.fails(ksock.ReplyTo(q, nil), unix.EBUSY, true)
	r.unreplied(1)
	a.hears("1", "2")
	r.reply(q, "answer")
	r.unreplied(0)
	m := a.hears("answer")[0]
	s.want("Reply", [3]any{m.InReplyTo, m.To, m.From}, [3]any{q.ID, a.ID(), r.ID()})
	r.fails(ksock.ReplyTo(q, nil), ksock.ErrNotAsked, true)
}

// R5.6, R5.7: each Request is answered once, and what a Status looks like.
func TestStatuses(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.*")
	r := s.replier("$.R")
	check := func(m *ksock.Message, name string, id ksock.MessageID, from uint32) {
		t.Helper()
		want := ksock.Header{ID: m.ID, InReplyTo: id, To: a.ID(), From: from, Flags: ksock.Synthetic, Name: name}
		s.want("Status", m.Header, want)
		s.want("data", len(m.Data), 0)
		if !m.IsStatus() {
			t.Error("is no Status")
		}
	}
	send := func() ksock.MessageID {
		t.Helper()
		m := flagged(ask("$.R", "data"), ksock.Urgent)
		m.OrigFrom, m.FinalTo = ksock.EndPoint{Network: 1, Ksock: 2}, ksock.EndPoint{Network: 3, Ksock: 4}
		m.To = r.ID() // stateful ones are answered, too
		id := a.send(m)
		l.hears("data")
		return id
	}
	id := send()
	r.unbind("$.R", ksock.Replier)
	check(a.one(), ksock.StatusUnbound, id, r.ID())

	r.bind("$.R", ksock.Replier)
	unread := send()
	read := send()
	r.one() // the urgent one in front
	r.Close()
	check(a.one(), ksock.StatusGoneAway, unread, r.ID())
	check(a.one(), ksock.StatusIgnored, read, r.ID())
	a.hears()
	l.hears() // Listeners hear nothing of it
}

// R5.6: of a Request that waited and could not be sent.
func TestStatusesOfWaiting(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R")
	full := s.listener("$.R")
	full.holds(1)
	full.announce("$.R", "x")
	full.unread(1)
	id := func() ksock.MessageID { return value(s, a.LastSent) }

	a.fails(flagged(ask("$.R", ""), ksock.AllOrWait), unix.EAGAIN, true)
	r.Close()
	a.poll(true, true)
	m := a.one()
	s.want("Status", [3]any{m.Name, m.InReplyTo, m.From}, [3]any{ksock.StatusDisappeared, id(), uint32(0)})

	r = s.replier("$.R")
	stateful := flagged(ask("$.R", ""), ksock.AllOrWait)
	stateful.To = r.ID()
	a.fails(stateful, unix.EAGAIN, true)
	r.unbind("$.R", ksock.Replier)
	s.replier("$.R")
	a.poll(true, true)
	m = a.one()
	s.want("Status", [3]any{m.Name, m.InReplyTo, m.From}, [3]any{ksock.StatusErrorSending, id(), uint32(0)})
}

// R5.8: Listeners get copies of Requests and Replies; a Replier's binding gets only Requests.
func TestListenersHearAll(t *testing.T) {
	s := setStage(t)
	a, r := s.listener("$.R"), s.replier("$.R")
	l := s.listener("$.*")
	a.announce("$.R", "announcement")
	a.request("$.R", "request")
	q := r.hears("request")[0]
	r.reply(q, "reply")
	l.hears("announcement", "request", "reply")
	// The asker listens to what it sends, and to the answer.
	a.hears("announcement", "request", "reply", "reply")
}

// R5.9: only who has read the marked copy can answer, and each Reply settles one.
func TestWhoCanReply(t *testing.T) {
	s := setStage(t)
	a, b, r, o := s.open(), s.open(), s.replier("$.R"), s.listener("$.R")
	a.request("$.R", "q")
	copied := o.one()
	o.fails(ksock.ReplyTo(copied, nil), unix.ECONNREFUSED, true)
	r.fails(ksock.ReplyTo(copied, nil), unix.ECONNREFUSED, true) // before reading
	q := r.one()
	o.fails(ksock.ReplyTo(q, nil), unix.ECONNREFUSED, true)
	r.reply(q, "answer")
	a.hears("answer")
	// Equal ids of two askers, and of one.
	m := ask("$.R", "")
	m.ID = ksock.MessageID{Network: 9, Serial: 9}
	a.send(m)
	b.send(m)
	b.send(m)
	r.hears("$.R", "$.R", "$.R")
	reply := &ksock.Message{Header: ksock.Header{Name: "$.R", InReplyTo: m.ID, To: b.ID()}}
	r.send(reply)
	r.send(reply)
	r.fails(reply, unix.ECONNREFUSED, true)
	a.unread(0)
	b.unread(2)
	reply.To = a.ID()
	r.send(reply)
	a.unread(1)
}
