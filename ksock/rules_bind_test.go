package ksock_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// R4.1, R4.6: one copy for each matching binding.
func TestCopies(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A", "$.A", "$.*", "$.B")
	a.announce("$.A", "x")
	l.hears("x", "x", "x")
	l.unbind("$.A", ksock.Listener)
	a.announce("$.A", "y")
	l.hears("y", "y")
}

// R4.2: one Replier for each name string.
func TestOneReplier(t *testing.T) {
	s := setStage(t)
	a, b := s.open(), s.open()
	a.bind("$.R", ksock.Replier)
	for _, k := range []*actor{a, b} {
		s.wantErr(k.Bind(s.ctx, "$.R", ksock.Replier), unix.EADDRINUSE)
		s.wantErr(k.Bind(s.ctx, "$.R", ksock.Replier), ksock.ErrReplierExists)
	}
	b.bind("$.*", ksock.Replier) // overlaps, but is another string
	b.bind("$.%", ksock.Replier)
	a.unbind("$.R", ksock.Replier)
	b.bind("$.R", ksock.Replier)
}

// R4.3: the most specific Replier's binding wins.
func TestMostSpecific(t *testing.T) {
	s := setStage(t)
	a := s.open()
	names := []string{"$.*", "$.A.*", "$.A.B.*", "$.A.B.%", "$.A.B.C"}
	repliers := make([]*actor, len(names))
	for i, n := range names {
		repliers[i] = s.replier(n)
	}
	for i := len(names) - 1; i >= 0; i-- {
		a.request("$.A.B.C", names[i])
		repliers[i].hears(names[i])
		repliers[i].Close()
		a.one() // the Status
	}
	a.fails(ask("$.A.B.C", ""), unix.EADDRNOTAVAIL, true)
}

// R4.4: unbinding names a binding of this Ksock; of identical ones the newest goes.
func TestUnbind(t *testing.T) {
	s := setStage(t)
	a, l, o := s.open(), s.listener("$.A"), s.replier("$.A")
	for name, role := range map[string]ksock.Role{"$.B": ksock.Listener, "$.*": ksock.Listener, "$.A": ksock.Replier} {
		err := l.Unbind(s.ctx, name, role)
		s.wantErr(err, unix.EINVAL)
		s.wantErr(err, ksock.ErrNotBound)
	}
	a.announce("$.A", "old")
	l.listen("$.A")
	a.announce("$.A", "both")
	l.unbind("$.A", ksock.Listener)
	l.hears("old", "both")
	l.unbind("$.A", ksock.Listener)
	s.wantErr(l.Unbind(s.ctx, "$.A", ksock.Listener), unix.EINVAL)
	o.unbind("$.A", ksock.Replier)
}

// R4.5: what came by a binding goes with it, and nothing else.
func TestUnbindEmptiesQueue(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.listener("$.*")
	r.bind("$.R", ksock.Replier)
	r.listen("$.A")
	a.request("$.R", "read")
	read := r.one()
	a.announce("$.A", "a")
	first, second := a.request("$.R", "q1"), a.request("$.R", "q2")
	r.request("$.R", "to myself")
	r.unbind("$.R", ksock.Replier)
	r.unbind("$.A", ksock.Listener)
	got := r.hears("read", "a", "q1", "q2", "to myself", ksock.StatusUnbound)
	for _, m := range got {
		s.want("marked", m.MustReply(), false)
	}
	statuses := a.hears(ksock.StatusUnbound, ksock.StatusUnbound)
	s.want("Statuses in queue order", [2]ksock.MessageID{statuses[0].InReplyTo, statuses[1].InReplyTo}, [2]ksock.MessageID{first, second})
	s.want("from", statuses[0].From, r.ID())
	r.reply(read, "late, but good")
	a.hears("late, but good")
}

