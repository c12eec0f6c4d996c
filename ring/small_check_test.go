//go:build kbuscheck

package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/check"
	"kbus.internal/ring/model"
)

var errSleeps = errors.New("the Listener sleeps with a message in its queue")

// open has a Ksock opened, which nobody uses.
func (s *checkSim) open(a *Admin) string {
	return s.do("open", once(func(m *model.Bus) string { return fmt.Sprint(m.Open(false)) }), func() string {
		_, id, err := a.Open(7, 7, ReadWrite)
		if err != nil {
			return errno(err)
		}
		return fmt.Sprint(id)
	})
}

// smallCases are parts of the larger configurations, each small enough to be
// explored to the end.
var smallCases = []checkCase{
	{
		name: "small: two senders, a Listener that sleeps once",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
			w.Go("L", func() { s.await(w, 3) })
		},
	},
	{
		name: "small: one sender, two Listeners",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}, {binds: listener("$.A", "$.%")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("L1", func() { s.take(2) })
			w.Go("L2", func() { s.take(3) })
		},
	},
	{
		name: "small: one sender, a Listener of two, and back",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1, binds: listener("$.B")}, {blocks: 1, binds: listener("$.A")}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.take(1) })
			w.Go("L1", func() {
				if s.take(2) != "none" {
					s.send(2, Header{Name: "$.B"}, "b")
				}
			})
		},
	},
	{
		name: "small: Request and Reply, with a Listener",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}, {binds: listener("$.R")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("replier", func() { s.reply(2, 0) })
			w.Go("L", func() { s.take(3) })
		},
	},
	{
		name: "small: a Request against its Replier's unbind",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: replier}}, cfg: Config{MaxBindings: 2}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
		},
	},
	{
		name: "small: a Request against a Replier's bind",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {}}, cfg: Config{MaxBindings: 2}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("supervisor", func() { s.bind(s.admin, 2, "$.R", true) })
		},
	},
	{
		name: "small: a waiting Request against its Replier's unbind",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: replier}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.R", Flags: WantReply}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() {
				if s.send(1, Header{Name: "$.R", Flags: WantReply | AllOrWait}, "?") == unix.ErrnoName(unix.EAGAIN) {
					s.sendAgain(1)
				}
			})
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
		},
	},
	{
		name: "small: URGENT against a reader",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "small: URGENT against a normal message",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("B", func() { s.send(2, Header{Name: "$.A"}, "b") })
		},
	},
	{
		name: "small: URGENT against a reader of two copies",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A", "$.*")}},
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("L", func() { s.take(2); s.take(2) })
		},
	},
	{
		name: "small: a bind against a send",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}, {}}, cfg: Config{MaxBindings: 3}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("supervisor", func() { s.bind(s.admin, 3, "$.A", false) })
		},
	},
	{
		name: "small: an unbind against a send",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A", "$.*")}}, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "small: an unbind against a reader",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A", "$.*")}}, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "small: both lanes, an unbind and a reader",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {binds: listener("$.A", "$.*")}}, cfg: Config{MaxBindings: 3},
			before: bothLanes,
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "small: both lanes, an unbind and an urgent message",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {binds: listener("$.A")}}, cfg: Config{MaxBindings: 3},
			before: bothLanes,
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.A", false) })
		},
	},
	{
		name: "small: both lanes, an urgent message and a reader",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 3}, {binds: listener("$.A")}},
			before: bothLanes,
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") })
			w.Go("L", func() { s.take(2); s.take(2); s.take(2) })
		},
	},
	{
		name: "small: a Replier's unbind against its reading (Unbound)",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}}, cfg: Config{MaxBindings: 2},
			before: func(s *checkSim) { s.send(1, request, "?") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("replier", func() { s.reply(2, 0) })
			w.Go("supervisor", func() { s.unbind(s.admin, 2, "$.R", true) })
		},
	},
	{
		name: "small: kept events against a sender", partly: true,
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener(ReplierBindEvent)}, {binds: replier}}, reports: true, cfg: Config{MaxBindings: 3, KeptEvents: 1},
			before: func(s *checkSim) { s.send(1, Header{Name: ReplierBindEvent}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: ReplierBindEvent}, "a") })
			w.Go("supervisor", func() { s.reap(s.admin, 3) })
		},
	},
	{
		name: "small: a block that goes to another sender at once",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A")}, {blocks: 1}, {binds: listener("$.B")}},
			cfg:    Config{ArenaBytes: 4 * unitBytes, MaxBindings: 2},
			before: func(s *checkSim) {
				s.send(4, Header{Name: "$.B"}, "for good")
				s.send(1, Header{Name: "$.A"}, "first")
			},
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(3) })
			w.Go("B", func() { s.sendIfRoom(2, Header{Name: "$.A"}, "b") })
		},
	},
	{
		name: "small: a late helper of an unbind",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A", "$.B")}}, cfg: Config{MaxBindings: 3},
			before: func(s *checkSim) { s.send(1, Header{Name: "$.B"}, "first") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.unbind(s.admin, 3, "$.B", false) })
			w.Go("H", func() { must(s.k[2].send.idle()) })
		},
	},
	{
		name: "small: a close against a send",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("supervisor", func() { s.reap(s.admin, 2) })
		},
	},
	{
		name: "small: an open against a send",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}, cfg: Config{MaxKsocks: 3}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("supervisor", func() { s.open(s.admin) })
		},
	},
	{
		name: "small: two that clean up: the supervisor, and a helper of all that it does",
		bus:  checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: replier}, {}}, before: func(s *checkSim) { s.send(1, request, "?") }},
		run: func(w *check.World, s *checkSim) {
			w.Go("supervisor", func() { s.reap(s.admin, 2) })
			w.Go("H", func() { must(s.k[3].send.idle()); must(s.k[3].send.idle()) })
		},
	},
	{
		name: "small: a sender dies, a helper, the supervisor cleans up", partly: true, die: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a") })
			w.Go("H", func() { must(s.k[2].send.idle()) })
			s.reaper(w, "A", 1)
		},
	},
	{
		name: "small: a reader dies, the supervisor cleans up", die: []string{"L"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 2}, {binds: listener("$.A")}}, before: func(s *checkSim) {
			s.send(1, Header{Name: "$.A"}, "first")
			s.send(1, Header{Name: "$.A"}, "second")
		}},
		run: func(w *check.World, s *checkSim) {
			w.Go("L", func() { s.take(2); s.take(2) })
			s.reaper(w, "L", 2)
		},
	},
	{
		name: "small: an asker dies, its Request is read", die: []string{"asker"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.send(1, request, "?") })
			w.Go("replier", func() { s.read(2) })
			s.reaper(w, "asker", 1)
		},
	},
	{
		name: "small: an asker's close against the Reply",
		bus: checkBus{
			ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: replier}},
			before: func(s *checkSim) { s.send(1, request, "?") },
		},
		run: func(w *check.World, s *checkSim) {
			w.Go("replier", func() { s.reply(2, 0) })
			w.Go("supervisor", func() { s.reap(s.admin, 1) })
		},
	},
	{
		name: "small: a sender stops for good while the Listener sleeps", stop: []string{"A"},
		bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {binds: listener("$.A")}}},
		run: func(w *check.World, s *checkSim) {
			w.Go("A", func() { s.send(1, Header{Name: "$.A"}, "a"); s.send(1, Header{Name: "$.A"}, "b") })
			w.Daemon("L", func() { s.await(w, 2) })
			w.AtEnd(func() error {
				if c := s.k[2]; w.Status("L") == "asleep" && c.Any() && curPhase(c.b.w[wCur].Load()) == curIdle {
					return errSleeps
				}
				return s.judge()
			})
		},
	},
}
