//go:build !kbuscheck && (!amd64 || race)

package shm

import "sync/atomic"

// put is a full atomic store where a plain one promises too little (arm64), and
// where the race detector must see it.
func put(w *atomic.Uint64, x uint64) { w.Store(x) }
