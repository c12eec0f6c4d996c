//go:build !kbuscheck

package shm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kbus.internal/shm/shmtest"
)

// asleepOn is the value that sleepers of these tests wait with, found again in
// the kernel's list of what threads do.
const asleepOn = 0x600dbed

// awaitSleepers returns when n threads of the process sleep in a shared
// futex wait with the value asleepOn.
func awaitSleepers(t *testing.T, pid, n int) {
	t.Helper()
	// A system call in /proc/PID/task/TID/syscall: number, then arguments.
	shared := fmt.Sprintf("%d 0x%%x 0x0 %#x ", unix.SYS_FUTEX, asleepOn)
	for {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("process %d has no threads, error %v", pid, err)
		}
		found := 0
		for _, task := range tasks {
			call, _ := os.ReadFile(task) // an error is a thread that has ended
			var addr uint64
			if _, err := fmt.Sscanf(string(call), shared, &addr); err == nil {
				found++
			}
		}
		if found >= n {
			return
		}
		runtime.Gosched()
	}
}

// sleepChild answers a store to word 0 with one to word 1, asleep meanwhile.
func sleepChild() error {
	m, err := inherited()
	if err != nil {
		return err
	}
	w := &m.Words()[0]
	for w.Load() == asleepOn {
		if err := w.Wait(asleepOn, time.Hour); err != nil {
			return err
		}
	}
	answer := &m.Words()[1]
	answer.Store(w.Load() + 1)
	answer.Wake()
	return nil
}

func TestWakeAcrossProcesses(t *testing.T) {
	m := create(t, pageSize)
	w, answer := &m.Words()[0], &m.Words()[1]
	w.Store(asleepOn)
	child := shmtest.Command(t, "sleep")
	child.ExtraFiles = []*os.File{m.File()}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	awaitSleepers(t, child.Process.Pid, 1)
	w.Store(1000)
	w.Wake()
	for answer.Load() == 0 {
		if err := answer.Wait(0, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if got := answer.Load(); got != 1001 {
		t.Errorf("the answer is %d, want 1001", got)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestWakeWakesAll(t *testing.T) {
	for name, m := range map[string]*Memory{"mapped": create(t, pageSize), "heap": Heap(pageSize)} {
		t.Run(name, func(t *testing.T) {
			w := &m.Words()[3]
			w.Store(1<<40 | asleepOn) // the high half does not matter
			const sleepers = 5
			var wg sync.WaitGroup
			for range sleepers {
				wg.Go(func() {
					for uint32(w.Load()) == asleepOn {
						if err := w.Wait(asleepOn, time.Hour); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			awaitSleepers(t, os.Getpid(), sleepers)
			w.Store(0)
			w.Wake()
			wg.Wait()
		})
	}
}

func TestWaitReturns(t *testing.T) {
	w := &create(t, pageSize).Words()[0]
	w.Store(7<<32 | 5)
	for name, c := range map[string]struct {
		old     uint32
		timeout time.Duration
		atLeast time.Duration
	}{
		"changed":            {4, time.Hour, 0},
		"high half":          {7, time.Hour, 0},
		"no timeout":         {5, 0, 0},
		"timeout over":       {5, -1, 0},
		"timeout":            {5, 3 * time.Millisecond, 3 * time.Millisecond},
		"shortest timeout":   {5, 1, 1},
		"changed, long wait": {4, math.MaxInt64, 0},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if err := w.Wait(c.old, c.timeout); err != nil {
				t.Error(err)
			}
			// A signal may end the sleep before its time: Go's scheduler sends
			// some. So again, as every caller does.
			for time.Since(start) < c.atLeast {
				if err := w.Wait(c.old, c.atLeast-time.Since(start)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestWaitReportsABrokenMapping(t *testing.T) {
	m := create(t, pageSize)
	if err := unix.Mprotect(m.Bytes(), unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	w := &m.Words()[0]
	// The kernel reads the word, not this process.
	if err := w.Wait(0, time.Hour); !errors.Is(err, unix.EFAULT) {
		t.Errorf("waiting in memory that can not be read: error %v, want EFAULT", err)
	}
	w.Wake() // wakes nobody, and harms nobody
}

func TestPause(t *testing.T) {
	for _, n := range []int{math.MinInt, -1, 0, 1, 50} {
		Pause(n) // returns
	}
	const n = 100_000
	start := time.Now()
	Pause(n)
	// Each takes a cycle at least, and no CPU has 10 GHz.
	if took := time.Since(start); took < n*time.Nanosecond/10 {
		t.Errorf("%d pauses took %v", n, took)
	}
}
