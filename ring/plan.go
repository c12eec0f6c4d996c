package ring

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Steps of a plan, in the top byte of their first word.
const (
	stepSet     = 0 // compare-and-swap word `at` from old to new
	stepRelease = 1 // clear bit `new` of block `at` if its generation is old
	stepWake    = 2

	stepWord = 1<<56 - 1
)

// A step of a plan: kind[8]@56 word[56]; the word's old value and its new one, or
// what else its kind needs.
type step = [3]uint64

// A planner writes the plan of one entry into its area. Its reads may come from
// words that change meanwhile; then the plan is never published, so nothing that
// it reads may lead it out of bounds or into an endless loop.
type planner struct {
	b          *Bus
	base, area int
	seq        uint64
	steps      []step
	own        bool   // the planner's own process appends the entry directly
	last       uint32 // the last message's serial number
	serial     uint64 // numbers used by the entry so far
	m          view   // the message
	asker      queueState
	to         []recipient
	tree       []uint32
	seen       [16]place // by slot, modulo
}

// A place is where a queue's reader was when this process last looked. Unless an
// entry has edited the queue it has only gone on since, so there is room at
// least, and its line need not be fetched from it again and again.
type place struct {
	slot                int
	edit, head, ud, out uint64 // edit as sEdit; head counts as the tail does
	next                uint64 // where the next copy comes, if nobody else sends to it and there was no batch
}

// remember keeps what a plan that was published has found: nothing it read
// changed, but for readers who went on.
func (p *planner) remember() {
	for i := range p.to {
		q := &p.to[i].queueState
		at := &p.seen[q.slot%len(p.seen)]
		if q.fresh && !q.rw.frozen() {
			*at = place{q.slot, q.edit, q.tail - (q.msgs - q.rw.ud()), q.rw.ud(), q.bytesIn - q.bytes, 0}
		}
		if at.slot == q.slot {
			at.next = q.tail + uint64(p.to[i].n)
		}
	}
}

// willSendAgain is willSend for whoever got the last message: likely the next is for
// them, too.
func (p *planner) willSendAgain() {
	for i := range p.to[:min(fetched, len(p.to))] {
		p.willSend(p.to[i].slot)
	}
}

// fetched bounds for how many recipients something is fetched beforehand.
const fetched = 4

// willSend begins to fetch what a send changes in a queue. The place in the lane is
// only to be read: a recipient that spins on it would take it back. But without its
// old word, which the last look there has taken away, no swap can be planned.
func (p *planner) willSend(slot int) {
	b, s := p.b, p.b.slot(slot)
	b.w[s+sTail].WillWrite()
	if at := &p.seen[slot%len(p.seen)]; at.slot == slot {
		b.w[s+b.lane+int(at.next&b.qmask)].WillRead()
	}
}

func (p *planner) init(b *Bus, area int) {
	p.b, p.area, p.base = b, area, b.layout.area(area)
}

func (p *planner) begin(seq uint64) {
	p.seq, p.steps, p.serial, p.to = seq, p.steps[:0], 0, p.to[:0]
}

func (p *planner) step(kind uint64, at int, old, new uint64) {
	p.steps = append(p.steps, step{kind<<56 | uint64(at), old, new})
}

func (p *planner) set(at int, old, new uint64) { p.step(stepSet, at, old, new) }
func (p *planner) wake(slot int)               { p.step(stepWake, slot, 0, 0) }

// bump plans an increment of a counter that entries alone change.
func (p *planner) bump(at int, by uint64) {
	old := p.b.w[at].Load()
	p.set(at, old, old+by)
}

// end writes the plan where the others find it. The numbers given are the entries'
// own (number): only an entry that gives none, or several, says so.
func (p *planner) end() {
	extra := uint64(0)
	if p.serial == 0 {
		p.bump(wSkips, 1)
	} else {
		extra = p.serial - 1
	}
	if p.seq == lastSeq {
		extra += lastSeq + 1
	}
	if extra > 0 {
		p.bump(wExtra, extra)
	}
	a := p.b.w[p.base : p.base+areaHead+3*len(p.steps)]
	a[0].Put(p.seq)
	a[1].Put(uint64(len(p.steps)))
	shm.PutAll(a[areaHead:], p.steps)
}

// over tells whether the plan has more steps than an area holds, with end's two.
func (p *planner) over() bool { return len(p.steps) > p.b.areaCap-2 }

