//go:build !kbuscheck

package shm

// Pause executes n PAUSE (amd64) or YIELD (arm64) instructions: it tells the
// CPU that the caller spins on a word, which saves energy, lets the other
// hardware thread run, and spares amd64 the penalty for leaving the loop when
// the word changes. Nothing for n <= 0. A PAUSE takes about 20 to 70 ns; the
// goroutine can not be preempted meanwhile, so n stays small (below some
// hundreds), and the caller looks at the word in between.
//
// There is no TPAUSE (WAITPKG): it gains only where single waits are long, and
// long waits are Word.Wait's.
func Pause(n int)
