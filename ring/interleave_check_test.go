//go:build kbuscheck

package ring

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/check"
	"kbus.internal/ring/model"
)

// A checkCase is a configuration whose interleavings are explored.
type checkCase struct {
	name      string
	bus       checkBus
	run       func(w *check.World, s *checkSim)
	die, stop []string // processes that may die, of which the supervisor is told, or stop for good
	partly    bool     // too large to be explored to the end
	marks     bool     // small enough to be explored without the code's promises (TestCheckMarks)
}

var (
	listener = func(names ...string) (l []checkBind) {
		for _, n := range names {
			l = append(l, checkBind{n, false})
		}
		return l
	}
	replier = []checkBind{{"$.R", true}}
	request = Header{Name: "$.R", Flags: WantReply}
)

// bothLanes has a message in each lane of who listens to $.A.
func bothLanes(s *checkSim) {
	s.send(1, Header{Name: "$.A"}, "first")
	s.send(1, Header{Name: "$.A", Flags: Urgent}, "second")
}

// reaper is the supervisor after the death of the process of that name, the Ksock
// in slot's.
func (s *checkSim) reaper(w *check.World, name string, slot int) {
	w.Go("supervisor", func() {
		if w.AwaitEnd(name) {
			s.reap(s.admin, slot)
		}
	})
}

// await waits as a reader does, and then takes a message.
func (s *checkSim) await(w *check.World, slot int) {
	if err := s.k[slot].WaitReadable(context.Background(), 0); err != nil {
		w.Fail("wait: %v", err)
	}
	if s.take(slot) == "none" {
		w.Fail("readable, but nothing to read")
	}
}

