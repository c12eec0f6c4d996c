//go:build kbuscheck || race

package shm

// WillWrite is a hint that only real memory has a use for.
func (w *Word) WillWrite() {}

// WillRead is a hint that only real memory has a use for.
func (w *Word) WillRead() {}
