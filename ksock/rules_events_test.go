package ksock_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/supervisor"
)

func (a *actor) report(on ksock.Switch) {
	a.s.Helper()
	if _, err := a.SetReportReplierBinds(a.s.ctx, on); err != nil {
		a.s.Fatal(err)
	}
}

// events takes the bind events of the queue and wants these.
func (a *actor) events(want ...ksock.BindEvent) {
	a.s.Helper()
	for _, w := range want {
		m := a.one()
		e, ok := ksock.ParseBindEvent(m)
		if !ok || e != w {
			a.s.Errorf("got %v, %+v, want %+v", m, e, w)
		}
		a.s.want("flags", m.Flags, uint32(ksock.Synthetic|ksock.AllOrFail))
		a.s.want("to and from", [2]uint32{m.To, m.From}, [2]uint32{0, 0})
	}
	a.hears()
}

// R7.1: binds and unbinds of Repliers are reported, to whoever listens.
func TestBindEvents(t *testing.T) {
	s := setStage(t)
	l, on := s.listener(ksock.ReplierBindEvent), s.open()
	r := s.replier("$.Before")
	on.report(ksock.On)
	on.events(ksock.BindEvent{Bound: true, Binder: r.ID(), Name: "$.Before"})
	on.Close() // the switch outlives it
	r.bind("$.R.*", ksock.Replier)
	r.listen("$.R") // is not reported
	r.unbind("$.R.*", ksock.Replier)
	l.events(ksock.BindEvent{Bound: true, Binder: r.ID(), Name: "$.R.*"}, ksock.BindEvent{Bound: false, Binder: r.ID(), Name: "$.R.*"})
	// An unbind's event comes before its Statuses.
	a := s.listener(ksock.ReplierBindEvent)
	a.request("$.Before", "")
	r.unbind("$.Before", ksock.Replier)
	a.hears(ksock.ReplierBindEvent, ksock.StatusUnbound)
	l.report(ksock.Off)
	l.hears(ksock.ReplierBindEvent)
	r.bind("$.R", ksock.Replier)
	l.hears()
}

// R7.2: switching on tells of the Repliers that there are, newest first; if they do not fit nothing happens.
func TestEventsForTheSwitcher(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R1", "$.R2")
	event := func(n string) ksock.BindEvent { return ksock.BindEvent{Bound: true, Binder: r.ID(), Name: n} }
	before := a.announce("$.A", "")
	a.holds(1)
	_, err := a.SetReportReplierBinds(s.ctx, ksock.On)
	s.wantErr(err, unix.EBUSY)
	was, err := a.SetReportReplierBinds(s.ctx, ksock.AskOnly)
	s.want("still off", [2]any{was, err}, [2]any{false, nil})
	s.want("no id used", a.announce("$.A", "").Serial, before.Serial+1)
	a.holds(2)
	a.report(ksock.On)
	a.events(event("$.R2"), event("$.R1"))
	a.report(ksock.On) // each time
	a.events(event("$.R2"), event("$.R1"))
}

// R7.3: a Listener of the events without room stops a bind and an unbind.
func TestEventsThatDoNotFit(t *testing.T) {
	s := setStage(t)
	l, r, a := s.listener(ksock.ReplierBindEvent), s.open(), s.open()
	l.report(ksock.On)
	l.holds(1)
	r.bind("$.R", ksock.Replier)
	before := a.announce("$.A", "")
	s.wantErr(r.Bind(s.ctx, "$.S", ksock.Replier), ksock.ErrWouldBlock)
	s.wantErr(r.Unbind(s.ctx, "$.R", ksock.Replier), unix.EAGAIN)
	s.want("one id for each", a.announce("$.A", "").Serial, before.Serial+3)
	s.wantErr(r.Bind(s.ctx, "$.R", ksock.Replier), unix.EADDRINUSE)
	s.wantErr(r.Unbind(s.ctx, "$.S", ksock.Replier), unix.EINVAL)
	s.want("bound", value(s, func() (uint32, error) { return a.Replier("$.S") }), uint32(0))
	l.one()
	r.unbind("$.R", ksock.Replier)
	l.events(ksock.BindEvent{Bound: false, Binder: r.ID(), Name: "$.R"})
}

// R7.4: a closing Replier's events that find no room are kept aside.
func TestKeptEvents(t *testing.T) {
	s := setStage(t)
	l, r, a := s.listener(ksock.ReplierBindEvent), s.replier("$.R1", "$.R2", "$.R3"), s.open()
	id := r.ID()
	l.report(ksock.On)
	l.hears(ksock.ReplierBindEvent, ksock.ReplierBindEvent, ksock.ReplierBindEvent)
	l.holds(1)
	r.Close()
	l.unread(3) // they count in R3.7
	event := func(n string) ksock.BindEvent { return ksock.BindEvent{Binder: id, Name: n} }
	l.events(event("$.R3"), event("$.R2"), event("$.R1"))
	l.unread(0)

	// Unbinding takes them along, and nothing else.
	r = s.replier("$.R4")
	l.one()
	r.bind("$.R5", ksock.Replier)
	r.Close()
	l.listen("$.A")
	l.unbind(ksock.ReplierBindEvent, ksock.Listener)
	l.unread(0)
	a.announce("$.A", "heard")
	l.hears("heard")
}

// R7.4: past the limit, one UnbindEventsLost for all that is missed.
func TestLostEvents(t *testing.T) {
	o := supervisor.Options{Bus: small}
	o.Bus.KeptEvents = 2
	s := setStageWith(t, o)
	l, r := s.listener(ksock.ReplierBindEvent), s.replier("$.R1", "$.R2", "$.R3", "$.R4", "$.R5")
	l.holds(10)
	l.report(ksock.On)
	for range 5 {
		l.one()
	}
	l.holds(1)
	r.Close()
	l.unread(4)
	for _, want := range []string{"$.R5", "$.R4", "$.R3"} {
		e, ok := ksock.ParseBindEvent(l.one())
		s.want("event", [2]any{e, ok}, [2]any{ksock.BindEvent{Binder: r.ID(), Name: want}, true})
	}
	m := l.one()
	want := ksock.Header{ID: m.ID, Flags: ksock.Synthetic, Name: ksock.UnbindEventsLost}
	s.want("the last", m.Header, want)
	l.unread(0)
}
