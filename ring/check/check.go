//go:build kbuscheck

package check

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A Mode says which interleavings are explored.
type Mode int

// The modes of exploration.
const (
	Exhaustive Mode = iota // all
	Bounded                // all with at most Config.Preemptions preemptions
	Random                 // Config.Runs random ones
)

// A Config says how to explore.
type Config struct {
	Mode        Mode
	Preemptions int // Bounded: how often a process may be interrupted that could go on

	Runs    int    // Random: executions; 1000 if 0
	Seed    uint64 // Random: of the first execution, the others count up; 1 if 0
	Changes int    // Random: priority changes in one execution; 3 if 0

	// Die and Stop name processes that may end early, at any of their steps:
	// die, of which AwaitEnd tells, or stop for good, of which nobody is told.
	// There is one exploration for each entry, in which it alone may end early;
	// an entry "A+B" lets both.
	Die, Stop []string

	Puts     bool // each Word.Put is a step of its own, not part of the one before it
	Full     bool // no partial-order reduction, so that Interleavings counts all
	Remember bool // shm.Mark's promises are not relied on
	FreeSpin bool // shm.Pause returns at once: for spin loops that are bounded
	Net      bool // timeouts end sleeps when nobody can go on; they are counted

	OpSteps  int // most steps of its own that an operation (World.Do) may take; 0: any number
	MaxSteps int // longest execution; 20000 if 0

	// Limit is the largest number of executions; 0: no limit. An exhaustive
	// exploration that it ends is not complete.
	Limit int

	// Replay is a schedule to execute instead of exploring.
	Replay string

	victims map[string]choices
}

// harm returns the ends to be tried on a process, shifted to process 0.
func (c *Config) harm(name string) choices { return c.victims[name] }

// A Result says what was explored.
type Result struct {
	Executions    int
	States        int     // different ones (Exhaustive and Bounded)
	Interleavings float64 // paths through these; of all kinds only if Full
	Steps         uint64
	MaxDepth      int            // steps of the longest execution
	MaxOp         map[string]int // most own steps of one operation, by its name
	Nets          int            // sleeps that only their timeout ended
	Complete      bool           // nothing was left out by Limit
	Time          time.Duration
	Violation     *Violation
}

// A Violation is an execution that failed.
type Violation struct {
	Err      error
	Schedule string // for Config.Replay
	Seed     uint64 // Random: of the execution
	Replayed bool   // executing the schedule again failed in the same way
	Trace    []string
}

func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d executions", r.Executions)
	if r.States > 0 {
		fmt.Fprintf(&b, ", %d states, %.6g interleavings of these", r.States, r.Interleavings)
	}
	fmt.Fprintf(&b, ", %d steps (%.1f M/s), longest %d", r.Steps, float64(r.Steps)/1e6/max(r.Time.Seconds(), 1e-9), r.MaxDepth)
	for _, k := range sortedKeys(r.MaxOp) {
		fmt.Fprintf(&b, ", %s <= %d", k, r.MaxOp[k])
	}
	if r.Nets > 0 {
		fmt.Fprintf(&b, ", %d nets", r.Nets)
	}
	if !r.Complete {
		b.WriteString(", cut short")
	}
	fmt.Fprintf(&b, ", %v", r.Time.Round(time.Millisecond))
	return b.String()
}

func sortedKeys(m map[string]int) []string {
	var k []string
	for s := range m {
		k = append(k, s)
	}
	slices.Sort(k)
	return k
}

func (v *Violation) String() string {
	s := fmt.Sprintf("%v\nschedule: %s\n", v.Err, v.Schedule)
	if v.Seed != 0 {
		s += fmt.Sprintf("seed: %d\n", v.Seed)
	}
	if !v.Replayed {
		s += "NOT REPRODUCED by that schedule: the test is not deterministic\n"
	}
	t := v.Trace
	if len(t) > 400 {
		t = t[len(t)-400:]
		s += "...\n"
	}
	return s + strings.Join(t, "\n")
}

