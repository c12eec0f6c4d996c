package ring

import "golang.org/x/sys/unix"

// A draft is a message in the making, or one that waits to be sent (R6.5): a
// block that only this process sees.
type draft struct {
	kind  int
	h     int
	head  uint64 // as its owner set it
	held  int    // the word that names it for the supervisor
	units int
	data  int // bytes

	hdr     Header
	opts    uint32
	led     uint64 // Replies and Statuses: what they answer
	version uint64 // of the tables that the list is good for; 0: none
	route   *route // of name routed, if its version is the tables'
	routed  string
	v       view // the block as its planner reads it, for the version; h = 0: not known
	cache   *cache
	copies  []uint64 // scratch
	tried   bool     // an entry has named the block
	gone    bool     // it was sent directly: the block is its readers'
}

// room makes sure that the block has n units, moving the data if it must: only
// a loan whose list outgrew it, or a message that waited while many bound.
func (d *draft) room(p *party, n int) error {
	if d.h != 0 && d.units >= n {
		return nil
	}
	b, old, oldHead, oldUnits := p.b, d.h, d.head, d.units
	var held int
	if old != 0 {
		held = d.held
		d.held = b.slot(p.slot) + b.layout.held // the spare word
	}
	h, head, err := p.alloc(d.cache, n, d.held)
	if err != nil {
		if old != 0 {
			d.held = held
		}
		return err
	}
	d.h, d.head, d.units = h, head, n
	if old != 0 {
		copy(b.bytesAt(h, 0, d.data), b.bytesAt(old, 0, d.data))
		drop := draft{h: old, head: oldHead, units: oldUnits, cache: d.cache, tried: d.tried}
		drop.drop(p) // while held still names it (R9.2)
		b.w[held].Put(uint64(h))
		b.w[d.held].Put(0)
		d.held, d.tried = held, false
	}
	d.version = 0
	return nil
}

// drop lets go of a block that is not to be sent (again).
func (d *draft) drop(p *party) {
	b := p.b
	gen := headGen(d.head)
	if d.gone {
		d.gone = false
		gen++
	} else if d.tried {
		b.clearHead(b.block(d.h), gen, headSender)
		gen++
	} else {
		// No entry has named it, so its generation stays: no more generations
		// than entries (see cut).
		b.w[b.block(d.h)+mHead].CompareAndSwap(d.head, headWord(gen, 0, 0))
	}
	d.cache.add(d.units, freed{d.h, headWord(gen, 0, 0)})
	d.cache.willTake(b, d.units, 2)
	if d.held != 0 {
		b.w[d.held].Put(0)
	}
	d.h = 0
}

// fill writes what does not depend on the tables.
func (d *draft) fill(p *party) {
	b, h := p.b, &d.hdr
	w := b.header(d.h)
	w[mNet].Put(pair(h.ID.Network, uint32(d.data)))
	w[mReply].Put(pair(h.InReplyTo.Network, h.InReplyTo.Serial))
	w[mTo].Put(pair(h.To, h.From))
	w[mOrig].Put(pair(h.OrigFrom.Network, h.OrigFrom.Ksock))
	w[mFinal].Put(pair(h.FinalTo.Network, h.FinalTo.Ksock))
	copy(b.bytesAt(d.h, d.data, len(h.Name)), h.Name)
}

// made is the version that the block was last made for.
func (d *draft) made() uint64 {
	if d == nil {
		return 0
	}
	return d.version
}

// prepare makes the block good for the tables' version and for another try.
func (d *draft) prepare(p *party) error {
	b := p.b
	if v := b.w[wVer].Load(); v != d.version {
		if err := d.address(p); err != nil {
			return err
		}
	}
	serial := uint64(0)
	if d.opts&optHasID != 0 {
		serial = uint64(d.hdr.ID.Serial)
	}
	d.v.serw = headGen(d.head)<<32 | serial
	b.w[b.block(d.h)+mSerw].Put(d.v.serw)
	if d.kind == kindMessage && d.hdr.Flags&WantReply != 0 {
		return d.pickLedger(p)
	}
	return nil
}

// resolve finds the route of the draft's name. The last one is kept: most senders
// send one name.
func (d *draft) resolve(b *Bus) (err error) {
	if d.route == nil || d.routed != d.hdr.Name || d.route.version != b.w[wVer].Load() {
		d.route, err = b.route(d.hdr.Name)
		d.routed = d.hdr.Name
	}
	return err
}