var checkCases = []checkCase{
	{
		name: "two senders, one Listener",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.take(3); s.take(3) })
		},
	},
	{
		name: "two senders, a Listener that sleeps", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.await(w, 3); s.await(w, 3) })
		},
	},
	{
		name: "a sender, a Listener that sleeps",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.send(1, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.await(w, 2); s.await(w, 2) })
		},
	},
	{
		name: "a batch, and a Listener",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendBatch(1, 2, "$.A", 0) })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "a batch against a bind",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}, {blocks: 1}}, cfg: Config{MaxBindings: 3}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendBatch(1, 2, "$.A", 0) })
			w.Go("supervisor", func() { s.bind(s.admin, 3, "$.A", false); s.send(3, Header{Name: "$.B"}, "after it") })
		},
	},
	{
		name: "a batch against a sender, two Listeners", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 2}, {blocks: 1}, {binds: listener("$.A")}, {binds: listener("$.A", "$.%")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendBatch(1, 2, "$.A", 0) })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L1", func() { s.take(3); s.take(3) })
			w.Go("L2", func() { s.take(4) })
		},
	},
	{
		name: "a batch for which there is no room, and a reader who makes some",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 3}, {max: 2, binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendBatch(1, 3, "$.A", AllOrWait); s.sendAgain(1) })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "one sender, two Listeners, and back", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1, binds: listener("$.B")}, {blocks: 1, binds: listener("$.A")}, {blocks: 1, binds: listener("$.A", "$.%")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.take(1) })
			w.Go("L1", func() {
				if s.take(2) != "none" {
					s.send(2, Header{Name: "$.B"}, "b")
				}
			})
			w.Go("L2", func() { s.take(3); s.take(3) })
		},
	},
	{
		name: "Request and Reply", marks: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?"); s.take(1) })
			w.Go("replier", func() { s.reply(2, 0) })
		},
	},
	{
		name: "Request and Reply, with a Listener", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}, {binds: listener("$.R")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?"); s.take(1) })
			w.Go("replier", func() { s.reply(2, 0) })
			w.Go("L", func() { s.take(3); s.take(3) })
		},
	},
	{
		name: "a place held for an answer against another's message", marks: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1, max: 1, binds: listener("$.A")}, {binds: replier}, {blocks: 1}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("B", func() { s.send(3, Header{Name: "$.A", Flags: AllOrFail}, "b") })
		},
	},
	{
		name: "a Request against two Repliers' succession", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: replier}, {}}, cfg: Config{MaxBindings: 2}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true); s.bind(s.admin, 3, "$.R", true) })
		},
	},
	{
		name: "ALL_OR_FAIL against a reader that makes room", marks: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}, {binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: AllOrFail}, "a") })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "ALL_OR_WAIT against a reader that makes room", marks: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				if s.send(1, Header{Name: "$.A", Flags: AllOrWait}, "a") == unix.ErrnoName(unix.EAGAIN) {
					s.sendAgain(1)
				}
			})
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "ALL_OR_WAIT that sleeps until there is room",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				if _, err := s.k[1].Send(&Header{Name: "$.A", Flags: AllOrWait}, []byte("a")); err == unix.EAGAIN {
					if err := s.k[1].WaitWritable(context.Background(), 0); err != nil {
						w.Fail("wait: %v", err)
					}
				} else if err != nil {
					w.Fail("send: %v", err)
				}
			})
			w.Go("L", func() { _ = drain(s.k[2]); _ = drain(s.k[2]) })
			w.AtEnd(func() error { return s.noLeaksAfter(2) })
		},
	},
	{
		name: "a waiting Request against its Replier's unbind", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: replier}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.R", Flags: WantReply}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() {
				s.send(1, Header{Name: "$.R", Flags: WantReply | AllOrWait}, "?")
				s.poll(1)
				s.take(1)
			})
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
		},
	},
	{
		name: "URGENT against a normal message and a reader", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {blocks: 1}, {binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.take(3); s.take(3) })
		},
	},
	{
		name: "URGENT against a reader of two copies", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A", "$.*")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				s.send(1, Header{Name: "$.A", Flags: Urgent}, "a")
				s.send(1, Header{Name: "$.A", Flags: Urgent}, "b")
			})
			w.Go("L", func() { s.take(2); s.take(2); s.take(2) })
		},
	},
	{
		name: "a bind against a send",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}, {}}, cfg: Config{MaxBindings: 3}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.send(1, Header{Name: "$.A"}, "b") })
			w.Go("supervisor", func() { s.bind(s.admin, 3, "$.A", false) })
		},
	},
	{
		name: "an unbind against a send and a reader", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A", "$.*")}}, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "lanes together: an unbind, an urgent message, a reader", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {binds: listener("$.A", "$.*")}}, cfg: Config{MaxBindings: 3},
			before: bothLanes,
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("L", func() { s.take(2); s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "a Replier's unbind against its reading (Unbound)", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {blocks: 1, binds: replier}}, cfg: Config{MaxBindings: 2},
			before: func(s *checkSim) { s.send(1, request, "?"); s.send(1, request, "??") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("replier", func() { s.reply(2, 0) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
			w.Go("asker", func() { s.take(1) })
		},
	},
	{
		name: "kept events against a reader",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener(ReplierBindEvent)}, {binds: replier}}, reports: true, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: ReplierBindEvent}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.reap(s.admin, 3) })
		},
	},
	{
		name: "kept events against a reader and a sender", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener(ReplierBindEvent)}, {binds: replier}}, reports: true, cfg: Config{MaxBindings: 3, KeptEvents: 1},
			before: func(s *checkSim) { s.send(1, Header{Name: ReplierBindEvent}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("A", func() { s.send(1, Header{Name: ReplierBindEvent}, "a") })
			w.Go("supervisor", func() { s.reap(s.admin, 3) })
		},
	},
	{
		name: "the arena full: two senders, one block",
		bus:  checkBus{ksocks: []checkKsock{{}, {}, {binds: listener("$.A")}}, cfg: Config{ArenaBytes: 4 * unitBytes}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendMem(1, "a") })
			w.Go("B", func() { s.sendMem(2, "b") })
			w.AtEnd(func() error { return s.noLeaksAfter(3) })
		},
	},
	{
		name: "a block that goes to another sender at once", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A")}, {blocks: 1}, {binds: listener("$.B")}},
			cfg:    Config{ArenaBytes: 4 * unitBytes, MaxBindings: 2},
			before: func(s *checkSim) { s.send(4, Header{Name: "$.B"}, "for good") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.sendIfRoom(1, Header{Name: "$.A", Flags: Urgent}, "a") }) // claimed
			w.Go("L", func() { s.take(3) })
			w.Go("B", func() { s.sendIfRoom(2, Header{Name: "$.A"}, "b") })
		},
	},
	{
		name: "the smallest queue, round and round",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}}, cfg: Config{QueueSlots: 2},
			before: func(s *checkSim) {
				for range 3 {
					s.send(1, Header{Name: "$.A"}, "first")
					s.take(2)
				}
			},
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() {
				for range 3 {
					s.send(1, Header{Name: "$.A"}, "a")
				}
			})
			w.Go("L", func() { s.take(2); s.take(2); s.take(2) })
		},
	},
	{
		name: "a late helper: one sends, one sends twice",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}, cfg: Config{QueueSlots: 2}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b"); s.send(2, Header{Name: "$.A"}, "c") })
		},
	},
	{
		name: "a late helper of an unbind, and the block used again", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A", "$.B")}}, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.B"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.unbind(s.admin, 3, "$.B", false) })
			w.Go("H", func() { must(s.k[2].send.idle()) })
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
		},
	},
	{
		name: "a claimed entry, a helper, and a reader that makes room: they may disagree",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}, {}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.claim(1, Header{Name: "$.A", Flags: AllOrFail}, "a") })
			w.Go("H", func() { must(s.k[3].send.idle()) })
			w.Go("L", func() { s.take(2) })
		},
	},
	{
		name: "a close against a send", partly: true,
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.send(1, Header{Name: "$.A"}, "b") })
			w.Go("supervisor", func() { s.reap(s.admin, 2) })
		},
	},
	{
		name: "a Replier's close against a Request",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: replier}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("supervisor", func() { s.reap(s.admin, 2) })
		},
	},
	{
		name: "a sender dies, the supervisor cleans up", marks: true, die: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			s.reaper(w, "A", 1)
		},
	},
	{
		name: "a sender dies, another sends", partly: true, die: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			s.reaper(w, "A", 1)
		},
	},
	{
		name: "a reader dies against a send", partly: true, die: []string{"L"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}}, before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") }},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2) })
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			s.reaper(w, "L", 2)
		},
	},
	{
		name: "a Replier dies: GoneAway, Ignored or its Reply", marks: true, die: []string{"replier"},
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {blocks: 1, binds: replier}},
			before: func(s *checkSim) { s.send(1, request, "?"); s.send(1, request, "??") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("replier", func() { s.reply(2, 0); s.read(2) })
			s.reaper(w, "replier", 2)
		},
	},
	{
		name: "an asker dies against the Reply", partly: true, die: []string{"asker"},
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}},
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("replier", func() { s.reply(2, 0) })
			s.reaper(w, "asker", 1)
		},
	},
	{
		name: "two senders and a reader, one stops for good", partly: true, stop: []string{"A", "L"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.take(3) })
			w.AtEnd(s.judge)
		},
	},
	{
		name: "a sender stops for good while the Listener sleeps", partly: true, stop: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.await(w, 3) })
			w.AtEnd(s.judge)
		},
	},
	{
		name: "a sender stops for good, a helper, a Listener that sleeps", stop: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("H", func() { must(s.k[2].send.idle()) })
			// Asleep for ever is right if nothing has come.
			w.Daemon("L", func() { s.await(w, 3) })
			w.AtEnd(func() error {
				if c := s.k[3]; w.Status("L") == "asleep" && c.Any() && curPhase(c.b.w[wCur].Load()) == curIdle {
					return fmt.Errorf("the Listener sleeps with a message in its queue")
				}
				return s.judge()
			})
		},
	},
	{
		name: "the supervisor dies while it binds, and another takes over", die: []string{"supervisor"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}, cfg: Config{MaxBindings: 3}},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.bind(s.admin, 2, "$.*", false) })
			s.successor(w)
		},
	},
	{
		name: "the supervisor dies while it unbinds a Replier, and another takes over", die: []string{"supervisor"},
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: replier}},
			before: func(s *checkSim) { s.send(1, request, "?"); s.send(1, request, "??") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
			s.successor(w)
		},
	},
	{
		name: "the supervisor dies while it reaps a Replier, and another takes over", die: []string{"supervisor"},
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: replier}},
			before: func(s *checkSim) { s.send(1, request, "?"); s.send(1, request, "??"); s.take(2) },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.reap(s.admin, 2) })
			w.Go("successor", func() {
				if w.AwaitEnd("supervisor") {
					s.reap(s.takeOver(), 2)
				}
			})
		},
	},
}

