//go:build kbuscheck

package check

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"kbus.internal/shm"
)

// everything is a policy that knows nothing: each sequence of choices in turn.
type everything struct {
	path []struct{ left choices }
	took []choice
}

func (b *everything) access(*engine, *process, access) {}

func (b *everything) pick(e *engine) choice {
	k := int(e.pos)
	if k < len(b.took) {
		return b.took[k]
	}
	en := e.enabled()
	c := none // an end of the execution, unless somebody ends there
	if en != 0 {
		c = en.first()
	}
	for i := range e.procs {
		en |= e.ends(i)
	}
	if c != none {
		en &^= c.bit()
	}
	b.took = append(b.took, c)
	b.path = append(b.path, struct{ left choices }{en})
	return c
}

func (b *everything) next() bool {
	for n := len(b.path) - 1; n >= 0; n-- {
		if l := b.path[n].left; l != 0 {
			b.took = append(b.took[:n], l.first())
			b.path = append(b.path[:n], struct{ left choices }{l &^ l.first().bit()})
			return true
		}
	}
	return false
}

// bruteForce executes all interleavings one by one and returns their number, or
// false if there are more than limit.
func bruteForce(t *testing.T, cfg Config, limit int, setup func(*World)) (int, bool) {
	t.Helper()
	cfg.MaxSteps = 1000
	total := 0
	for _, v := range cfg.harms() {
		cfg.victims = v
		e := newEngine(&cfg)
		b := &everything{}
		e.policy = b
		for {
			e.execute(setup)
			if e.failed != nil {
				t.Fatalf("%v: %s", e.failed, e.schedule())
			}
			if total++; total > limit {
				return total, false
			}
			if !b.next() {
				break
			}
		}
		e.close()
	}
	return total, true
}

// Two processes of n and m steps have (n+m)!/(n!m!) interleavings.
func TestCountsAgreeWithBinomials(t *testing.T) {
	for _, c := range []struct {
		n, m int
		want float64
	}{{1, 1, 2}, {2, 3, 10}, {5, 5, 252}, {10, 10, 184756}} {
		setup := func(w *World) {
			x := w.Words(2)
			for p, n := range []int{c.n, c.m} {
				w.Go(string(rune('A'+p)), func() {
					for i := range n {
						x[p].Store(uint64(i))
					}
				})
			}
		}
		r := Explore(Config{Full: true}, setup)
		if r.Interleavings != c.want {
			t.Errorf("%d and %d steps: %v interleavings, want %v", c.n, c.m, r.Interleavings, c.want)
		}
		if n, ok := bruteForce(t, Config{}, 1000, setup); ok && float64(n) != c.want {
			t.Errorf("%d and %d steps: %d by brute force, want %v", c.n, c.m, n, c.want)
		}
		if r := Explore(Config{}, setup); r.Interleavings != 1 {
			t.Errorf("%d and %d independent steps: %v interleavings behind the reduction, want 1", c.n, c.m, r.Interleavings)
		}
	}
}