// address works out the recipients and writes the list.
func (d *draft) address(p *party) error {
	b := p.b
	var code unix.Errno
	var list []uint64
	version := never
	if d.kind == kindStatus {
		slot, _, _ := ledRefSplit(d.led)
		d.copies = append(d.copies[:0], copyWord(slot, roleDirect, 0))
		list = d.copies
	} else {
		if err := d.resolve(b); err != nil {
			return err
		}
		r := d.route
		version = r.version
		switch {
		case d.kind == kindEvent, d.kind == kindCopy:
			list = r.listeners
		case d.hdr.Flags&WantReply != 0:
			list = r.request
			if r.replier.slot == 0 {
				code = unix.EADDRNOTAVAIL // R5.1
			} else if d.hdr.To != 0 && d.hdr.To != r.replier.kid {
				code = unix.EPIPE // R5.2
			}
			d.led = uint64(r.replier.slot)<<32 | uint64(r.replier.kid) // until pickLedger
		case d.hdr.IsReply():
			list = r.listeners
			if slot, _, _ := ledRefSplit(d.led); slot != 0 {
				d.copies = b.first(list, copyWord(slot, roleDirect, 0), d.copies[:0])
				list = d.copies
			}
		default:
			list = r.listeners
		}
	}
	if code != 0 {
		list = nil
	}
	if len(list) > maxCopies {
		return unix.E2BIG
	}
	if err := d.room(p, unitsFor(d.data, len(d.hdr.Name), len(list))); err != nil {
		return err
	}
	d.fill(p)
	at, w := b.block(d.h), b.header(d.h)
	words := (d.data + len(d.hdr.Name) + 7) / 8
	for i, c := range list {
		b.w[b.copyAt(d.h, words, len(list), i)].Put(c)
	}
	b.clearGroups(d.h, len(list), headGen(d.head))
	opts := d.opts | uint32(code)<<optCodeShift
	w[mFlags].Put(uint64(d.hdr.Flags)<<32 | uint64(d.kind)<<28 | uint64(len(d.hdr.Name))<<15 | uint64(len(list)))
	w[mFrom].Put(uint64(p.slot)<<32 | uint64(opts))
	w[mLed].Put(d.led)
	d.version = version

	v, h := &d.v, &d.hdr
	v.b, v.h, v.at, v.head = b, d.h, at, d.head
	v.kind, v.flags, v.nameLen, v.dataLen, v.copies, v.list = d.kind, h.Flags, len(h.Name), d.data, len(list), words
	v.bytes, v.network, v.reply = uint64(d.units)*unitBytes, h.ID.Network, pair(h.InReplyTo.Network, h.InReplyTo.Serial)
	v.to, v.from, v.led, v.fromSlot, v.opts = h.To, h.From, d.led, p.slot, opts
	return nil
}

// pickLedger chooses a free word of this Ksock's ledger for a Request and writes
// its record, which nobody reads while the word is free.
func (d *draft) pickLedger(p *party) error {
	b := p.b
	s := b.slot(p.slot)
	for i := range b.lmask + 1 {
		l := b.w[s+b.rec+i*recWords].Load()
		if ledState(l) != ledFree {
			continue
		}
		ver := (ledVer(l) + 1) & (1<<30 - 1)
		rec := s + b.rec + i*recWords
		if b.w[s+sAsked].Load() <= uint64(i) {
			b.w[s+sAsked].Put(uint64(i) + 1)
		}
		b.w[rec+recNetwork].Put(uint64(d.hdr.ID.Network))
		b.w[rec+recReplier].Put(d.led)
		b.w[rec+recRead].Put(ver << 32)
		d.v.led = ledRef(p.slot, i, ver)
		b.w[b.block(d.h)+mLed].Put(d.v.led)
		return nil
	}
	return unix.ENOLCK
}

// rename gives an addressed draft another name of the same length, which leaves
// its list alone.
func (d *draft) rename(p *party, name string) {
	d.hdr.Name = name
	d.fill(p)
	d.v.h = 0
	p.b.w[p.b.block(d.h)+mFrom].Put(uint64(d.opts))
}

// direct addresses a draft to one Ksock alone, as by no binding.
func (d *draft) direct(p *party, slot int) {
	d.v.h = 0
	at := p.b.block(d.h)
	fl := p.b.w[at+mFlags].Load()
	list := (d.data + len(d.hdr.Name) + 7) / 8
	p.b.w[p.b.copyAt(d.h, list, 1, 0)].Put(copyWord(slot, roleDirect, 0))
	p.b.w[at+mFlags].Put(fl&^0x7fff | 1)
}
