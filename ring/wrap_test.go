package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// TestWrapsAgainstModel starts buses shortly before each of their counters wraps,
// and has random histories go past it.
func TestWrapsAgainstModel(t *testing.T) {
	sd := seed(t)
	size, err := pairConfig.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	slots := func(b *Bus, f func(s int)) {
		for i := range b.cfg.MaxKsocks + 1 {
			f(b.slot(i))
		}
	}
	tail := func(at uint64) func(*Bus) {
		return func(b *Bus) {
			slots(b, func(s int) {
				b.w[s+sTail].Store(at)
				b.w[s+sRead].Store(uint64(makeRead(0, false, 0, at)))
			})
		}
	}
	log := func(seq uint64) func(*Bus) {
		return func(b *Bus) {
			b.w[wCur].Store(curWord(seq, 0, curIdle))
			b.w[wSkips].Store(seq - 1) // no numbers so far
		}
	}
	lanes := uint64(2 * pairConfig.QueueSlots)
	for _, c := range []struct {
		name string
		set  func(*Bus)
	}{
		{"positions kept in sRead", tail(laneMod - 7)},
		{"lap of the normal lane", tail(lanes<<22 - 7)},
		{"positions of the normal lane", tail(1<<64 - 7)},
		{"positions of kept events", func(b *Bus) {
			slots(b, func(s int) {
				b.w[s+sKeptTail].Store(1<<64 - 2)
				b.w[s+sKeptHead].Store(1<<64 - 2)
				b.w[s+sLosing].Store(1 << 63) // never lost: 0 would be a position now
			})
		}},
		{"lap of kept events", func(b *Bus) {
			slots(b, func(s int) { b.w[s+sKeptTail].Store(8<<22 - 2); b.w[s+sKeptHead].Store(8<<22 - 2) })
		}},
		{"version of a ledger word", func(b *Bus) {
			slots(b, func(s int) {
				for i := range b.lmask + 1 {
					b.w[s+b.rec+i*recWords].Store(ledWord(ledFree, 1<<30-2, 0))
				}
			})
		}},
		{"version of sOwing", func(b *Bus) { slots(b, func(s int) { b.w[s+sOwing].Store((1<<48 - 3) << 16) }) }},
		{"tries of a slot", func(b *Bus) {
			slots(b, func(s int) { b.w[s+sOut].Store(outWord(1<<28-3, 0, 0)); b.w[s+sReadOut].Store(outWord(1<<28-1, 0, 0)) })
		}},
		{"stamp of a limit", func(b *Bus) { slots(b, func(s int) { b.w[s+sLimit].Store((1<<32 - 2) << 32) }) }},
		{"stamp of a switch", func(b *Bus) { slots(b, func(s int) { b.w[s+sOnce].Store((1<<63 - 2) << 1) }) }},
		{"bytes in a queue", func(b *Bus) {
			slots(b, func(s int) { b.w[s+sBytesIn].Store(1<<64 - 5000); b.w[s+sBytesOut].Store(1<<64 - 5000) })
		}},
		{"version of the tables", func(b *Bus) { b.w[wVer].Store(1<<40 - 20) }},
		{"stamp of the urgent lane", log(1<<22 - 60)},
		{"group words' generation", log(1<<31 - 60)},
		{"a head's generation", log(1<<34 - 60)},
		{"stamp of a span", log(1<<36 - 60)},
		{"stamp of sRead", log(1<<37 - 60)},
		{"order of orphans", log(1<<48 - 60)},
		{"the log", log(1<<49 - 60)},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			n := 30
			if testing.Short() {
				n = 5
			}
			for h := range n {
				r := rand.New(rand.NewPCG(sd, uint64(h)))
				p := newPair(t, mem)
				c.set(p.w.b)
				a, err := p.w.b.Admin()
				if err != nil {
					t.Fatal(err)
				}
				p.w.a = a
				for range 200 {
					p.step(r)
				}
				p.end()
			}
		})
	}
}

// TestSerialWraps: R2.2.
func TestSerialWraps(t *testing.T) {
	w := newWorld(t, small)
	k := w.open(ReadWrite)
	w.bind(k, "$.X", false)
	for _, start := range []uint64{1<<32 - 3, 3*(1<<32-1) - 2} {
		w.b.w[wSkips].Store(curSeq(w.b.w[wCur].Load()) - 1 - start)
		for _, want := range []uint32{1<<32 - 2, 1<<32 - 1, 1, 2} {
			id, err := k.Send(&Header{Name: "$.X"}, nil)
			if err != nil || id.Serial != want {
				t.Errorf("from %d: %v, %v, want %d", start, id, err, want)
			}
			w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, want))
		}
	}
	w.leaks(0)
}