// R4.6: only once.
func TestOnlyOnce(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A", "$.*", "$.A")
	if _, err := l.SetOnlyOnce(s.ctx, ksock.On); err != nil {
		t.Fatal(err)
	}
	a.announce("$.A", "x")
	l.hears("x")
	// Two sends of one id are two.
	m := say("$.A", "y")
	m.ID = ksock.MessageID{Network: 3, Serial: 1}
	a.send(m)
	a.send(m)
	l.hears("y", "y")
	// The Replier's copy is the one.
	l.bind("$.R", ksock.Replier)
	a.request("$.R", "q")
	s.want("marked", l.hears("q")[0].MustReply(), true)
	// The newest binding's: unbinding it takes the message away.
	a.announce("$.A", "z")
	l.unbind("$.A", ksock.Listener)
	l.hears()
	// The Reply, not the Listener's copy of it.
	r := s.replier("$.Q")
	l.request("$.Q", "q")
	r.reply(r.one(), "answer")
	l.unbind("$.*", ksock.Listener)
	l.hears("answer")
}

// R4.7: Reply, then the Replier's copy, then Listeners' by age.
func TestOrderOfCopies(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.listener("$.R")
	r.bind("$.R", ksock.Replier)
	r.listen("$.*")
	a.request("$.R", "q")
	var marked []bool
	for _, m := range r.hears("q", "q", "q") {
		marked = append(marked, m.MustReply())
	}
	if len(marked) != 3 || !marked[0] || marked[1] || marked[2] {
		t.Errorf("marked: %v", marked)
	}
	// Which of the two Listener's copies came first shows when its binding goes.
	a.announce("$.R", "x")
	r.unbind("$.*", ksock.Listener)
	a.announce("$.R", "y")
	r.hears("x", "y")
}

// R4.8: what closing does, and in which order.
func TestClosing(t *testing.T) {
	s := setStage(t)
	a, watch := s.open(), s.listener(ksock.ReplierBindEvent, "$.KBUS.Replier.*")
	r := s.replier("$.R1", "$.R2")
	r.listen("$.A")
	if _, err := watch.SetReportReplierBinds(s.ctx, ksock.On); err != nil {
		t.Fatal(err)
	}
	watch.hears(ksock.ReplierBindEvent, ksock.ReplierBindEvent)
	var ids []ksock.MessageID
	for _, n := range []string{"$.R1", "$.R2", "$.R1", "$.R2"} {
		ids = append(ids, a.request(n, ""))
	}
	r.one()
	r.one()
	r.request("$.R1", "to myself")
	other := s.replier("$.Other")
	watch.hears(ksock.ReplierBindEvent)
	r.request("$.Other", "never withdrawn")
	last := a.announce("$.Unheard", "")
	r.Close()

	got := a.hears(ksock.StatusGoneAway, ksock.StatusGoneAway, ksock.StatusIgnored, ksock.StatusIgnored)
	for i, want := range []int{2, 3, 1, 0} {
		s.want("Status for", got[i].InReplyTo, ids[want])
		s.want("from", got[i].From, r.ID())
	}
	events := watch.hears(ksock.ReplierBindEvent, ksock.ReplierBindEvent)
	for i, want := range []string{"$.R2", "$.R1"} { // newest first
		e, ok := ksock.ParseBindEvent(events[i])
		s.want("event", [2]any{e, ok}, [2]any{ksock.BindEvent{Bound: false, Binder: r.ID(), Name: want}, true})
	}
	// GoneAway twice, and once to itself, then the events, then Ignored twice: all use ids.
	serial := func(n uint32) ksock.MessageID { return ksock.MessageID{Serial: last.Serial + n} }
	s.want("GoneAway", got[0].ID, serial(1))
	s.want("GoneAway", got[1].ID, serial(2))
	s.want("first event", events[0].ID, serial(4))
	s.want("second event", events[1].ID, serial(5))
	s.want("Ignored", got[2].ID, serial(6))
	s.want("Ignored", got[3].ID, serial(7))
	// Its own Request to another can still be read; nobody waits for the Reply.
	q := other.one()
	other.fails(ksock.ReplyTo(q, nil), ksock.ErrAskerGone, true)
}
