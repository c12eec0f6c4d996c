//go:build !kbuscheck

package ring

// Sizes that the checker of interleavings has smaller (sizes_check.go).
const (
	journalWords = 1024
	heldWords    = 2048 // half for the sending side, half for the reading side

	// spinBeforeHelp is how often a process looks at an entry in progress before
	// it helps: about the time that its own process needs to finish it.
	spinBeforeHelp = 40
	looksPerSpin   = 8 // looks at a queue for each count of a caller's spin: about 20 ns

	// byTheClock allows what goes by the clock, which the checker does not simulate.
	byTheClock = true
)