// takeOver is the next supervisor's start.
func (s *checkSim) takeOver() *Admin { return must(must(Attach(s.mem)).Admin()) }

// successor is a supervisor that takes over from one that died, and finishes what
// that one had begun.
func (s *checkSim) successor(w *check.World) {
	w.Go("successor", func() {
		if w.AwaitEnd("supervisor") {
			s.do("take over", func(m *model.Bus, step int) (string, bool) {
				for i := range s.def.bus.cfg.MaxKsocks {
					id := uint32(i + 1)
					if m.UnbindStep(id) || m.CloseStep(id) {
						return "", true
					}
					m.CloseEnd(id)
				}
				return "ok", false
			}, func() string { s.takeOver(); return "ok" })
		}
	})
}

// sendMem sends what may find no memory, which the model does not know.
func (s *checkSim) sendMem(slot int, data string) {
	switch _, err := s.k[slot].Send(&Header{Name: "$.A"}, []byte(data)); err {
	case nil, unix.ENOMEM:
	default:
		s.w.Fail("send: %v", err)
	}
}

// claim is send that claims its entry before it is planned, as a sender does that
// others got ahead of twice.
func (s *checkSim) claim(slot int, h Header, data string) string {
	return s.do("send "+h.Name, once(func(m *model.Bus) string {
		id, err := m.Send(uint32(slot), model.Message{Flags: h.Flags, Name: h.Name, Data: data})
		return sent(MessageID(id), err)
	}), func() string {
		c := s.k[slot]
		l := must(c.Loan(len(data)))
		copy(l.Data(), data)
		d := &c.hand
		c.compose(d, &h, kindMessage, 0)
		d.h, d.head, d.held, d.units, d.data = l.d.h, l.d.head, l.d.held, l.d.units, l.d.data
		o := must(c.send.claim(entry{kind: kindMessage, from: slot}, d))
		id := MessageID{0, uint32(c.b.w[c.b.block(d.h)+mSerw].Load())}
		d.drop(&c.send)
		c.loans.put(d.held)
		if o.code != codeOK {
			return errno(unix.Errno(o.code))
		}
		return fmt.Sprint(id)
	})
}

