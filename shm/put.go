//go:build !kbuscheck && (!amd64 || race)

package shm

import "sync/atomic"

// put is a full atomic store where a plain one promises too little (arm64), and
// where the race detector must see it.
func put(w *atomic.Uint64, x uint64) { w.Store(x) }

// PutAll puts x into the words of w from the front, which are at least as many.
func PutAll(w []Word, x [][3]uint64) {
	for i := range x {
		for j := range x[i] {
			w[3*i+j].Put(x[i][j])
		}
	}
}
