//go:build kbuscheck

package ring

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"kbus.internal/shm"
)

// A jostle is a Scheduler for goroutines that really run at once: it has another
// one go on ahead of a step now and then. So they meet in the midst of what they
// do, which they seldom would by themselves.
type jostle struct{}

func (jostle) Before(*shm.Word, shm.Op) {
	if rand.Uint32()%8 == 0 {
		runtime.Gosched()
	}
}
func (jostle) After(*shm.Word, shm.Op, uint64, uint64, uint64) {}
func (jostle) Failed(*shm.Word, uint64, uint64)                {}
func (jostle) Advanced(*shm.Word, uint64, uint64, uint64)      {}
func (jostle) Here() (h [2]uint64)                             { return h }
func (jostle) Forget([2]uint64, []uint64)                      {}
func (jostle) Wait(*shm.Word, uint32, time.Duration)           { runtime.Gosched() }
func (jostle) Wake(*shm.Word)                                  {}
func (jostle) Pause()                                          { runtime.Gosched() }

// TestConcurrentSteps is TestConcurrentHistories with operations that meet at any
// of their steps.
func TestConcurrentSteps(t *testing.T) {
	shm.SetScheduler(jostle{})
	defer shm.SetScheduler(nil)
	concurrentHistories(t)
}
