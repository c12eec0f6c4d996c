//go:build kbuscheck

package ring

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// TestLargeUnbindDeaths: an unbind that removes more messages than one entry can
// (R4.5), Requests among them, is finished by the next supervisor, wherever the
// first one died.
func TestLargeUnbindDeaths(t *testing.T) {
	conf := Config{MaxKsocks: 3, MaxBindings: 8, ArenaBytes: 1 << 20, QueueSlots: 2048}
	size, err := conf.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	c := &cutter{}
	const asked, told = 1300, 500
	begin := func() (w *world, asker, rep *Client) {
		w = newWorldIn(t, conf, mem)
		asker, rep = w.open(ReadWrite), w.open(ReadWrite)
		w.max(asker, 2000)
		w.max(rep, 2000)
		w.bind(rep, "$.Keep", false)
		w.bind(rep, "$.R", true)
		for i := range asked + told {
			h := Header{Name: "$.Keep"}
			if i < asked {
				h = Header{Name: "$.R", Flags: WantReply}
			}
			if _, err := asker.Send(&h, nil); err != nil {
				t.Fatal(err)
			}
		}
		return w, asker, rep
	}
	judge := func(w *world, asker, rep *Client, n int) {
		t.Helper()
		if err := w.a.Unbind(rep.slot, "$.R", true); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Fatal(err)
		}
		for i := range asked {
			if got := w.next(asker); !strings.Contains(got, Unbound) {
				t.Fatalf("the supervisor dies before write %d: answer %d is %q", n, i, got)
			}
		}
		w.want(w.next(asker), "")
		if got := rep.Unread(); got != told {
			t.Fatalf("the supervisor dies before write %d: %d messages are left, want %d", n, got, told)
		}
		for _, k := range []*Client{asker, rep} {
			if err := w.a.Reap(k.slot); err != nil {
				t.Fatal(err)
			}
		}
		w.leaks(0)
	}
	shm.SetScheduler(c)
	defer shm.SetScheduler(nil)
	points := 0
	for n := 0; ; n += 4001 {
		w, asker, rep := begin()
		done := c.run(n, func() {
			if err := w.a.Unbind(rep.slot, "$.R", true); err != nil {
				t.Errorf("unbind: %v", err)
			}
		})
		a, err := w.b.Admin()
		if err != nil {
			t.Fatal(err)
		}
		w.a = a
		judge(w, asker, rep, n)
		if done {
			break
		}
		points++
	}
	t.Logf("%d points", points)
}
