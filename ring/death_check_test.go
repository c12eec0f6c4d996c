//go:build kbuscheck

package ring

import (
	"fmt"
	"testing"

	"kbus.internal/ring/check"
	"kbus.internal/ring/model"
)

// A deathCase is an operation that is cut off at each of its steps, while others
// use the bus. The victim is slot 1's process, or the supervisor.
type deathCase struct {
	name   string
	bus    checkBus
	dead   bool // slot 1's process is: nobody else reads for it, which would hide what it holds
	do     func(s *checkSim)
	others func(w *check.World, s *checkSim)
}

// bystanders are a sender to slot 2 and its reader.
func bystanders(w *check.World, s *checkSim) {
	w.Go("sender", func() { s.send(3, Header{Name: "$.A"}, "x"); s.send(3, Header{Name: "$.A"}, "y") })
	w.Go("reader", func() { s.take(2); s.take(2) })
}

var three = []checkKsock{{blocks: 2}, {blocks: 1, binds: listener("$.A")}, {blocks: 2}}

var clientDeaths = []deathCase{
	{name: "send", bus: checkBus{ksocks: three}, do: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "a") }, others: bystanders},
	{name: "send without a block at hand", bus: checkBus{ksocks: []checkKsock{{}, {binds: listener("$.A")}, {}}},
		do: func(s *checkSim) { s.send(1, Header{Name: "$.A"}, "a") }, others: bystanders},
	{name: "send a batch", bus: checkBus{ksocks: three}, do: func(s *checkSim) { s.sendBatch(1, 2, "$.A", 0) }, others: bystanders},
	{name: "send urgent", bus: checkBus{ksocks: three}, do: func(s *checkSim) { s.send(1, Header{Name: "$.A", Flags: Urgent}, "a") }, others: bystanders},
	{name: "send that waits", bus: checkBus{
		ksocks: []checkKsock{{blocks: 2}, {max: 1, binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first") },
	}, do: func(s *checkSim) {
		s.send(1, Header{Name: "$.A", Flags: AllOrWait}, "a")
		s.sendAgain(1)
		s.poll(1)
	}, others: bystanders},
	{name: "Request", bus: checkBus{ksocks: []checkKsock{{blocks: 1}, {blocks: 1, binds: append(listener("$.A"), replier...)}, {blocks: 1}}},
		do: func(s *checkSim) { s.send(1, request, "?") },
		others: func(w *check.World, s *checkSim) {
			w.Go("sender", func() { s.send(3, request, "??"); s.take(3) })
			w.Go("reader", func() { s.reply(2, 0); s.reply(2, 0) })
		}},
	{name: "receive and Reply", bus: checkBus{
		ksocks: []checkKsock{{blocks: 1, binds: replier}, {binds: listener("$.A")}, {blocks: 2}},
		before: func(s *checkSim) { s.send(3, request, "?"); s.send(3, request, "??") },
	}, do: func(s *checkSim) { s.reply(1, 0); s.read(1) },
		others: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.take(3); s.take(3) })
			w.Go("sender", func() { s.send(2, Header{Name: "$.A"}, "x") })
		}},
	{name: "receive and release", bus: checkBus{
		ksocks: []checkKsock{{binds: listener("$.A", "$.*")}, {binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first") },
	}, do: func(s *checkSim) { s.take(1); s.take(1); s.take(1) }, others: bystanders},
	{name: "loan, release, loan, send", bus: checkBus{ksocks: three}, do: func(s *checkSim) {
		l := must(s.k[1].Loan(300))
		l.Data()[0] = 'x'
		l.Release()
		l = must(s.k[1].Loan(5))
		copy(l.Data(), "hello")
		s.do("send loan", once(func(m *model.Bus) string {
			id, err := m.Send(1, model.Message{Name: "$.A", Data: "hello"})
			return sent(MessageID(id), err)
		}), func() string { return sent(s.k[1].SendLoan(&Header{Name: "$.A"}, l)) })
	}, others: bystanders},
}

var supervisorDeaths = []deathCase{
	{name: "open", bus: checkBus{ksocks: three, cfg: Config{MaxKsocks: 4}}, do: func(s *checkSim) {
		s.do("open", once(func(m *model.Bus) string { return fmt.Sprint(m.Open(false), m.Ksocks()) }), func() string {
			slot, id, err := s.admin.Open(7, 7, ReadWrite)
			if err != nil || slot != 4 {
				return fmt.Sprint(slot, err)
			}
			return fmt.Sprint(id, []int{1, 2, 3, 4})
		})
	}, others: bystanders},
	{name: "bind", bus: checkBus{ksocks: three, cfg: Config{MaxBindings: 3}}, do: func(s *checkSim) { s.bind(s.admin, 1, "$.A", false) }, others: bystanders},
	{name: "bind a Replier, reported", bus: checkBus{
		ksocks: []checkKsock{{}, {blocks: 1, binds: listener("$.A", ReplierBindEvent)}, {blocks: 2}}, reports: true, cfg: Config{MaxBindings: 3},
	}, do: func(s *checkSim) { s.bind(s.admin, 1, "$.R", true) }, others: bystanders},
	{name: "unbind with what came by it", bus: checkBus{
		ksocks: []checkKsock{{}, {blocks: 1, binds: listener("$.A", "$.*")}, {blocks: 4}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first"); s.send(3, Header{Name: "$.A"}, "second") },
	}, do: func(s *checkSim) { s.unbind(s.admin, 2, "$.*", false) },
		others: func(w *check.World, s *checkSim) {
			w.Go("reader", func() { s.take(2); s.take(2) })
		}},
	{name: "unbind a Replier", bus: checkBus{
		ksocks: []checkKsock{{blocks: 2}, {binds: append(listener("$.A"), replier...)}, {blocks: 2}}, cfg: Config{MaxBindings: 3},
		before: func(s *checkSim) { s.send(1, request, "?"); s.send(1, request, "??") },
	}, do: func(s *checkSim) { s.unbind(s.admin, 2, "$.R", true) }, others: bystanders},
	{name: "max_messages", bus: checkBus{ksocks: three}, do: func(s *checkSim) { s.maxMessages(s.admin, 2, 1) }, others: bystanders},
	{name: "reap a Listener", bus: checkBus{
		ksocks: []checkKsock{{binds: listener("$.A")}, {blocks: 1, binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first") },
	}, do: func(s *checkSim) { s.reap(s.admin, 1) }, others: bystanders},
	{name: "reap a Listener that has a message in its hands", bus: checkBus{
		ksocks: []checkKsock{{binds: listener("$.A")}, {blocks: 1, binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first"); s.hold(1) },
	}, dead: true, do: func(s *checkSim) { s.reap(s.admin, 1) }, others: bystanders},
	{name: "close a Listener", bus: checkBus{
		ksocks: []checkKsock{{binds: listener("$.A")}, {blocks: 1, binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first") },
	}, do: func(s *checkSim) { s.close(s.admin, 1) }, others: bystanders},
	{name: "reap a Replier that has read one Request", bus: checkBus{
		ksocks: []checkKsock{{binds: replier}, {blocks: 1, binds: listener("$.A")}, {blocks: 3}},
		before: func(s *checkSim) { s.send(3, request, "?"); s.send(3, request, "??"); s.take(1) },
	}, do: func(s *checkSim) { s.reap(s.admin, 1) },
		others: func(w *check.World, s *checkSim) {
			w.Go("asker", func() { s.take(3); s.take(3) })
			w.Go("sender", func() { s.send(2, Header{Name: "$.A"}, "x") })
		}},
	{name: "reap a Replier, its event kept aside", bus: checkBus{
		ksocks: []checkKsock{{binds: replier}, {max: 1, blocks: 1, binds: listener("$.A", ReplierBindEvent)}, {blocks: 3}}, reports: true,
		before: func(s *checkSim) { s.send(3, Header{Name: "$.A"}, "first") },
	}, do: func(s *checkSim) { s.reap(s.admin, 1) }, others: bystanders},
}

func (c *deathCase) on(d *checkDef, victim string, alive bool) func(w *check.World) {
	return func(w *check.World) {
		s := d.sim(w)
		s.dead[1] = c.dead
		w.Go(victim, func() { c.do(s) })
		switch {
		case alive:
		case victim == "supervisor":
			s.successor(w)
		default:
			s.reaper(w, victim, 1)
		}
		c.others(w, s)
		w.AtEnd(func() error {
			if alive {
				s.dead[1] = c.dead || victim != "supervisor"
			}
			if err := s.judge(); err != nil {
				return err
			}
			return s.allBack()
		})
	}
}

// allBack has a supervisor reap all Ksocks, and wants all slots and all memory
// back then.
func (s *checkSim) allBack() error {
	a := s.takeOver()
	for slot := 1; slot <= a.b.cfg.MaxKsocks; slot++ {
		if err := a.Reap(slot); err != nil {
			return fmt.Errorf("reap %d at the end: %w", slot, err)
		}
		if kid := a.b.w[a.b.slot(slot)+sKid].Load(); kid>>32 != kidFree {
			return fmt.Errorf("slot %d is not free at the end", slot)
		}
	}
	st, err := a.b.arenaStats()
	if err == nil && st.UsedBlocks != 0 {
		err = fmt.Errorf("%d blocks are not free at the end", st.UsedBlocks)
	}
	return err
}

// TestCheckDeaths has each operation's process die at each of its steps.
func TestCheckDeaths(t *testing.T) { deaths(t, "die") }

// TestCheckStops has each operation's process stop for good at each of its steps:
// the others get on, each operation within a bounded number of its own steps.
func TestCheckStops(t *testing.T) { deaths(t, "stop") }

func deaths(t *testing.T, how string) {
	points, executions := 0, 0
	for victim, cases := range map[string][]deathCase{"victim": clientDeaths, "supervisor": supervisorDeaths} {
		for _, c := range cases {
			t.Run(victim+", "+c.name, func(t *testing.T) {
				d := c.bus.def()
				cfg := check.Config{FreeSpin: true, Runs: envInt("KBUS_CHECK_RUNS", 6)}
				if how == "stop" {
					cfg.OpSteps = 1500
				}
				e := check.EachStep(t, cfg, victim, how, c.on(d, victim, how == "stop"))
				points += e.Points
				executions += e.Executions
			})
		}
	}
	t.Logf("%s at %d points in all, %d executions", how, points, executions)
}
