package ring

import "kbus.internal/shm"

// Options of a message, in mFrom: what its sender worked out beside the list.
const (
	optHasID     = 1 << 0 // it has its id already (R2.2, R6.5)
	optNoPlace   = 1 << 1 // a waiting Request tried by waiting or polling (R6.5)
	optNoLedger  = 1 << 2 // a Status for a Request that was never sent (R5.6)
	optLost      = 1 << 3 // an UnbindEventsLost (R7.4)
	optRelayed   = 1 << 4 // a Limpet sends it: it never waits (R8.5), and comes back to nobody (R8.4)
	optCodeShift = 24     // the error that it is bound to end with, an errno
)

// A view is a block's header, read once and checked: its fields may be used as
// indices. Whoever reads it for a plan may see a block in the making; then the
// plan is never published.
type view struct {
	b                              *Bus
	h, at                          int
	head, serw                     uint64
	kind                           int
	flags                          uint32
	nameLen, dataLen, copies, list int
	bytes                          uint64
	network                        uint32
	reply                          uint64
	to, from                       uint32
	led                            uint64
	fromSlot                       int
	opts                           uint32
}

// header is block h's words; the caller has checked h.
func (b *Bus) header(h int) *[blockWords]shm.Word {
	return (*[blockWords]shm.Word)(b.w[b.block(h):])
}

func (b *Bus) view(h int) (m view, err error) {
	err = b.read(&m, h)
	return m, err
}

// read reads a block's header.
func (b *Bus) read(m *view, h int) error {
	if h <= 0 || h >= b.units {
		return corrupt("block %d of %d", h, b.units)
	}
	w := b.header(h)
	m.b, m.h, m.at = b, h, b.block(h)
	m.head = w[mHead].Load()
	m.serw = w[mSerw].Load()
	fl := w[mFlags].Load()
	m.flags, m.kind = uint32(fl>>32), int(fl>>28&15)
	m.nameLen, m.copies = int(fl>>15&0x3ff), int(fl&0x7fff)
	net := w[mNet].Load()
	m.network, m.dataLen = uint32(net>>32), int(uint32(net))
	m.reply = w[mReply].Load()
	m.to, m.from = unpair(w[mTo].Load())
	m.led = w[mLed].Load()
	f := w[mFrom].Load()
	m.fromSlot, m.opts = int(f>>32), uint32(f)
	units := int(w[mSpan].Load() & 0xfffffff)
	m.list = (m.dataLen + m.nameLen + 7) / 8 // in words of the payload
	need := m.list
	if m.copies > inlineCopies {
		need += m.copies
	}
	if units > b.units-h || need > units*unitWords || m.nameLen > MaxName || m.copies > maxCopies || m.copies > 16 && groupUnits(m.copies) > units {
		return corrupt("block %d: %d units hold %d bytes of data, %d of name, %d copies", h, units, m.dataLen, m.nameLen, m.copies)
	}
	m.bytes = uint64(units) * unitBytes
	return nil
}

func (m *view) copy(i int) (uint64, error) {
	w := m.b.w[m.b.copyAt(m.h, m.list, m.copies, i)].Load()
	if s := copySlot(w); s < 1 || s > m.b.cfg.MaxKsocks {
		return 0, corrupt("block %d: copy %d is for slot %d", m.h, i, s)
	}
	return w, nil
}

// copyAt is where copy i of a block's list of n is.
func (b *Bus) copyAt(h, list, n, i int) int {
	if n <= inlineCopies {
		return b.block(h) + mCopy + i
	}
	return b.payload + h*unitWords + list + i
}

// bytesAt is n bytes of block h's payload from off; the caller has checked that
// they are inside.
func (b *Bus) bytesAt(h, off, n int) []byte {
	p := (b.payload+h*unitWords)*8 + off
	return b.data[p : p+n : p+n]
}

// The tree of bits of a block with more than 16 copies: a group word for each 32
// copies, above them one for each 32 of those if they are more than 16, above
// them the head's mask. Group word k is in the header of the block's unit
// 1+k/2, where nothing else ever is.

func groupCounts(copies int) (leaves, mids int) {
	leaves = (copies + 31) / 32
	if leaves > 16 {
		mids = (leaves + 31) / 32
	}
	return leaves, mids
}

// groupUnits is the number of units that a block with so many copies has at least.
func groupUnits(copies int) int {
	if copies <= 16 {
		return 1
	}
	l, m := groupCounts(copies)
	return 1 + (l+m+1)/2
}

func (b *Bus) groupAt(h, k int) int { return b.block(h+1+k/2) + mGroup + k%2 }

