package shm

import "unsafe"

// wordSize is the size of a Word in bytes; a region is a whole number of them.
const wordSize = 8

// A Word is exactly 8 bytes: it lies in memory that other processes map. Fails
// to compile in both directions.
var _ = [1]struct{}{}[unsafe.Sizeof(Word{})-wordSize]

// viewWords returns b as words. b is a mapping: it begins at a page and its
// length is a multiple of 8 (checkSize).
func viewWords(b []byte) []Word {
	return unsafe.Slice((*Word)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/wordSize)
}

// viewBytes returns the memory of w as bytes.
func viewBytes(w []Word) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), len(w)*wordSize)
}

// heapWords returns n words of Go memory that begin at a multiple of 64.
func heapWords(n int64) []Word {
	const line = 64 / wordSize
	u := make([]uint64, n+line-1)
	skip := -(uintptr(unsafe.Pointer(unsafe.SliceData(u))) / wordSize) % line
	w := unsafe.Slice((*Word)(unsafe.Pointer(unsafe.SliceData(u))), len(u))
	return w[skip:][:n:n]
}
