//go:build kbuscheck

package shm

import (
	"sync/atomic"
	"time"
)

// A Word is one 64-bit word of a region, as in the normal build. Built with the
// tag kbuscheck its methods ask the installed Scheduler first; with none
// installed they are plain atomics.
type Word struct{ v atomic.Uint64 }

// An Op is a kind of operation on shared words.
type Op uint8

// The operations that a Scheduler hears of.
const (
	OpLoad Op = iota
	OpStore
	OpCompareAndSwap
	OpAdvance
	OpAdd
	OpPut
)

// A Scheduler decides which simulated process goes on at each operation on a
// shared word. Before is called ahead of an operation and may keep the caller
// as long as it likes, or panic to end it; After is called behind it, with the
// word's value before and after, and says what the caller learns in seen; Failed
// instead behind a CompareAndSwap that expected something else, and Advanced
// behind every Advance. The others stand for the operations of the same names.
type Scheduler interface {
	Before(w *Word, op Op)
	After(w *Word, op Op, old, new, seen uint64)
	Failed(w *Word, is, expected uint64)
	Advanced(w *Word, was, expected, new uint64)
	Wait(w *Word, old uint32, timeout time.Duration)
	Wake(w *Word)
	Pause()
	Here() [2]uint64
	Forget(here [2]uint64, keep []uint64)
}

var scheduler Scheduler

// SetScheduler installs s, or none if it is nil, for the whole process. It must
// not be called while other goroutines use words.
func SetScheduler(s Scheduler) { scheduler = s }

// Load returns the word.
func (w *Word) Load() uint64 {
	s := scheduler
	if s == nil {
		return w.v.Load()
	}
	s.Before(w, OpLoad)
	x := w.v.Load()
	s.After(w, OpLoad, x, x, x)
	return x
}

// Store sets the word.
func (w *Word) Store(x uint64) { w.set(OpStore, x) }

// Put sets a word that a later operation of the same process publishes.
func (w *Word) Put(x uint64) { w.set(OpPut, x) }

func (w *Word) set(op Op, x uint64) {
	s := scheduler
	if s == nil {
		w.v.Store(x)
		return
	}
	s.Before(w, op)
	old := w.v.Swap(x)
	s.After(w, op, old, x, 0)
}

// CompareAndSwap sets the word to new if it is old, and tells whether it did.
func (w *Word) CompareAndSwap(old, new uint64) bool {
	s := scheduler
	if s == nil {
		return w.v.CompareAndSwap(old, new)
	}
	s.Before(w, OpCompareAndSwap)
	for {
		if x := w.v.Load(); x != old {
			s.Failed(w, x, old)
			return false
		}
		if w.v.CompareAndSwap(old, new) {
			s.After(w, OpCompareAndSwap, old, new, 1)
			return true
		}
	}
}

// Advance sets the word to new if it is old, and does not tell.
func (w *Word) Advance(old, new uint64) {
	s := scheduler
	if s == nil {
		w.v.CompareAndSwap(old, new)
		return
	}
	s.Before(w, OpAdvance)
	x := w.v.Load()
	for x == old && !w.v.CompareAndSwap(old, new) {
		x = w.v.Load()
	}
	s.Advanced(w, x, old, new)
}

// Add adds delta to the word and returns the sum.
func (w *Word) Add(delta uint64) uint64 {
	s := scheduler
	if s == nil {
		return w.v.Add(delta)
	}
	s.Before(w, OpAdd)
	x := w.v.Add(delta)
	s.After(w, OpAdd, x-delta, x, x)
	return x
}

// Wait sleeps while the low 32 bits of the word are old, until a Wake. Without
// a scheduler it only yields for a moment, as a sleep that a signal ends.
func (w *Word) Wait(old uint32, timeout time.Duration) error {
	if s := scheduler; s != nil {
		s.Wait(w, old, timeout)
	} else if timeout > 0 && uint32(w.v.Load()) == old {
		time.Sleep(min(timeout, 100*time.Microsecond))
	}
	return nil
}

// Wake ends all sleeps in Wait on the word.
func (w *Word) Wake() {
	if s := scheduler; s != nil {
		s.Wake(w)
	}
}

// Pause tells that the caller waits for a word that it has read to change.
func Pause(n int) {
	if s := scheduler; s != nil && n > 0 {
		s.Pause()
	}
}