// TestKsockIDsEnd: ids are not reused (R3.1), also when there are no more.
func TestKsockIDsEnd(t *testing.T) {
	w := newWorld(t, small)
	w.b.w[wNextID].Store(1<<32 - 1)
	k := w.open(ReadWrite)
	if k.id != 1<<32-1 {
		t.Errorf("id %d", k.id)
	}
	if _, id, err := w.a.Open(1, 1, ReadWrite); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("one more has id %d, %v", id, err)
	}
	w.bind(k, "$.X", false)
	if _, err := k.Send(&Header{Name: "$.X"}, nil); err != nil {
		t.Error(err)
	}
	w.want(w.next(k), `1 $.X ""`)
	w.leaks(0)
}

// TestSmallestQueue fills and empties lanes of the smallest size: the limit, the
// copies beyond it, the Statuses that ignore it (R3.3), and the urgent lane.
func TestSmallestQueue(t *testing.T) {
	c := small
	c.QueueSlots = 2
	w := newWorld(t, c)
	k, r, s := w.open(ReadWrite), w.open(ReadWrite), w.open(ReadWrite)
	w.bind(k, "$.X", false)
	w.bind(r, "$.R", true)
	id := uint32(0)
	send := func(flags uint32, want error) {
		t.Helper()
		id++
		if _, err := s.Send(&Header{Name: "$.X", Flags: flags}, nil); !errors.Is(err, want) {
			t.Errorf("message %d: %v, want %v", id, err, want)
		}
	}
	for range 1000 {
		base := id
		send(AllOrFail, nil)
		send(AllOrFail|Urgent, nil)
		send(AllOrFail, unix.EBUSY)
		send(AllOrFail|Urgent, unix.EBUSY)
		w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, base+2))
		send(AllOrFail|Urgent, nil)
		w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, base+5))
		w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, base+1))
		w.want(w.next(k), "")
		if t.Failed() {
			t.FailNow()
		}
	}
	// Two Requests hold both places of their asker; their Statuses find room all
	// the same, beside two Listener's copies that were there before.
	w.bind(s, "$.X", false)
	for range 100 {
		send(0, nil)
		if _, err := s.Send(&Header{Name: "$.R", Flags: WantReply}, nil); err != nil {
			t.Fatal(err)
		}
		id++
		if _, err := s.Send(&Header{Name: "$.R", Flags: WantReply}, nil); !errors.Is(err, unix.ENOLCK) {
			t.Fatal(err)
		}
		if err := w.a.Unbind(r.slot, "$.R", true); err != nil {
			t.Fatal(err)
		}
		w.want(w.next(s), fmt.Sprintf(`%d $.X ""`, id-1))
		id++
		w.want(w.next(s), fmt.Sprintf(`%d $.KBUS.Replier.Unbound "" re %d`, id, id-1))
		w.want(w.next(s), "")
		w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, id-2))
		w.bind(r, "$.R", true)
		if t.Failed() {
			t.FailNow()
		}
	}
	w.leaks(0)
}

// TestUrgentLane fills the urgent lane of a large queue to the limit and reads it
// back, last first (R3.6), again and again.
func TestUrgentLane(t *testing.T) {
	w := newWorld(t, Config{MaxKsocks: 2, MaxBindings: 4, ArenaBytes: 4 << 20, QueueSlots: 4096})
	k, s := w.open(ReadOnly), w.open(ReadWrite)
	w.bind(k, "$.X", false)
	if _, err := w.a.SetMaxMessages(k.slot, 4096); err != nil {
		t.Fatal(err)
	}
	id := 0
	for round := range 3 {
		n := 0
		for {
			if _, err := s.Send(&Header{Name: "$.X", Flags: Urgent | AllOrFail}, nil); errors.Is(err, unix.EBUSY) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 4096 {
			t.Fatalf("round %d: %d urgent messages fit", round, n)
		}
		id += n
		for i := range n {
			w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, id-i))
		}
		w.want(w.next(k), "")
		id++ // the one that was refused used an id
	}
	w.leaks(0)
}
