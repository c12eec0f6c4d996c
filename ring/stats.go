package ring

import (
	"cmp"
	"maps"
	"slices"
)

// Stats is what a bus looks like at one moment; the parts are read one by one
// while it works.
type Stats struct {
	Serial      uint64 // message numbers used (R2.2)
	MessageSize uint32 // limit now, in bytes
	Reports     bool
	Ksocks      []KsockStats
	Bindings    []BindingStats // newest first, as messages go by them (R4.7)
	Arena       ArenaStats
	NetCatches  uint64 // wake-ups that only a timeout caught
}

// KsockStats describes an open Ksock.
type KsockStats struct {
	Slot        int
	ID          uint32
	Pid         int
	Start       uint64 // start time of the process
	Mode        Mode
	Unread      int // with events kept aside
	Kept        int
	MaxMessages uint32
	Outstanding int // its own Requests without an answer
	Unreplied   int // Requests that it has read as Replier and not answered (R3.7)
	Sent        uint64
	Received    uint64
	Missed      uint64 // messages missed for want of room
	BytesSent   uint64
	BytesRead   uint64
	BytesHeld   uint64 // large messages unread or in use
	OnlyOnce    bool
	Sleeping    bool
}

// BindingStats describes a binding.
type BindingStats struct {
	ID      uint32 // Ksock
	Replier bool
	Name    string
}

// ArenaStats counts the arena's memory, in bytes and blocks.
type ArenaStats struct {
	Bytes, Used, Free, Largest int64
	Blocks, UsedBlocks         int
}

// A SlotInfo is a slot in use: its Ksock is open, or has ended while its process
// may still hold memory (Open false).
type SlotInfo struct {
	Slot  int
	ID    uint32
	Pid   int
	Start uint64
	Mode  Mode
	Open  bool
}

// Slots lists the slots in use, for a supervisor that takes a bus over.
func (b *Bus) Slots() (l []SlotInfo) {
	for s := 1; s <= b.slotsUsed(); s++ {
		at := b.slot(s)
		k := b.w[at+sKid].Load()
		if k>>32 == kidFree {
			continue
		}
		l = append(l, SlotInfo{s, uint32(k), int(b.w[at+sPid].Load()), b.w[at+sStart].Load(), Mode(b.w[at+sMode].Load()), k>>32 == kidOpen})
	}
	return l
}

// numbers is how many serial numbers were given so far.
func (b *Bus) numbers() uint64 {
	for {
		a := b.w[wCur].Load()
		if n := b.numbersBefore(curSeq(a)); b.w[wCur].Load() == a {
			return n // the entry in progress may have counted itself already
		}
	}
}

// Stats reads the whole bus, every block of its arena; it costs nobody else anything
// but cache lines.
func (b *Bus) Stats() (Stats, error) {
	st := Stats{Serial: b.numbers(), MessageSize: b.MessageSize(), Reports: b.Reports(), NetCatches: b.NetCatches(), Ksocks: b.Ksocks()}
	var err error
	if st.Bindings, err = b.Bindings(); err == nil {
		st.Arena, err = b.arenaStats()
	}
	return st, err
}

// Ksocks describes the Ksocks that are open, by slot.
func (b *Bus) Ksocks() (l []KsockStats) {
	owed := b.owed()
	for _, i := range b.Slots() {
		if !i.Open {
			continue
		}
		at := b.slot(i.Slot)
		r := readWord(b.w[at+sRead].Load())
		kept := b.w[at+sKeptTail].Load() - b.w[at+sKeptHead].Load()
		unread := (b.w[at+sTail].Load() - r.head()) & (laneMod - 1)
		if unread >= laneMod-1024 {
			unread = 0 // the reader is ahead of an entry that is being carried out
		}
		l = append(l, KsockStats{
			Slot: i.Slot, ID: i.ID, Pid: i.Pid, Start: i.Start, Mode: i.Mode,
			Unread: int(unread + r.ud() + kept), Kept: int(kept),
			MaxMessages: uint32(b.w[at+sLimit].Load()), Outstanding: int(b.w[at+sOwing].Load() & 0xffff), Unreplied: owed[i.ID],
			Sent: b.w[at+sSent].Load(), Received: b.w[at+sReceived].Load(),
			Missed:    b.w[at+sMissed].Load() - b.w[at+sMissedBase].Load(),
			BytesSent: b.w[at+sBytesSent].Load(), BytesRead: b.w[at+sBytesRead].Load(),
			BytesHeld: b.w[at+sBytesIn].Load() - b.w[at+sBytesOut].Load(),
			OnlyOnce:  b.w[at+sOnce].Load()&1 != 0, Sleeping: b.w[at+sSleeping].Load() != 0,
		})
	}
	return l
}

// Bindings lists the bindings, newest first.
func (b *Bus) Bindings() (l []BindingStats, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.update(); err != nil {
		return nil, err
	}
	cells := slices.SortedFunc(maps.Values(b.tables.cells), func(x, y binding) int { return cmp.Compare(y.born, x.born) })
	for _, x := range cells {
		if b.tables.kids[x.slot] == x.kid {
			l = append(l, BindingStats{x.kid, x.replier, x.name})
		}
	}
	return l, nil
}

// owed counts for each Ksock the Requests that it has read and not answered.
func (b *Bus) owed() map[uint32]int {
	last := map[uint64]bool{}
	for s := 1; s <= b.slotsUsed(); s++ {
		last[b.w[b.slot(s)+sLast].Load()] = true
	}
	n := map[uint32]int{}
	for s := 1; s <= b.slotsUsed(); s++ {
		if b.w[b.slot(s)+sOwing].Load()&0xffff == 0 {
			continue
		}
		for i := range b.asked(b.slot(s)) {
			rec := b.slot(s) + b.rec + i*recWords
			w, read := b.w[rec+recLed].Load(), b.w[rec+recRead].Load()
			if ledState(w) == ledOpen && (uint32(read) != 0 && read>>32 == ledVer(w) || last[ledRef(s, i, ledVer(w))]) {
				n[uint32(b.w[rec+recReplier].Load())]++
			}
		}
	}
	return n
}

// arenaStats walks the chain; entries may change it meanwhile, then it starts
// again, and gives up after a while with what it has.
func (b *Bus) arenaStats() (st ArenaStats, err error) {
	for range 100 {
		st = ArenaStats{Bytes: int64(b.units-1) * unitBytes}
		run, whole := int64(0), true
		for h := 1; h < b.units; {
			head, span, e := b.link(h)
			if err = e; err != nil {
				whole = false
				break
			}
			n := int64(span) * unitBytes
			st.Blocks++
			if headFree(head) || headPooled(head) {
				st.Free += n
				run += n
				st.Largest = max(st.Largest, run)
			} else {
				st.Used += n
				st.UsedBlocks++
				run = 0
			}
			h += span
		}
		if whole && st.Used+st.Free == st.Bytes {
			return st, nil
		}
	}
	return st, err
}
