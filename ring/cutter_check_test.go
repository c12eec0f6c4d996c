//go:build kbuscheck

package ring

import (
	"math/rand/v2"
	"testing"
	"time"

	"kbus.internal/shm"
)

// A cutter is the scheduler of one process at a time: it counts the steps, and
// ends the process (see cutOff) before its write number left. Ends before reads
// are not tried: they leave what an end before the next write leaves.
type cutter struct {
	armed bool
	left  int
	steps int
	limit int // of steps, unless 0
}

type cutOff struct{}

func (c *cutter) Before(_ *shm.Word, op shm.Op) {
	if c.steps++; c.steps > c.limit && c.limit > 0 {
		panic("endless")
	}
	if !c.armed || op == shm.OpLoad {
		return
	}
	if c.left == 0 {
		c.armed = false
		panic(cutOff{})
	}
	c.left--
}
func (c *cutter) After(*shm.Word, shm.Op, uint64, uint64, uint64) {}
func (c *cutter) Failed(*shm.Word, uint64, uint64)                {}
func (c *cutter) Advanced(*shm.Word, uint64, uint64, uint64)      {}
func (c *cutter) Here() (h [2]uint64)                             { return h }
func (c *cutter) Forget([2]uint64, []uint64)                      {}
func (c *cutter) Wait(*shm.Word, uint32, time.Duration)           { panic("nobody may sleep here") }
func (c *cutter) Wake(*shm.Word)                                  {}
func (c *cutter) Pause()                                          { c.steps++ }

// run runs f as a process that ends before its write number n, and tells whether
// it came to its own end first.
func (c *cutter) run(n int, f func()) (completed bool) {
	defer func() {
		c.armed = false
		if r := recover(); r != nil {
			if _, ok := r.(cutOff); !ok {
				panic(r)
			}
		}
	}()
	c.armed, c.left = true, n
	f()
	return true
}

// TestCorruptIsBounded: on a corrupt region no operation goes on for ever.
func TestCorruptIsBounded(t *testing.T) {
	sd := seed(t)
	c := &cutter{limit: 3e6}
	shm.SetScheduler(c)
	defer shm.SetScheduler(nil)
	mem := shm.Heap(int64(len(corruptImages()[0])))
	most := 0
	for i := range *corruptRuns {
		r := rand.New(rand.NewPCG(sd, uint64(i)))
		d := make(damage, damageBytes*(1+r.IntN(3)))
		for j := range d {
			d[j] = byte(r.Uint32())
		}
		c.steps = 0
		d.use(mem, byte(i))
		most = max(most, c.steps)
	}
	t.Logf("all operations together take %d steps at most", most)
}
