//go:build kbuscheck

package ring

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/check"
	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

// traps are configurations that are made for one mistake each: those of doc.go's
// traps that no other configuration leads to, and some more.
var traps = []checkCase{
	{
		// T4: the last of B's messages puts into the lane what was there before A's.
		name: "a late helper of a message, and the lane goes round with the same copies",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}, {}}, cfg: Config{QueueSlots: 2}, open: true,
			before: func(s *checkSim) {
				for range 4 {
					s.send(2, Header{Name: "$.A"}, "first")
					s.take(3)
				}
				s.stopPlanned(1, Header{Name: "$.A"}, "a", false)
			},
		},
		run: func(w *check.World, s *checkSim) {
			s.dead[1] = true
			w.Go("H", func() { must(s.k[4].send.idle()) })
			w.Go("B", func() {
				s.send(2, Header{Name: "$.A"}, "1")
				s.take(3)
				s.take(3)
				for i := range 3 {
					s.send(2, Header{Name: "$.A"}, fmt.Sprint(i+2))
					if i < 2 {
						s.take(3)
					}
				}
			})
		},
	},
	{
		// T7: once the queue was found full, the urgent message is the first.
		name: "a reader between its lanes, an urgent message, and then the queue is full",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {max: 2, binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				s.send(1, Header{Name: "$.A", Flags: Urgent}, "u")
				s.send(1, Header{Name: "$.A", Flags: AllOrFail}, "f")
			})
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		// T9: the queue is the same before and after.
		name: "an unbind that removes nothing, and a late helper",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A", "$.B")}, {}}, cfg: Config{MaxBindings: 2},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.B", false) })
			w.Go("H", func() { must(s.k[3].send.idle()) })
		},
	},
	{
		// T10: the Ksock was closed while one of its threads was about to send.
		name: "a process dies in a send after its Ksock was closed, and is reaped", die: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}, {}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { _, _ = s.k[1].Send(&Header{Name: "$.A", Flags: Urgent}, []byte("a")) })
			w.Go("H", func() { must(s.k[3].send.idle()) })
			w.Go("supervisor", func() {
				must0(s.admin.Close(1))
				if w.AwaitEnd("A") {
					must0(s.admin.Reap(1))
				}
			})
			// The model has no sends of closed Ksocks.
			w.AtEnd(func() error {
				if err := s.invariants(); err != nil {
					return err
				}
				return s.noLeaksAfter(2)
			})
		},
	},
	{
		// T12: two tries with different outcomes.
		name: "a late helper of a claimed entry, and the same sender's next one",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}, {}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				s.send(1, Header{Name: "$.A", Flags: Urgent | AllOrFail}, "a")
				s.send(1, Header{Name: "$.A", Flags: Urgent | AllOrFail}, "b")
			})
			w.Go("H", func() { must(s.k[3].send.idle()) })
		},
	},
	{
		// T13: the last of a group dies before it tells the head.
		name: "a tree of bits, a late helper, and the last reader dies", die: []string{"L"},
		bus: checkBus{
			ksocks: []checkKsock{{}, {binds: listener(many("$.A", 16)...)}, {binds: listener("$.A")}, {}},
			cfg:    Config{QueueSlots: 16}, open: true,
			before: func(s *checkSim) {
				all := func() {
					for range 16 {
						s.take(2)
					}
				}
				s.send(1, Header{Name: "$.A"}, "first") // for a block of that size to be at hand
				all()
				s.take(3)
				s.stopPlanned(1, Header{Name: "$.A"}, "a", true)
				all()
			},
		},
		run: func(w *check.World, s *checkSim) {
			s.dead[1] = true
			w.Go("H", func() { must(s.k[4].send.idle()) })
			w.Go("L", func() { s.take(3) })
			w.Go("supervisor", func() {
				if w.AwaitEnd("L") {
					s.reap(s.takeOver(), 3)
				}
			})
		},
	},
	{
		name: "two events kept aside, and then room for both",
		bus: checkBus{
			ksocks:  []checkKsock{{blocks: 1}, {max: 1, binds: listener(ReplierBindEvent)}, {binds: []checkBind{{"$.R", true}, {"$.Q", true}}}},
			reports: true,
			before:  func(s *checkSim) { s.send(1, Header{Name: ReplierBindEvent}, "first"); s.reap(s.admin, 3) },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.maxMessages(s.admin, 2, 3) })
		},
	},
	{
		name: "two senders sleep until there is room for both",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {blocks: 1}, {max: 2, binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "1"); s.send(1, Header{Name: "$.A"}, "2") },
		},
		run: func(w *check.World, s *checkSim) {
			for i, name := range []string{"A", "B"} {
				w.Go(name, func() {
					_, err := s.k[i+1].Send(&Header{Name: "$.A", Flags: AllOrWait}, []byte(name))
					if err == unix.EAGAIN {
						err = s.k[i+1].WaitWritable(context.Background(), 0)
					}
					if err != nil {
						w.Fail("send: %v", err)
					}
				})
			}
			w.Go("L", func() { _ = drain(s.k[3]); _ = drain(s.k[3]) })
			w.AtEnd(func() error { return s.noLeaksAfter(3) })
		},
	},
	{
		name: "a sender sleeps for the place that another took while the reader looked",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {blocks: 1}, {max: 2, binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				_, err := s.k[1].Send(&Header{Name: "$.A", Flags: AllOrWait}, []byte("a"))
				if err == unix.EAGAIN {
					err = s.k[1].WaitWritable(context.Background(), 0)
				}
				if err != nil {
					w.Fail("send: %v", err)
				}
			})
			w.Go("B", func() { must(s.k[2].Send(&Header{Name: "$.A"}, []byte("b"))) })
			w.Go("L", func() { _ = drain(s.k[3]) })
			w.AtEnd(func() error { return s.noLeaksAfter(3) })
		},
	},
	{
		name: "a bind in the cell of one that was undone, against two senders",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}, {binds: listener("$.B")}}, cfg: Config{MaxBindings: 2},
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("supervisor", func() {
				s.unbind(s.admin, 4, "$.B", false)
				s.bind(s.admin, 4, "$.A", false)
			})
		},
	},
	{
		name: "a message in its reader's hands, and its sender goes on",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.send(1, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
}

// many is n times the same.
func many(s string, n int) (l []string) {
	for range n {
		l = append(l, s)
	}
	return l
}

// stopPlanned sends as the Ksock of a slot, whose process stops for good, or dies
// and nobody hears of it, while it carries out its plan, which is the one that
// counts: before the plan's first step, or after its last.
func (s *checkSim) stopPlanned(slot int, h Header, data string, last bool) {
	m := model.Message{Flags: h.Flags, Name: h.Name, Data: data}
	must(s.def.model.Send(uint32(slot), m))
	u := &untilPlanned{cur: &s.k[slot].b.w[wCur], last: last}
	shm.SetScheduler(u)
	defer shm.SetScheduler(nil)
	if u.run(1<<30, func() { must(s.k[slot].Send(&h, []byte(data))) }) {
		panic(fmt.Sprint("the send has come to its end: ", m))
	}
}

// untilPlanned ends a process at its first write while a plan is being carried
// out, or at that which ends the plan.
type untilPlanned struct {
	cutter
	cur  *shm.Word
	last bool
}

func (u *untilPlanned) Before(w *shm.Word, op shm.Op) {
	if op != shm.OpLoad && curPhase(u.cur.Load()) == curPlanned && (w == u.cur || !u.last) {
		panic(cutOff{})
	}
}