// entry plans e; own tells that the planner's own process appends it directly, d
// is its draft then, if there is one.
func (p *planner) entry(e entry, own bool, d *draft) (o outcome, err error) {
	p.own = own
	switch e.kind {
	case kindMessage, kindStatus, kindCopy:
		m := &p.m
		if d != nil && d.v.h == e.handle {
			m = &d.v
		} else if err = p.b.read(m, e.handle); err != nil {
			return o, err
		}
		o.code, err = p.message(e, m)
	case kindControl:
		o.code, err = p.control(e)
	case kindFlush:
		q, err := p.queue(int(e.arg))
		if err != nil {
			return o, err
		}
		p.deliver(&q, 0, 0, 0, 0, false)
		p.wake(q.slot)
	case kindCarve:
		o, err = p.carve(e)
	default:
		err = corrupt("entry of kind %d", e.kind)
	}
	if err == nil && p.over() {
		err = corrupt("entry %d needs more than %d steps", p.seq, p.b.areaCap)
	}
	return o, err
}

// numbersBefore is how many serial numbers were given before an entry.
func (b *Bus) numbersBefore(seq uint64) uint64 {
	return seq - 1 - b.w[wSkips].Load() + b.w[wExtra].Load()
}

// number plans a message's serial number, if it still needs one, and tells it
// (R2.2).
func (p *planner) number(m *view) uint32 {
	if m.opts&optHasID != 0 {
		p.last = uint32(m.serw)
		return p.last
	}
	b := p.b
	p.serial++
	n := serialOf(b.numbersBefore(p.seq) + p.serial)
	p.last = n
	at := b.block(m.h) + mSerw
	if p.own {
		b.w[at].Put(m.serw&^0xffffffff | uint64(n)) // its sender's alone until the plan is out
	} else {
		p.set(at, m.serw&^0xffffffff, m.serw&^0xffffffff|uint64(n))
	}
	return n
}

// A queueState is a Ksock's queue at the moment when an entry judges it (R6.1).
type queueState struct {
	slot        int
	s           int  // its slot's words
	fresh       bool // else rw is not known; msgs and bytes may be less by now
	tail        uint64
	rw          readWord
	msgs, owing uint64
	limit       uint64
	kept, flush uint64
	edit        uint64
	bytes       uint64
	bytesIn     uint64
}

func (p *planner) queue(slot int) (q queueState, err error) {
	err = p.look(&q, slot, true)
	return q, err
}

// look reads a queue's state; unless fresh, what is remembered of its reader will do.
func (p *planner) look(q *queueState, slot int, fresh bool) error {
	b := p.b
	if slot < 1 || slot > b.cfg.MaxKsocks {
		return corrupt("slot %d", slot)
	}
	q.slot, q.s = slot, b.slot(slot)
	w := (*[entryWords]shm.Word)(b.w[q.s:])
	q.tail = w[sTail].Load()
	q.owing = w[sOwing].Load() & 0xffff
	q.limit = min(w[sLimit].Load()&0xffffffff, uint64(b.cfg.QueueSlots))
	q.kept = w[sKeptTail].Load() - w[sKeptHead].Load()
	q.bytesIn = w[sBytesIn].Load()
	q.edit = w[sEdit].Load()
	if q.kept > b.kmask {
		return corrupt("slot %d keeps %d events", slot, q.kept)
	}
	at := &p.seen[slot%len(p.seen)]
	q.fresh = fresh || at.slot != slot || at.edit != q.edit || q.kept > 0
	if !q.fresh {
		q.msgs, q.bytes, q.flush = q.tail-at.head+at.ud, q.bytesIn-at.out, 0
		return nil
	}
	q.rw = readWord(b.w[q.s+sRead].Load())
	q.msgs = (q.tail-q.rw.head())&(laneMod-1) + q.rw.ud()
	q.bytes = q.bytesIn - b.w[q.s+sBytesOut].Load()
	// Kept events go in as soon as there is room, before anything newer (R7.4):
	// here is where room may have been made since.
	q.flush = 0
	if used := q.msgs + q.owing; q.kept > 0 && used < q.limit {
		q.flush = min(q.kept, q.limit-used)
	}
	return nil
}

// full tells whether there is no room for n more copies of a block of size
// bytes that need room (R3.3, R6.1).
func (p *planner) full(q *queueState, n int, size uint64) bool {
	used := q.msgs + q.flush + q.owing
	return used >= q.limit || p.noSpace(q, n, size)
}

// noSpace tells whether copies can't go in whatever the limit says: by bytes,
// or because the lane is that long.
func (p *planner) noSpace(q *queueState, n int, size uint64) bool {
	return size >= largeBytes && q.bytes > 0 && int64(q.bytes+uint64(n)*size) > p.b.cfg.QueueBytes ||
		q.msgs+q.flush+q.owing+uint64(n) >= p.b.qmask
}

