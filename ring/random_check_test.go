//go:build kbuscheck

package ring

import (
	"slices"
	"testing"

	"kbus.internal/ring/check"
)

// all are all configurations.
func all() []checkCase { return slices.Concat(larger, traps, checkCases) }

// larger are configurations that are too large to be explored to the end.
var larger = []checkCase{
	{
		name: "four Ksocks, all kinds of messages", die: []string{"replier", "sender"},
		bus: checkBus{ksocks: []checkKsock{
			{blocks: 2, binds: listener("$.A")},
			{blocks: 2, binds: append(listener("$.*"), replier...)},
			{blocks: 2, binds: listener("$.A", "$.R")},
			{blocks: 2},
		}, cfg: Config{MaxBindings: 7, ArenaBytes: 64 * unitBytes}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?"); s.take(1); s.take(1) })
			w.Go("replier", func() { s.reply(2, 0); s.take(2) })
			w.Go("reader", func() { s.take(3); s.take(3); s.take(3) })
			w.Go("sender", func() {
				s.send(4, Header{Name: "$.A", Flags: Urgent}, "u")
				s.send(4, Header{Name: "$.A", Flags: AllOrFail}, "f")
			})
			w.Go("supervisor", func() {
				s.bind(s.admin, 4, "$.A", false)
				s.unbind(s.admin, 3, "$.A", false)
			})
			w.Go("reaper", func() {
				w.AwaitEnd("supervisor")
				for i, name := range []string{"asker", "replier", "reader", "sender"} {
					if w.AwaitEnd(name) {
						s.reap(s.admin, i+1)
					}
				}
			})
		},
	},
	{
		name: "a Ksock that reads, with kept events coming in, and sends", die: []string{"A"},
		bus: checkBus{
			ksocks: []checkKsock{
				{blocks: 2}, {max: 1, blocks: 1, binds: listener(ReplierBindEvent)}, {binds: replier}, {binds: listener("$.A")},
			},
			reports: true, sides: true, cfg: Config{MaxBindings: 4},
			before: func(s *checkSim) { s.send(1, Header{Name: ReplierBindEvent}, "first"); s.reap(s.admin, 3) },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("S", func() { s.send(2, Header{Name: "$.A"}, "s"); s.send(2, Header{Name: "$.A"}, "t") })
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			s.reaper(w, "A", 1)
		},
	},
	{
		name: "three senders, two Listeners, the smallest queue", stop: []string{"A", "B", "L"},
		bus: checkBus{ksocks: []checkKsock{
			{blocks: 1}, {blocks: 1}, {blocks: 1}, {binds: listener("$.A")}, {binds: listener("$.*")},
		}, cfg: Config{QueueSlots: 2}},
		run: func(w *check.World, s *checkSim) {
			for i, name := range []string{"A", "B", "C"} {
				w.Go(name, func() {
					s.send(i+1, Header{Name: "$.A"}, name)
					s.send(i+1, Header{Name: "$.A", Flags: AllOrFail}, name)
				})
			}
			// One reader only: room is judged at one moment for each recipient, not at
			// one for all (R6.1), and two readers could tell.
			w.Go("L", func() { s.take(4); s.take(4); s.take(4) })
		},
	},
}

// TestCheckRandom explores all configurations, and larger ones, at random:
// KBUS_CHECK_RANDOM executions for each process that may end early. With
// KBUS_CHECK_PUTS=1 each Put is a step of its own.
func TestCheckRandom(t *testing.T) {
	for _, c := range all() {
		t.Run(c.name, func(t *testing.T) {
			d := c.bus.def()
			cfg := check.Config{Mode: check.Random, Runs: envInt("KBUS_CHECK_RANDOM", 500), Die: c.die, Stop: c.stop, FreeSpin: true, Puts: envInt("KBUS_CHECK_PUTS", 0) != 0}
			check.Run(t, cfg, c.on(d))
		})
	}
}

// TestCheckBounded explores all interleavings with at most two preemptions, or as
// many of them as KBUS_CHECK_LIMIT says.
func TestCheckBounded(t *testing.T) {
	for _, c := range all() {
		t.Run(c.name, func(t *testing.T) {
			d := c.bus.def()
			cfg := check.Config{
				Mode: check.Bounded, Preemptions: envInt("KBUS_CHECK_PREEMPTIONS", 2), Limit: envInt("KBUS_CHECK_LIMIT", 3000),
				Die: c.die, Stop: c.stop, FreeSpin: true,
			}
			check.Run(t, cfg, c.on(d))
		})
	}
}
