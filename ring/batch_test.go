package ring

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBatch: messages of one name go by one entry, with numbers in a row (R2.2),
// as far as there is room (R6.1); the rest as Send sends them.
func TestBatch(t *testing.T) {
	w := newWorld(t, small)
	from, one, two := w.open(ReadWrite), w.open(ReadWrite), w.open(ReadWrite)
	for _, k := range []*Client{one, two} {
		w.bind(k, "$.X", false)
	}
	w.bind(two, "$.%", false)
	batch := func(flags uint32, names ...string) (int, error) {
		h := Header{Flags: flags}
		return from.SendBatch(len(names), func(i int) (*Header, []byte) {
			h.Name = names[i]
			return &h, fmt.Append(nil, i)
		})
	}
	entries := func(do func()) uint64 {
		before := curSeq(w.b.w[wCur].Load())
		do()
		return curSeq(w.b.w[wCur].Load()) - before
	}
	sends := func(want int, wantErr error, flags uint32, names ...string) func() {
		return func() {
			t.Helper()
			if n, err := batch(flags, names...); n != want || !errors.Is(err, wantErr) {
				t.Errorf("%d of %d sent, %v; want %d, %v", n, len(names), err, want, wantErr)
			}
		}
	}

	sends(4, nil, 0, "$.X", "$.X", "$.X", "$.X")() // takes blocks from the pool, too
	hear := func(first int) {
		t.Helper()
		for i := range 4 {
			m := fmt.Sprintf(`%d $.X "%d"`, first+i, i)
			w.want(w.next(one), m)
			w.want(w.next(two), m)
			w.want(w.next(two), m)
		}
	}
	hear(1)
	if n := entries(sends(4, nil, 0, "$.X", "$.X", "$.X", "$.X")); n != 1 {
		t.Errorf("4 messages are %d entries", n)
	}
	if id := from.LastSent(); id.Serial != 8 {
		t.Errorf("the last has id %v", id)
	}
	hear(5)
	if n := entries(sends(4, nil, 0, "$.X", "$.X", "$.Y", "$.Y")); n != 2 {
		t.Errorf("messages of two names are %d entries", n)
	}
	for _, m := range []string{`9 $.X "0"`, `10 $.X "1"`} {
		w.want(w.next(one), m)
		w.want(w.next(two), m)
		w.want(w.next(two), m)
	}
	w.want(w.next(two), `11 $.Y "2"`)
	w.want(w.next(two), `12 $.Y "3"`)

	if _, err := w.a.SetMaxMessages(two.slot, 4); err != nil {
		t.Fatal(err)
	}
	// Two places each: the third finds the queue full (R3.3).
	sends(2, unix.EBUSY, AllOrFail, "$.X", "$.X", "$.X")()
	sends(0, unix.EAGAIN, AllOrWait, "$.X", "$.X")()
	sends(0, unix.EALREADY, 0, "$.X", "$.X")()
	from.Discard()
	sends(2, nil, 0, "$.X", "$.X")() // who has no room misses them (R6.1)
	sends(1, unix.EBADMSG, 0, "$.Y.Z", "$.*")()
	sends(0, unix.EBADMSG, 0, "$.*", "$.X")()
	for _, k := range []*Client{one, two} {
		for k.Unread() > 0 {
			w.next(k)
		}
	}
	w.leaks(0)
}

// A batch for many takes as many messages as an entry has steps for, those for the
// trees of bits among them.
func TestBatchForMany(t *testing.T) {
	const listeners, each = 48, 4
	w := newWorld(t, Config{MaxKsocks: listeners + 1, MaxBindings: listeners * each, QueueSlots: 64, KeptEvents: 3, ArenaBytes: 4 << 20})
	from := w.open(ReadWrite)
	var ks []*Client
	for range listeners {
		k := w.open(ReadOnly)
		for range each {
			w.bind(k, "$.X", false)
		}
		ks = append(ks, k)
	}
	const n = 5
	sent, err := from.SendBatch(n, func(i int) (*Header, []byte) { return &Header{Name: "$.X"}, fmt.Append(nil, i) })
	if sent != n || err != nil {
		t.Fatal(sent, err)
	}
	for _, k := range ks {
		for i := range n * each {
			w.want(w.next(k), fmt.Sprintf(`%d $.X "%d"`, i/each+1, i/each))
		}
	}
	w.leaks(0)
}