// fits tells whether a group's copies of a block of size bytes find room.
func (p *planner) fits(q *queueState, g group, size uint64) bool {
	return p.fitsApart(q, g, size) && (g.n == g.apart() || !p.full(q, g.n, size))
}

// fitsApart tells whether the copy that is judged apart finds room, if there is one.
func (p *planner) fitsApart(q *queueState, g group, size uint64) bool {
	switch g.role {
	case roleReplier:
		return !p.full(q, 1, size)
	case roleDirect: // it may use the place held for it (R5.5)
		return q.msgs+q.flush+q.owing <= q.limit && !p.noSpace(q, 1, size)
	}
	return true
}

// insert plans that a copy comes into the normal lane at a position. Only the
// previous lap's copy is ever replaced (T4).
func (p *planner) insert(q *queueState, pos uint64, idx, h int) {
	b := p.b
	at := q.s + b.lane + int(pos&b.qmask)
	p.set(at, b.w[at].Load(), laneWord(pos>>b.qbits+1, idx, h))
}

// deliver plans the insertion of copies [i, i+n) of block h, of so many bytes, into
// a queue, after the kept events for which there is room; urgent ones in front, copy
// by copy (R3.6).
func (p *planner) deliver(q *queueState, h, i, n int, bytes uint64, urgent bool) {
	b := p.b
	tail := q.tail
	if q.flush > 0 {
		head := b.w[q.s+sKeptHead].Load()
		for k := range q.flush {
			word := b.w[q.s+b.kept+int((head+k)&b.kmask)].Load()
			p.insert(q, tail, laneIdx(word), laneHandle(word))
			tail++
		}
		p.set(q.s+sKeptHead, head, head+q.flush)
	}
	if urgent {
		ud := q.rw.ud()
		for k := range n {
			at := q.s + b.urg + int((ud+uint64(k))&b.qmask)
			p.set(at, b.w[at].Load(), laneWord(esStamp(p.seq)&stampMask, i+k, h))
		}
		p.thaw(q, ud+uint64(n), q.rw.head())
	} else {
		for k := range n {
			p.insert(q, tail, i+k, h)
			tail++
		}
	}
	if tail != q.tail {
		p.set(q.s+sTail, q.tail, tail) // for those who plan; a reader goes by the copies' laps
	}
	if n > 0 && bytes >= largeBytes {
		p.set(q.s+sBytesIn, q.bytesIn, q.bytesIn+uint64(n)*bytes)
	}
}

// wakeAll plans the waking of those in p.to whose queues change.
func (p *planner) wakeAll() {
	for i := range p.to {
		if r := &p.to[i]; !r.aside && (r.n > 0 || r.flush > 0) {
			p.wake(r.slot)
		}
	}
}

// thaw plans the end of an edit of a queue.
func (p *planner) thaw(q *queueState, ud, head uint64) {
	p.set(q.s+sRead, uint64(q.rw), uint64(makeRead(esStamp(p.seq), false, ud, head)))
	p.set(q.s+sEdit, q.edit, p.seq+1) // whole: a stamp of it could come again, or be a new slot's 0
}

// freeze stops a queue's reader while the entry claimed in cur edits the queue;
// it must come before the plan reads the queue. The expected value carries
// another entry's stamp, and every frozen queue is thawed under this one's, so
// that a late helper freezes nothing (T9).
func (p *planner) freeze(slot int) bool {
	b, s := p.b, p.b.slot(slot)
	for {
		r := readWord(b.w[s+sRead].Load())
		c := b.w[wCur].Load()
		if curSeq(c) != p.seq || curPhase(c) != curClaimed {
			return false
		}
		if r.es() == esStamp(p.seq) {
			return true
		}
		if b.w[s+sRead].CompareAndSwap(uint64(r), uint64(makeRead(esStamp(p.seq), true, r.ud(), r.head()))) {
			return true
		}
	}
}

// A group is the copies of a message for one Ksock: copies [i, i+n) of the
// block's list, of which the first may be apart (R6.1: the Replier's copy, or
// the Reply to its asker).
type group struct{ slot, n, role int }

// apart is how many copies of the group, 0 or 1, are judged apart.
func (g group) apart() int {
	if g.role != roleListener {
		return 1
	}
	return 0
}

// group is the group that begins with copy i.
func (m *view) group(i int) (g group, err error) {
	w, err := m.copy(i)
	g = group{copySlot(w), 1, copyRole(w)}
	for err == nil && i+g.n < m.copies {
		if w, err = m.copy(i + g.n); copySlot(w) != g.slot {
			break
		}
		g.n++
	}
	return g, err
}

