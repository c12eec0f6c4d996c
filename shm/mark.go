//go:build !kbuscheck

package shm

// A Mark is a place in what a process does, for the checker of interleavings;
// otherwise it is nothing.
type Mark struct{}

// Here marks a place.
func Here() Mark { return Mark{} }

// Forget promises that of all that the caller has read since the mark, only keep
// has any influence on what it will do.
func (Mark) Forget(keep ...uint64) {}
