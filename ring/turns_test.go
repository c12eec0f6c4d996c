//go:build !kbuscheck

package ring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"kbus.internal/shm"
)

// TestTurns: a Ksock gives its turn away in a stream only, and ever more rarely if
// that brings little.
func TestTurns(t *testing.T) {
	tu := turns{count: &shm.Heap(4096).Words()[0]}
	given := func() (skipped int) {
		for !tu.give() {
			if skipped++; skipped > 1<<maxBad {
				t.Fatal("never again")
			}
		}
		return skipped
	}
	if tu.give() {
		t.Error("given without a stream")
	}
	tu.slept(shortSleep)
	if tu.give() {
		t.Error("given after a long sleep")
	}
	tu.slept(shortSleep - 1)
	given()
	const turn = 100 * streamGap
	long := func(brought uint64) {
		tu.was.Store(tu.count.Load())
		tu.took.Store(int64(turn))
		tu.count.Add(brought)
	}
	for i := 1; i <= maxBad+2; i++ {
		long(uint64(turn/streamGap) - 1)
		// Whether this very turn takes long, too, is the machine's business: then it is judged with the next.
		if n, want := given(), 1<<min(i, maxBad)-1; n != want {
			t.Errorf("after %d turns that brought little, one is given after %d more waits, want %d", i, n, want)
		}
	}
	if n := tu.spin(64); n != 64 {
		t.Errorf("spins %d", n)
	}
	long(uint64(turn / streamGap))
	if n := given(); n != 0 || tu.bad.Load() != 0 {
		t.Errorf("after a turn that brought much, the next comes after %d, %d bad", n, tu.bad.Load())
	}
	if n := tu.spin(64); n >= 64 || n < 1 {
		t.Errorf("spins %d in a crowd", n)
	}
	long(0)
	given()
	if n := tu.spin(64); n != 64 {
		t.Errorf("spins %d after it", n)
	}
	if d := time.Duration(tu.took.Load()); d != 0 && d <= longTurn {
		t.Errorf("a turn of %v is long", d)
	}
}

// A wait for something else than a message sleeps, though there is one.
func TestWaitBesideAMessage(t *testing.T) {
	w := newWorld(t, Config{MaxKsocks: 6})
	k := w.open(ReadWrite)
	w.bind(k, "$.X", false)
	if _, err := k.Send(&Header{Name: "$.X"}, nil); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var over atomic.Bool
	done := make(chan error)
	go func() {
		done <- k.WaitUntil(t.Context(), 100, func() (bool, error) { asked.Add(1); return over.Load(), nil })
	}()
	for w.b.w[k.s+sSleeping].Load() == 0 {
		if asked.Load() > 1000 {
			t.Error("it looks again and again")
			break
		}
		runtime.Gosched()
	}
	over.Store(true)
	k.Nudge()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