// message plans a user's message, or a Status, in the order of R3.8.
func (p *planner) message(e entry, m *view) (code uint8, err error) {
	b := p.b
	if m.kind == kindStatus {
		return p.status(m)
	}
	request, reply := m.flags&WantReply != 0, m.reply != 0
	urgent := m.flags&Urgent != 0
	allOrFail, allOrWait := m.flags&AllOrFail != 0 && !reply, m.flags&AllOrWait != 0 && !reply // R6.4
	if m.opts&optRelayed != 0 {
		allOrFail, allOrWait = allOrFail || allOrWait, false
	}
	if m.kind == kindCopy {
		request, reply = false, false // R8.9: nobody is asked, and nobody answered
	}

	if request {
		q := &p.asker
		if err := p.look(q, e.from, true); err != nil {
			return 0, err
		}
		if m.opts&optNoPlace == 0 && q.msgs+q.flush+q.owing >= q.limit || q.owing >= uint64(b.cfg.QueueSlots) {
			return uint8(unix.ENOLCK), nil
		}
	}
	serial := p.number(m)
	code = uint8(m.opts >> optCodeShift)
	if reply && code == 0 {
		code = p.checkReply(m, e.from)
	}
	if urgent {
		for i := 0; i < m.copies; {
			g, err := m.group(i)
			if err != nil {
				return 0, err
			}
			if !p.freeze(g.slot) {
				return 0, corrupt("late freeze") // never published: cur has moved on
			}
			i += g.n
		}
	}
	// Judge everybody before anything is planned: room is that before the send,
	// and each queue is looked at once (R6.1).
	p.to = p.to[:0]
	for i := 0; i < m.copies && (code == 0 || urgent); {
		g, err := m.group(i)
		if err != nil {
			return 0, err
		}
		r := p.add()
		r.i, r.n = i, g.n
		q := &r.queueState
		if err := p.look(q, g.slot, urgent); err != nil {
			return 0, err
		}
		i += g.n
		if code != 0 {
			continue
		}
		fits := p.fits(q, g, m.bytes)
		if !fits && !q.fresh {
			if err := p.look(q, g.slot, true); err != nil {
				return 0, err
			}
			fits = p.fits(q, g, m.bytes)
		}
		switch {
		case fits:
		case allOrWait:
			code = uint8(unix.EAGAIN)
		case allOrFail, !p.fitsApart(q, g, m.bytes): // R5.4, R5.5
			code = uint8(unix.EBUSY)
		default:
			r.n, r.missed = g.apart(), true // R6.1
		}
		if m.opts&optRelayed != 0 && g.slot == e.from {
			r.n, r.missed = g.apart(), false // R8.4: it would only drop its own message
		}
	}
	if code != 0 {
		if urgent {
			for i := range p.to {
				q := &p.to[i].queueState
				p.thaw(q, q.rw.ud(), q.rw.head())
			}
		}
		return code, nil
	}
	// A spinning reader waits for its copy; the ledger is for the next entry, and for an
	// asker who looks whether its answer is on the way (Outstanding): before it is woken.
	p.copies(m, urgent)
	if request {
		if err := p.owe(m, &p.asker, serial); err != nil {
			return 0, err
		}
	}
	if reply {
		p.settle(m)
	}
	p.wakeAll()
	if m.opts&optRelayed != 0 && (request || reply) {
		p.wake(e.from) // what a Limpet has to pass on next is likely the answer, or the next Request
	}
	return codeOK, nil
}

// A recipient is a Ksock that an entry's message is for: copies [i, i+n) of the
// list, less those that it misses.
type recipient struct {
	queueState
	i, n   int
	missed bool
	// Events only (R7.4): no room, so keep the copies aside; whether their loss is
	// to be told; and whether this is what tells it.
	aside, lost, losing bool
}

// add makes room for one more recipient.
func (p *planner) add() *recipient {
	if n := len(p.to); n < cap(p.to) {
		p.to = p.to[:n+1]
		r := &p.to[n]
		r.missed, r.aside, r.lost, r.losing = false, false, false, false
		return r
	}
	p.to = append(p.to, recipient{})
	return &p.to[len(p.to)-1]
}

// send plans what the recipients in p.to get of a message, and wakes them.
func (p *planner) send(m *view, urgent bool) {
	p.copies(m, urgent)
	p.wakeAll()
}

