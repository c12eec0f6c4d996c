//go:build kbuscheck

package check

import (
	"fmt"
	"testing"
)

// Ends are the results of EachStep.
type Ends struct {
	Points     int // steps at which the victim ended
	Executions int
	Violation  *Violation
}

// eachStep ends the victim at its step n and lets random or fixed priorities
// decide otherwise.
type eachStep struct {
	policy
	victim int
	kind   choice
	n      int
	came   bool
}

func (s *eachStep) pick(e *engine) choice {
	if p := e.procs[s.victim]; !s.came && p.status < ended && p.steps == s.n {
		s.came = true
		return of(s.kind, s.victim)
	}
	return s.policy.pick(e)
}

// order is the policy in which the processes go on as long as they can, in the
// order given.
type order struct{ first, n int }

func (o *order) access(*engine, *process, access) {}

func (o *order) pick(e *engine) choice {
	en := e.enabled()
	for i := range o.n {
		if c := of(run, (o.first+i)%o.n); en.has(c) {
			return c
		}
	}
	return none
}

// EachStep ends the process named victim at its step n (before it makes it), for
// n = 0, 1, 2, ... until it comes to its own end first: under schedules in which
// each process in turn goes first and as far as it can, and under cfg.Runs
// random ones (none if 0). how is "die" or "stop".
func EachStep(t testing.TB, cfg Config, victim, how string, setup func(*World)) *Ends {
	t.Helper()
	ends := &Ends{}
	if cfg.MaxSteps == 0 {
		cfg.MaxSteps = 20000
	}
	if cfg.Seed == 0 {
		cfg.Seed = 1
	}
	if cfg.Changes == 0 {
		cfg.Changes = 3
	}
	kind := map[string]choice{"die": die, "stop": stop}[how]
	if kind == 0 {
		t.Fatalf("EachStep: neither die nor stop: %q", how)
	}
	e := newEngine(&cfg)
	defer e.close()
	e.policy = &order{0, MaxProcesses}
	e.execute(setup)
	number := len(e.procs)
	v := e.world.process(victim).id
	length := int(e.pos) + 1
	for k := range number + cfg.Runs {
		for n := 0; ; n++ {
			s := &eachStep{victim: v, kind: kind, n: n}
			if k < number {
				s.policy = &order{k, number}
			} else {
				s.policy = newPriorities(&cfg, cfg.Seed+uint64(k-number), length)
			}
			e.policy = s
			e.execute(setup)
			ends.Executions++
			length = max(length, int(e.pos))
			if e.failed != nil {
				ends.Violation = e.failure(setup)
				t.Fatalf("%s: %s: %s at step %d of %s\n%s", t.Name(), victim, how, n, victim, ends.Violation)
			}
			if !s.came {
				break
			}
			ends.Points++
		}
	}
	t.Logf("%s: %s: %s at %d points, %d executions, seed %d, %s", t.Name(), victim, how, ends.Points, ends.Executions, cfg.Seed, maxOps(e.maxOp))
	return ends
}

func maxOps(m map[string]int) string {
	s := "own steps"
	for _, k := range sortedKeys(m) {
		s += fmt.Sprintf(" %s <= %d", k, m[k])
	}
	return s
}