// Explore explores the executions of what setup sets up, until one fails.
func Explore(cfg Config, setup func(*World)) *Result {
	if cfg.MaxSteps == 0 {
		cfg.MaxSteps = 20000
	}
	if cfg.Runs == 0 {
		cfg.Runs = 1000
	}
	if cfg.Seed == 0 {
		cfg.Seed = 1
	}
	if cfg.Changes == 0 {
		cfg.Changes = 3
	}
	r := &Result{MaxOp: map[string]int{}, Complete: true}
	start := time.Now()
	for _, v := range cfg.harms() {
		cfg.victims = v
		e := newEngine(&cfg)
		e.maxOp = r.MaxOp
		switch {
		case cfg.Replay != "":
			e.replay(r, cfg.Replay, setup)
		case cfg.Mode == Random:
			e.random(r, setup)
		default:
			e.exhaust(r, setup)
		}
		e.close()
		r.Steps += e.steps
		r.MaxDepth = max(r.MaxDepth, e.maxDepth)
		if r.Violation != nil || cfg.Replay != "" {
			break
		}
	}
	r.Time = time.Since(start)
	return r
}

// harms returns what the explorations may do to processes.
func (c *Config) harms() []map[string]choices {
	var all []map[string]choices
	add := func(names []string, k choice) {
		for _, n := range names {
			m := map[string]choices{}
			for _, p := range strings.Split(n, "+") {
				m[p] = k.bit()
			}
			all = append(all, m)
		}
	}
	add(c.Die, die)
	add(c.Stop, stop)
	if all == nil || c.Replay != "" {
		all = []map[string]choices{nil}
	}
	return all
}

func (e *engine) close() {
	for _, c := range e.idle {
		c.stop()
	}
	e.idle = nil
}

// failure makes the violation of the execution that has just failed.
func (e *engine) failure(setup func(*World)) *Violation {
	v := &Violation{Err: e.failed, Schedule: e.schedule()}
	p := e.policy
	e.policy, e.tracing = &script{took: slices.Clone(e.took)}, true
	e.execute(setup)
	v.Trace = slices.Clone(e.trace)
	v.Replayed = e.failed != nil && firstLine(e.failed) == firstLine(v.Err)
	e.policy, e.tracing = p, false
	return v
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func (e *engine) exhaust(r *Result, setup func(*World)) {
	x := newExplorer(e.cfg)
	e.policy = x
	if x.reduce() {
		e.execute(setup)
		x = x.scouted()
		e.policy = x
	}
	for n := 0; ; n++ {
		if e.cfg.Limit > 0 && n == e.cfg.Limit {
			r.Complete = false
			break
		}
		e.execute(setup)
		r.Executions++
		r.Nets += e.nets
		if e.failed != nil {
			r.Violation = e.failure(setup)
			break
		}
		if !x.next(e) {
			r.Interleavings += x.hit.paths
			break
		}
	}
	r.States += len(x.seen)
}

func (e *engine) random(r *Result, setup func(*World)) {
	length := 100
	for i := range e.cfg.Runs {
		seed := e.cfg.Seed + uint64(i)
		e.policy = newPriorities(e.cfg, seed, length)
		e.execute(setup)
		r.Executions++
		r.Nets += e.nets
		length = max(length, int(e.pos))
		if e.failed != nil {
			r.Violation = e.failure(setup)
			r.Violation.Seed = seed
			return
		}
	}
}

func (e *engine) replay(r *Result, schedule string, setup func(*World)) {
	took, err := parse(schedule)
	if err != nil {
		r.Violation = &Violation{Err: err, Schedule: schedule}
		return
	}
	e.policy = &script{took: took}
	e.execute(setup)
	r.Executions++
	if e.failed != nil {
		r.Violation = e.failure(setup)
	}
}

// Run explores, and fails the test if an execution does. It prints the counts.
// The environment variable KBUS_CHECK_REPLAY overrides Config.Replay, and
// KBUS_CHECK_SEED Config.Seed.
func Run(t testing.TB, cfg Config, setup func(*World)) *Result {
	t.Helper()
	if s := os.Getenv("KBUS_CHECK_REPLAY"); s != "" {
		cfg.Replay = s
	}
	if s := os.Getenv("KBUS_CHECK_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &cfg.Seed); err != nil {
			t.Fatalf("KBUS_CHECK_SEED: %v", err)
		}
	}
	if cfg.Mode == Random && cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()>>1 | 1
	}
	r := Explore(cfg, setup)
	t.Logf("%s: %s", t.Name(), r)
	if cfg.Mode == Random {
		t.Logf("seed %d", cfg.Seed)
	}
	if r.Violation != nil {
		t.Fatalf("%s: %s", t.Name(), r.Violation)
	}
	return r
}