// copies plans the copies of a message. The bits come before them: a reader may take
// and release one at once (T3).
func (p *planner) copies(m *view, urgent bool) {
	p.arm(m)
	for i := range p.to {
		r := &p.to[i]
		if r.missed {
			p.bump(r.s+sMissed, 1)
		}
		switch {
		case r.aside:
			p.keep(r, m.h)
		case r.n > 0 || r.flush > 0:
			p.deliver(&r.queueState, m.h, r.i, r.n, m.bytes, urgent)
		case urgent:
			p.thaw(&r.queueState, r.rw.ud(), r.rw.head())
		}
	}
}

// checkReply tells what stands against a Reply (R3.8, R5.9), 0 if nothing.
func (p *planner) checkReply(m *view, from int) uint8 {
	b := p.b
	slot, idx, ver := ledRefSplit(m.led)
	if slot == 0 || slot > b.cfg.MaxKsocks || idx > b.lmask {
		// Nothing that this Ksock has read: is there anybody at all?
		if b.findKid(m.to) == 0 {
			return uint8(unix.EADDRNOTAVAIL)
		}
		return uint8(unix.ECONNREFUSED)
	}
	if b.w[b.slot(slot)+sKid].Load() != uint64(kidOpen)<<32|uint64(m.to) {
		return uint8(unix.EADDRNOTAVAIL)
	}
	l := b.w[b.slot(slot)+b.rec+idx*recWords].Load()
	if ledState(l) != ledOpen || ledVer(l) != ver {
		return uint8(unix.ECONNREFUSED)
	}
	rep := b.w[b.slot(slot)+b.rec+idx*recWords+recReplier].Load()
	if int(rep>>32) != from {
		return uint8(unix.ECONNREFUSED)
	}
	return 0
}

// owe plans a Request's place on its asker's ledger. The asker chose the ledger
// word; nobody else takes free ones.
func (p *planner) owe(m *view, asker *queueState, serial uint32) error {
	b := p.b
	_, idx, ver := ledRefSplit(m.led)
	if idx > b.lmask {
		return corrupt("ledger word %d", idx)
	}
	at := asker.s + b.rec + idx*recWords
	l := b.w[at].Load()
	if ledState(l) != ledFree {
		return corrupt("ledger word %d of slot %d is taken", idx, asker.slot)
	}
	p.set(at, l, ledWord(ledOpen, ver, serial))
	o := b.w[asker.s+sOwing].Load()
	p.set(asker.s+sOwing, o, o+1<<16+1)
	return nil
}

// settle plans that the Request which m answers is off its asker's ledger: the
// first answer in the log does that, and so there is only one (I2).
func (p *planner) settle(m *view) {
	b := p.b
	slot, idx, ver := ledRefSplit(m.led)
	s := b.slot(slot)
	at := s + b.rec + idx*recWords
	p.set(at, b.w[at].Load(), ledWord(ledFree, ver, 0))
	o := b.w[s+sOwing].Load()
	p.set(s+sOwing, o, o+1<<16-1)
}

// status plans a Status (R5.7). It ignores the limit; none is made for an
// answered Request, or for an asker that is gone.
func (p *planner) status(m *view) (uint8, error) {
	b := p.b
	slot, idx, ver := ledRefSplit(m.led)
	if slot < 1 || slot > b.cfg.MaxKsocks {
		return 0, corrupt("Status for slot %d", slot)
	}
	kid := b.w[b.slot(slot)+sKid].Load()
	if uint32(kid) != m.to || kid>>32 != kidOpen && kid>>32 != kidClosing {
		return codeNothing, nil
	}
	if m.opts&optNoLedger == 0 {
		if idx > b.lmask {
			return 0, corrupt("ledger word %d", idx)
		}
		l := b.w[b.slot(slot)+b.rec+idx*recWords].Load()
		if ledState(l) == ledFree || ledVer(l) != ver {
			return codeNothing, nil
		}
		p.settle(m)
	}
	p.number(m)
	if kid>>32 == kidClosing {
		p.to = p.to[:0]
		p.arm(m)
		return codeOK, nil // R4.8: it uses an id, though nobody will read it
	}
	q, err := p.queue(slot)
	if err != nil {
		return 0, err
	}
	q.flush = 0 // it may pass what is kept (R7.4)
	if q.msgs+1 >= b.qmask {
		return 0, corrupt("slot %d has no slot for a Status", slot)
	}
	p.to = append(p.to[:0], recipient{queueState: q, n: 1})
	p.send(m, false)
	return codeOK, nil
}

func trailing(m uint64) int { return bits.TrailingZeros64(m) }
