//go:build kbuscheck

package check

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A schedule is written as runs of steps: process a (the first one added), b,
// ... and how many steps it goes, unless it is 1. "c!" is the death of process
// c, "c." its stop.

// schedule writes down the present execution.
func (e *engine) schedule() string {
	var b strings.Builder
	for i := 0; i < len(e.took); {
		c := e.took[i]
		n := 1
		for i+n < len(e.took) && e.took[i+n] == c && c.kind() == run {
			n++
		}
		i += n
		b.WriteByte('a' + byte(c.process()))
		switch {
		case c.kind() == die:
			b.WriteByte('!')
		case c.kind() == stop:
			b.WriteByte('.')
		case n > 1:
			fmt.Fprint(&b, n)
		}
	}
	return b.String()
}

func parse(s string) ([]choice, error) {
	var took []choice
	for i := 0; i < len(s); {
		p := int(s[i]) - 'a'
		if p < 0 || p >= MaxProcesses {
			return nil, fmt.Errorf("schedule %q: no process %q", s, s[i])
		}
		i++
		k, n := run, 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' && n < 1e6 {
			n = 10*n + int(s[i]-'0')
			i++
		}
		if n == 0 && i < len(s) && (s[i] == '!' || s[i] == '.') {
			if k = die; s[i] == '.' {
				k = stop
			}
			i++
		}
		for range max(n, 1) {
			took = append(took, of(k, p))
		}
	}
	return took, nil
}

// script is the policy that follows a schedule, and behind its end lets each
// process go on as long as it can.
type script struct{ took []choice }

func (s *script) access(*engine, *process, access) {}

func (s *script) pick(e *engine) choice {
	en := e.enabled()
	if int(e.pos) < len(s.took) {
		c := s.took[e.pos]
		switch {
		case c.process() >= len(e.procs), c.kind() == run && !en.has(c),
			c.kind() != run && e.procs[c.process()].status >= ended:
			e.fail(fmt.Errorf("the schedule does not fit: step %d is not possible (%s)", e.pos+1, e.statuses()))
			return cut
		}
		return c
	}
	return goOn(e, en)
}

// goOn lets the present process go on if it can, else the first that can.
func goOn(e *engine, en choices) choice {
	if en == 0 {
		return none
	}
	if n := len(e.took); n > 0 {
		if c := of(run, e.took[n-1].process()); en.has(c) {
			return c
		}
	}
	return en.first()
}

// priorities is the random policy: it lets the process with the highest of
// random priorities go on, and lowers that of the present one at some random
// steps (PCT). Every other execution is a plain random walk instead, in which
// each step goes on with probability 3/4. In most executions in which a process
// may end early, it does so at a random step.
type priorities struct {
	r     *rand.Rand
	prio  [MaxProcesses]int
	low   int
	at    map[int32]bool
	walk  bool
	endAt [MaxProcesses]int // own steps; -1: lives
}

func newPriorities(cfg *Config, seed uint64, length int) *priorities {
	s := &priorities{r: rand.New(rand.NewPCG(seed, 0)), at: map[int32]bool{}}
	for i, p := range s.r.Perm(MaxProcesses) {
		s.prio[i] = p
	}
	s.walk = s.r.IntN(2) == 0
	for range cfg.Changes {
		s.at[int32(s.r.IntN(length))] = true
	}
	for i := range s.endAt {
		s.endAt[i] = -1
		if s.r.IntN(8) > 0 {
			s.endAt[i] = s.r.IntN(length)
			if s.r.IntN(2) > 0 { // early: operations are short
				s.endAt[i] = s.r.IntN(min(length, 64))
			}
		}
	}
	return s
}

func (s *priorities) access(*engine, *process, access) {}

func (s *priorities) pick(e *engine) choice {
	en := e.enabled()
	if en == 0 {
		return none
	}
	for i, p := range e.procs {
		if ends := e.ends(i); ends != 0 && p.steps == s.endAt[i] {
			s.endAt[i] = -1
			return ends.first()
		}
	}
	if s.walk {
		if s.r.IntN(4) > 0 {
			return goOn(e, en)
		}
		for {
			if c := of(run, s.r.IntN(len(e.procs))); en.has(c) {
				return c
			}
		}
	}
	if s.at[e.pos] && e.pos > 0 {
		s.low--
		s.prio[e.took[e.pos-1].process()] = s.low
	}
	best := none
	for i := range e.procs {
		if c := of(run, i); en.has(c) && (best == none || s.prio[i] > s.prio[best.process()]) {
			best = c
		}
	}
	return best
}