// clearGroups prepares the tree of a block that its caller owns.
func (b *Bus) clearGroups(h, copies int, gen uint64) {
	if copies > 16 {
		l, m := groupCounts(copies)
		for k := range l + m {
			b.w[b.groupAt(h, k)].Put(groupWord(gen, false, 0))
		}
	}
}

// arm plans the bits of the copies that p.to gets: once for each generation (T3),
// group words first, each with an armed flag of its own (T13).
func (p *planner) arm(m *view) {
	b, gen := p.b, headGen(m.head)
	mask := uint64(0)
	if m.copies <= 16 {
		for i := range p.to {
			r := &p.to[i]
			mask |= (1<<r.n - 1) << r.i
		}
	} else {
		leaves, mids := groupCounts(m.copies)
		if cap(p.tree) < leaves+mids {
			p.tree = make([]uint32, leaves+mids)
		}
		t := p.tree[:leaves+mids]
		clear(t)
		for i := range p.to {
			for c := p.to[i].i; c < p.to[i].i+p.to[i].n; c++ {
				t[c/32] |= 1 << (c % 32)
			}
		}
		for k := range leaves {
			if t[k] == 0 {
				continue
			}
			if mids > 0 {
				t[leaves+k/32] |= 1 << (k % 32)
			} else {
				mask |= 1 << k
			}
		}
		for k := range mids {
			if t[leaves+k] != 0 {
				mask |= 1 << k
			}
		}
		for k, v := range t {
			p.set(b.groupAt(m.h, k), groupWord(gen, false, 0), groupWord(gen, true, uint64(v)))
		}
	}
	switch {
	case p.own && mask == 0:
		p.set(m.at+mHead, m.head, headWord(gen+1, 0, 0))
	case p.own:
		// Nobody reads the block for this entry any more, its sender least of all:
		// it is the readers' from now on (T1 is of blocks that others plan from).
		p.set(m.at+mHead, m.head, m.head&^headSender|headArmed|mask)
	case mask != 0:
		p.set(m.at+mHead, m.head, m.head|headArmed|mask)
	}
}

// release clears copy i's bit of block h, if the block is still that of
// generation gen: a late caller changes nothing (T8). The last bit's clearing is
// the freeing.
func (b *Bus) release(h int, gen uint64, i int) error {
	if h <= 0 || h >= b.units {
		return corrupt("release of block %d of %d", h, b.units)
	}
	at, here := b.block(h), shm.Here()
	if headGen(b.w[at+mHead].Load()) != gen {
		here.Forget()
		return nil
	}
	copies := int(b.w[at+mFlags].Load() & 0x7fff)
	if copies <= 16 {
		b.clearHead(at, gen, 1<<(i&15))
		here.Forget()
		return nil
	}
	leaves, mids := groupCounts(copies)
	if i < 0 || i >= copies || h+groupUnits(copies) > b.units {
		return corrupt("release of copy %d of %d of block %d", i, copies, h)
	}
	if !b.clearGroup(b.groupAt(h, i/32), gen, i%32) {
		return nil
	}
	i /= 32
	if mids > 0 {
		if !b.clearGroup(b.groupAt(h, leaves+i/32), gen, i%32) {
			return nil
		}
		i /= 32
	}
	b.clearHead(at, gen, 1<<(i&15))
	return nil
}

// clearGroup clears a bit of a group word and tells whether none is left: also
// if it was clear, since its clearer may have stopped right then.
func (b *Bus) clearGroup(at int, gen uint64, bit int) bool {
	for {
		w := b.w[at].Load()
		if w>>33 != gen&(1<<31-1) || w>>32&1 == 0 {
			return false
		}
		n := w &^ (1 << bit)
		if w == n || b.w[at].CompareAndSwap(w, n) {
			return n&0xffffffff == 0
		}
	}
}

// clearHead clears bits of a head; none left is free, under the next generation,
// in the same compare-and-swap.
func (b *Bus) clearHead(at int, gen, bit uint64) {
	here := shm.Here()
	for {
		here.Forget()
		w := b.w[at+mHead].Load() // SYNC E3 acquire: what other holders did before they let go
		if headGen(w) != gen || w&bit == 0 {
			break
		}
		n := w &^ bit
		if n&(headMask|headSender) == 0 {
			n = (gen + 1) & genMask << 30
		}
		if b.w[at+mHead].CompareAndSwap(w, n) { // SYNC E3 release: my reads of the block are over
			break
		}
	}
	here.Forget()
}

// wordsAt is n words of block h's payload.
func (b *Bus) wordsAt(h, off, n int) []shm.Word {
	p := b.payload + h*unitWords + off
	return b.w[p : p+n : p+n]
}