// sendIfRoom is send, but for ENOMEM, which the model does not know.
func (s *checkSim) sendIfRoom(slot int, h Header, data string) string {
	got := ""
	return s.do("send "+h.Name, once(func(m *model.Bus) string {
		if got == unix.ErrnoName(unix.ENOMEM) {
			return got
		}
		id, err := m.Send(uint32(slot), model.Message{Flags: h.Flags, Name: h.Name, Data: data})
		return sent(MessageID(id), err)
	}), func() string {
		got = sent(s.k[slot].Send(&h, []byte(data)))
		return got
	})
}

// noLeaksAfter empties the queue of a slot's Ksock first.
func (s *checkSim) noLeaksAfter(slot int) error {
	for c := s.client(slot); drain(c) != "none"; {
	}
	return s.noLeaks()
}

func envInt(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// TestCheckInterleavings explores the configurations to the end, those that are too
// large for that (partly) up to 20,000 executions; KBUS_CHECK_LIMIT is a limit for
// all (0: none). KBUS_CHECK_PART=1/2 takes every second one, from the first on.
func TestCheckInterleavings(t *testing.T) {
	part, parts := 1, 1
	if s := os.Getenv("KBUS_CHECK_PART"); s != "" {
		if n, err := fmt.Sscanf(s, "%d/%d", &part, &parts); n != 2 || err != nil || part < 1 || part > parts {
			t.Fatalf("KBUS_CHECK_PART=%s", s)
		}
	}
	complete, executions, states, ran := 0, 0, 0, 0
	for i, c := range slices.Concat(checkCases, smallCases) {
		if i%parts != part-1 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			cfg := check.Config{Die: c.die, Stop: c.stop, FreeSpin: true}
			if c.partly {
				cfg.Limit = 20000
			}
			cfg.Limit = envInt("KBUS_CHECK_LIMIT", cfg.Limit)
			d := c.bus.def()
			r := check.Run(t, cfg, c.on(d))
			if r.Complete {
				complete++
			}
			ran++
			executions += r.Executions
			states += r.States
		})
	}
	t.Logf("%d configurations, %d of them to the end: %d executions, %d states", ran, complete, executions, states)
}

// TestCheckMarks has small configurations end in the same ways whether or not the code's
// promises (shm.Mark, Word.Put as part of a step, World.Keep) are relied on.
func TestCheckMarks(t *testing.T) {
	for _, c := range checkCases {
		if !c.marks {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			var ends [2]map[string]bool
			for i := range ends {
				d := c.bus.def()
				d.ends = map[string]bool{}
				cfg := check.Config{Die: c.die, Stop: c.stop, FreeSpin: true, Remember: i == 1, Limit: 300000}
				if r := check.Run(t, cfg, c.on(d)); !r.Complete {
					t.Fatal("not explored to the end")
				}
				ends[i] = d.ends
			}
			for s := range ends[1] {
				if !ends[0][s] {
					t.Errorf("missing with the marks:\n%s", s)
				}
			}
			t.Logf("%d ends, %d with the marks", len(ends[1]), len(ends[0]))
		})
	}
}

func (c *checkCase) on(d *checkDef) func(w *check.World) {
	return func(w *check.World) {
		s := d.sim(w)
		if c.stop == nil {
			s.clean()
		}
		c.run(w, s)
	}
}
