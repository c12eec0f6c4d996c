//go:build !kbuscheck

package shm

import "sync/atomic"

// A Word is one 64-bit word of a region, shared with other processes. Every
// access to a shared word goes through its methods: Load, Store, CompareAndSwap
// and Add are sequentially consistent on both CPUs; Put is the one exception.
// Built with the tag kbuscheck, the same methods ask a test's scheduler first.
//
// A Word must not be copied.
type Word struct{ v atomic.Uint64 }

// Load returns the word.
func (w *Word) Load() uint64 { return w.v.Load() }

// Store sets the word; everything after it is ordered behind it.
func (w *Word) Store(x uint64) { w.v.Store(x) }

// CompareAndSwap sets the word to new if it is old, and tells whether it did.
func (w *Word) CompareAndSwap(old, new uint64) bool { return w.v.CompareAndSwap(old, new) }

// Advance sets the word to new if it is old, and does not tell: for steps that
// any of several processes may take.
func (w *Word) Advance(old, new uint64) { w.v.CompareAndSwap(old, new) }

// Add adds delta to the word and returns the sum.
func (w *Word) Add(delta uint64) uint64 { return w.v.Add(delta) }

// Put sets a word that a later CompareAndSwap or Store of the same process
// publishes: nobody acts on it before that. It is atomic (never torn), and
// ordered before every later write of this process, but not before its later
// reads. That costs a plain store where Store costs an exchange.
func (w *Word) Put(x uint64) { put(&w.v, x) }