// program sets up a small random program, the same for the same seed, whose
// outcomes it adds to out.
func program(seed uint64, size int, out map[string]int) (Config, func(*World)) {
	r := rand.New(rand.NewPCG(seed, 1))
	procs, words := 2+r.IntN(2), 1+r.IntN(3)
	var cfg Config
	switch r.IntN(4) {
	case 0:
		cfg.Die = []string{"A"}
	case 1:
		cfg.Stop = []string{"B"}
	case 2:
		cfg.Puts = true
	}
	history := r.IntN(2) == 0
	type instr struct{ op, word, arg, when int }
	code := make([][]instr, procs)
	for p := range code {
		n := 1 + r.IntN(size)
		for range n {
			code[p] = append(code[p], instr{r.IntN(15), r.IntN(words), r.IntN(3), r.IntN(3)})
		}
	}
	return cfg, func(w *World) {
		x := w.Words(words + 1)
		results := make([]string, procs)
		for p := range procs {
			w.Daemon(string(rune('A'+p)), func() {
				var res []byte
				last := uint64(0)
				for i, c := range code[p] {
					if c.when == 2 && last == 1 {
						continue // local state decides what is done
					}
					do := func() any {
						v := &x[c.word]
						switch c.op {
						case 0, 1, 2:
							last = v.Load()
						case 3:
							v.Store(uint64(c.arg))
						case 4, 5:
							last = 0
							if v.CompareAndSwap(uint64(c.arg), uint64(c.arg+1)%3) {
								last = 1
							}
						case 6:
							last = v.Add(1)
						case 7:
							v.Put(uint64(c.arg))
						case 8:
							_ = v.Wait(uint32(c.arg), 1)
						case 9:
							v.Wake()
						case 10, 11:
							v.Advance(uint64(c.arg), uint64(c.arg+1)%3)
						case 12: // a plan that others may carry out as well
							for i := range words {
								v := &x[(c.word+i)%words]
								v.Advance(uint64(c.arg), uint64(c.arg+1)%3)
							}
						case 13: // a read that does not matter
							here := shm.Here()
							v.Load()
							here.Forget()
						case 14:
							for last = v.Load(); last == uint64(c.arg); last = v.Load() {
								shm.Pause(1)
							}
						}
						return last
					}
					if history && i%2 == 0 {
						w.Do("op", c.op, do)
					} else {
						do()
					}
					res = append(res, '0'+byte(last))
				}
				if cfg.Die != nil && p == 1 {
					if w.AwaitEnd("A") {
						x[words].Store(9)
					}
				}
				results[p] = string(res)
			})
		}
		w.AtEnd(func() error {
			s := strings.Join(results, "/")
			for i := range x {
				s += fmt.Sprintf(" %d", x[i].Load())
			}
			for p := range procs {
				s += " " + w.Status(string(rune('A'+p)))
			}
			h := w.History()
			for i, a := range h {
				s += fmt.Sprintf(" %s%v=%v:", a.Process, a.In, a.Out)
				for j, b := range h {
					if a.Done() && a.Return < b.Call {
						s += fmt.Sprint(j)
					}
				}
				_ = i
			}
			out[s]++
			return nil
		})
	}
}

// programs is how many random programs a test tries: KBUS_CHECK_PROGRAMS.
func programs(t *testing.T) int {
	n := 150
	if testing.Short() {
		n = 40
	}
	if s := os.Getenv("KBUS_CHECK_PROGRAMS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// What the reductions leave out reaches no end that they do not reach.
func TestReductionsKeepEveryOutcome(t *testing.T) {
	programs := programs(t)
	executed, reduced, checked := 0, 0, 0
	for seed := uint64(1); checked < programs; seed++ {
		want := map[string]int{}
		cfg, setup := program(seed, 5, want)
		n, ok := bruteForce(t, cfg, 30000, setup)
		if !ok {
			continue
		}
		checked++
		executed += n
		for _, full := range []bool{true, false} {
			got := map[string]int{}
			cfg, setup := program(seed, 5, got)
			cfg.Full = full
			r := Explore(cfg, setup)
			if r.Violation != nil {
				t.Fatalf("seed %d: %s", seed, r.Violation)
			}
			if full && cfg.Die == nil && cfg.Stop == nil && r.Interleavings != float64(n) {
				t.Fatalf("seed %d: %v interleavings, %d by brute force", seed, r.Interleavings, n)
			}
			if !full {
				reduced += r.Executions
			}
			w, g := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))
			if !slices.Equal(w, g) {
				w = slices.DeleteFunc(w, func(s string) bool { return got[s] > 0 })
				t.Fatalf("seed %d, full %v: %d outcomes; misses %d:\n%s", seed, full, len(g), len(w), strings.Join(w, "\n"))
			}
		}
	}
	t.Logf("%d programs: %d interleavings by brute force, %d executions with the reductions", checked, executed, reduced)
}

// The same for longer programs, against an exploration that leaves out nothing but
// states that it has met.
func TestOrdersThatAreLeftOutEndTheSame(t *testing.T) {
	programs := programs(t)
	var executed, reduced, states, left int
	for seed, checked := uint64(1), 0; checked < programs; seed++ {
		want, got := map[string]int{}, map[string]int{}
		cfg, setup := program(seed, 12, want)
		cfg.Full, cfg.Limit = true, 4000
		full := Explore(cfg, setup)
		if full.Violation != nil {
			t.Fatalf("seed %d: %s", seed, full.Violation)
		}
		if !full.Complete {
			continue
		}
		checked++
		cfg, setup = program(seed, 12, got)
		r := Explore(cfg, setup)
		if r.Violation != nil {
			t.Fatalf("seed %d: %s", seed, r.Violation)
		}
		executed, states, reduced, left = executed+full.Executions, states+full.States, reduced+r.Executions, left+r.States
		for s := range want {
			if got[s] == 0 {
				t.Fatalf("seed %d: %d outcomes of %d; misses for example %s", seed, len(got), len(want), s)
			}
		}
	}
	t.Logf("%d programs: %d executions, %d states; %d, %d with the reduction", programs, executed, states, reduced, left)
}
