//go:build kbuscheck

package check

import (
	"fmt"
	"strings"
	"testing"

	"kbus.internal/shm"
)

// increments is n processes that each add 1 to a word, k times, by add.
func increments(n, k int, add func(*shm.Word)) func(*World) {
	return func(w *World) {
		x := &w.Words(1)[0]
		for i := range n {
			w.Go(string(rune('A'+i)), func() {
				for range k {
					add(x)
				}
			})
		}
		w.AtEnd(func() error {
			if got := x.Load(); got != uint64(n*k) {
				return fmt.Errorf("%d additions gave %d", n*k, got)
			}
			return nil
		})
	}
}

func addByCAS(x *shm.Word) {
	for {
		if v := x.Load(); x.CompareAndSwap(v, v+1) {
			return
		}
	}
}

func addByStore(x *shm.Word) { x.Store(x.Load() + 1) }

func TestCounterHolds(t *testing.T) {
	Run(t, Config{}, increments(3, 2, addByCAS))
	Run(t, Config{Full: true}, increments(3, 2, addByCAS))
	if n, ok := bruteForce(t, Config{}, 100000, increments(2, 2, addByCAS)); ok {
		r := Explore(Config{Full: true}, increments(2, 2, addByCAS))
		t.Logf("2 x 2: %v interleavings, %d by brute force", r.Interleavings, n)
		if r.Interleavings != float64(n) {
			t.Error("they differ")
		}
	} else {
		t.Errorf("2 x 2: more than %d interleavings by brute force", n)
	}
}

// finds wants each way of exploring to find a failure with the given text, and
// its schedule to replay to the same.
func finds(t *testing.T, cfg Config, text string, setup func(*World)) {
	t.Helper()
	for name, change := range map[string]func(*Config){
		"exhaustive": func(*Config) {},
		"full":       func(c *Config) { c.Full = true },
		"bounded":    func(c *Config) { c.Mode, c.Preemptions = Bounded, 3 },
		"random":     func(c *Config) { c.Mode, c.Runs = Random, 20000 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			change(&cfg)
			r := Explore(cfg, setup)
			if r.Violation == nil {
				t.Fatalf("not found: %s", r)
			}
			if !strings.Contains(r.Violation.Err.Error(), text) {
				t.Fatalf("found %v, want %q", r.Violation.Err, text)
			}
			if !r.Violation.Replayed {
				t.Error("not replayed")
			}
			cfg.Replay = r.Violation.Schedule
			again := Explore(cfg, setup)
			if again.Violation == nil || again.Violation.Err.Error() != r.Violation.Err.Error() {
				t.Errorf("%s replays to %v, not to %v", r.Violation.Schedule, again.Violation, r.Violation.Err)
			}
			t.Logf("%v after %d executions: %s", r.Violation.Err, r.Executions, r.Violation.Schedule)
		})
	}
}

func TestFindsLostUpdate(t *testing.T) {
	finds(t, Config{}, "additions gave", increments(2, 2, addByStore))
}

// wakeup is a reader that sleeps for one message and two helpers that wake it,
// one of which may stop. With clears the waker clears the sleeper's flag.
func wakeup(clears bool) func(*World) {
	return func(w *World) {
		x := w.Words(3)
		message, sleeper, sig := &x[0], &x[1], &x[2]
		w.Go("reader", func() {
			for message.Load() == 0 {
				s := sig.Load()
				sleeper.Store(1)
				if message.Load() == 0 {
					_ = sig.Wait(uint32(s), 1)
				}
				sleeper.Store(0)
			}
		})
		for _, name := range []string{"H1", "H2"} {
			w.Go(name, func() {
				message.CompareAndSwap(0, 1)
				sig.Add(1)
				if clears {
					if sleeper.CompareAndSwap(1, 0) {
						sig.Wake()
					}
				} else if sleeper.Load() == 1 {
					sig.Wake()
				}
			})
		}
	}
}

func TestWakeUpHolds(t *testing.T) {
	Run(t, Config{Stop: []string{"H1", "H2"}, Die: []string{"H1"}}, wakeup(false))
	EachStep(t, Config{Runs: 20}, "H1", "stop", wakeup(false))
}

