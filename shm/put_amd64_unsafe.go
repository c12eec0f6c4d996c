//go:build !kbuscheck && !race && amd64

package shm

import (
	"sync/atomic"
	"unsafe"
)

// put is a plain store: aligned 64-bit stores are never torn on amd64, and
// stores become visible in program order. The compiler keeps it before the
// atomic operation that publishes it.
func put(w *atomic.Uint64, x uint64) { *(*uint64)(unsafe.Pointer(w)) = x }

// PutAll puts x into the words of w from the front, which are at least as many.
func PutAll(w []Word, x [][3]uint64) {
	w = w[:3*len(x)]
	copy(unsafe.Slice((*[3]uint64)(unsafe.Pointer(unsafe.SliceData(w))), len(x)), x)
}
