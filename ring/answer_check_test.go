//go:build kbuscheck

package ring

import (
	"testing"

	"kbus.internal/shm"
)

// TestAnswerHalfThere: an asker that sees its answer in its queue is told that it
// has one, wherever the Replier stopped: nobody else may be left to say so.
func TestAnswerHalfThere(t *testing.T) {
	conf := Config{MaxKsocks: 3, MaxBindings: 8, ArenaBytes: 1 << 20, QueueSlots: 16}
	size, err := conf.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	c := &cutter{}
	shm.SetScheduler(c)
	defer shm.SetScheduler(nil)
	seen := 0
	for n := 0; ; n++ {
		w := newWorldIn(t, conf, mem)
		asker, rep := w.open(ReadWrite), w.open(ReadWrite)
		w.bind(rep, "$.R", true)
		id, err := asker.Send(&Header{Name: "$.R", Flags: WantReply}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var m Message
		if ok, err := rep.Take(&m); !ok || err != nil {
			t.Fatal(ok, err)
		}
		done := c.run(n, func() {
			if _, err := rep.Send(&Header{Name: "$.R", To: m.From, InReplyTo: m.ID}, nil); err != nil {
				t.Error(err)
			}
		})
		if asker.Any() {
			seen++
			if k := asker.Outstanding(id); k != 0 {
				t.Errorf("the Replier stops before write %d: the answer is there, and %d Requests count as outstanding", n, k)
			}
		}
		if done {
			break
		}
	}
	if seen < 3 {
		t.Errorf("the answer was there at %d points only", seen)
	}
}
