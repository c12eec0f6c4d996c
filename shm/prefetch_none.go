//go:build kbuscheck || race

package shm

// WillWrite is a hint that only real memory has a use for.
func (w *Word) WillWrite() {}

// WillWriteTwo is a hint that only real memory has a use for.
func (w *Word) WillWriteTwo() {}

// WillRead is a hint that only real memory has a use for.
func (w *Word) WillRead() {}
