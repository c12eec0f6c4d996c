package shm

import "errors"

// Conditions that Create and Map report, wrapped with what was found and
// wanted; test for them with errors.Is. A refusal by the kernel is wrapped too
// and answers errors.Is for its errno.
var (
	// ErrSize: the size asked for is not positive, not a multiple of 8, or more
	// than the machine's memory and swap together.
	ErrSize = errors.New("impossible size for a region")

	// ErrForeign: the descriptor is not a region that Create made: not a memory
	// file, not sealed, closed to writing, or of an impossible size.
	ErrForeign = errors.New("not a region of a bus")
)
