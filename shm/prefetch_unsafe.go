//go:build !kbuscheck && !race

package shm

import "unsafe"

//go:noescape
func fetchForWrite(p unsafe.Pointer)

//go:noescape
func fetchTwoForWrite(p unsafe.Pointer)

//go:noescape
func fetchForRead(p unsafe.Pointer)

// WillWrite begins to bring the word's cache line here, to be written, and does
// not wait for it: what would be one wait after the other for lines that other
// processes wrote last becomes one. It changes nothing but time.
func (w *Word) WillWrite() { fetchForWrite(unsafe.Pointer(w)) }

// WillWriteTwo is WillWrite for the word's cache line and the next one.
func (w *Word) WillWriteTwo() { fetchTwoForWrite(unsafe.Pointer(w)) }

// WillRead is WillWrite for a line that is only to be read.
func (w *Word) WillRead() { fetchForRead(unsafe.Pointer(w)) }
