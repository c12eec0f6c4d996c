//go:build kbuscheck

package ring

// Small, so that few steps reach what many do otherwise; see sizes.go.
const (
	journalWords   = 16
	heldWords      = 16
	spinBeforeHelp = 0
	looksPerSpin   = 1
	byTheClock     = false
)
