//go:build kbuscheck

package shm

// A Mark is a place in what a process does: for the scheduler, what it has read
// up to there.
type Mark struct{ read [2]uint64 }

// Here marks a place.
func Here() (m Mark) {
	if s := scheduler; s != nil {
		m.read = s.Here()
	}
	return m
}

// Forget promises that of all that the caller has read since the mark, only keep
// has any influence on what it will do.
func (m Mark) Forget(keep ...uint64) {
	if s := scheduler; s != nil {
		s.Forget(m.read, keep)
	}
}