func TestFindsLostWakeUp(t *testing.T) {
	finds(t, Config{Stop: []string{"H1"}}, "deadlock: reader sleeps for ever", wakeup(true))
}

// freeList is a stack of three cells from which two processes take one and put
// it back. With tags its head counts.
func freeList(tag uint64) func(*World) {
	return func(w *World) {
		m := w.Memory(8*8, func(m *shm.Memory) {
			for i, x := range []uint64{1, 2, 3, 0} { // head, and the next of each cell
				m.Words()[i].Store(x)
			}
		})
		head, next, owned := &m.Words()[0], m.Words()[:4], m.Words()[4:]
		take := func() uint64 {
			for {
				h := head.Load()
				c := h & 0xff
				if c == 0 {
					return 0
				}
				n := next[c].Load()
				if head.CompareAndSwap(h, h&^0xff+tag|n) {
					return c
				}
			}
		}
		give := func(c uint64) {
			for {
				h := head.Load()
				next[c].Store(h & 0xff)
				if head.CompareAndSwap(h, h&^0xff+tag|c) {
					return
				}
			}
		}
		own := func(c uint64) {
			if c > 0 && owned[c].Add(1) != 1 {
				w.Fail("cell %d is taken twice", c)
			}
		}
		disown := func(c uint64) {
			if c > 0 {
				owned[c].Add(^uint64(0))
			}
		}
		w.Go("A", func() {
			c := take()
			own(c)
			disown(c)
		})
		w.Go("B", func() {
			c, d := take(), take()
			own(c)
			own(d)
			if c > 0 {
				disown(c)
				give(c)
				own(take())
			}
		})
	}
}

func TestFreeListHolds(t *testing.T) { Run(t, Config{}, freeList(0x100)) }

func TestFindsABA(t *testing.T) { finds(t, Config{}, "is taken twice", freeList(0)) }

// A process that spins for another that may stop is found to.
func TestFindsBlocking(t *testing.T) {
	setup := func(w *World) {
		x := &w.Words(1)[0]
		for _, name := range []string{"A", "B"} {
			w.Go(name, func() {
				for !x.CompareAndSwap(0, 1) {
					shm.Pause(1)
				}
				x.Store(0)
			})
		}
	}
	Run(t, Config{}, setup)
	finds(t, Config{Stop: []string{"A"}}, "deadlock: B spins for ever", setup)
}

// An operation that takes more steps the more the others do is found.
func TestFindsTooManySteps(t *testing.T) {
	setup := func(w *World) {
		x := &w.Words(1)[0]
		for _, name := range []string{"A", "B"} {
			w.Go(name, func() {
				for range 3 {
					w.Do("add", nil, func() any { addByCAS(x); return nil })
				}
			})
		}
	}
	finds(t, Config{OpSteps: 5}, "takes more than 5 steps", setup)
	r := Run(t, Config{}, setup)
	if r.MaxOp["add"] != 8 {
		t.Errorf("add takes %d steps of its own at most, want 8", r.MaxOp["add"])
	}
}

// A supervisor repairs what a dead process left, at each of its steps.
func TestDeathIsTold(t *testing.T) {
	setup := func(w *World) {
		x := w.Words(2)
		lock, done := &x[0], &x[1]
		w.Go("A", func() {
			lock.Store(1)
			done.Add(1)
			lock.Store(0)
		})
		w.Go("supervisor", func() {
			if w.AwaitEnd("A") {
				lock.Store(0)
			}
		})
		w.AtEnd(func() error {
			if lock.Load() != 0 {
				return fmt.Errorf("still locked")
			}
			return nil
		})
	}
	Run(t, Config{Die: []string{"A"}}, setup)
	if e := EachStep(t, Config{}, "A", "die", setup); e.Points != 6 {
		t.Errorf("died at %d points, want 3 under each of 2 orders", e.Points)
	}
	finds(t, Config{Stop: []string{"A"}}, "waits for ever for an end", setup)
}
