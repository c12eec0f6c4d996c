package ring

import (
	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// A control entry's block holds, as words of its payload, what the supervisor
// prepared: an event, if there is one to tell; messages for one Ksock (R7.2); a
// binding whose messages are to be removed from its Ksock's queue; and edits, as
// triples of word, old and new.
const (
	cEvent  = 0 // block of the event; 0 none
	cLost   = 1 // block of the UnbindEventsLost for those who miss it; 0: then the entry fails if anybody has no room (R7.3)
	cRemove = 2 // slot[12]@16 cell[14], +1<<32; 0 none
	cTo     = 3 // slot that gets the messages of R7.2
	cCount  = 4 // how many
	cEdits  = 5 // how many edits
	cHead   = 6 // then the messages' handles, then the edits
)

// control plans a control entry.
func (p *planner) control(e entry) (uint8, error) {
	b := p.b
	m, err := b.view(e.handle)
	if err != nil {
		return 0, err
	}
	words := b.wordsAt(m.h, 0, m.dataLen/8)
	if len(words) < cHead {
		return 0, corrupt("control entry of %d words", len(words))
	}
	word := func(i int) int { return int(words[i].Load() & (1<<40 - 1)) }
	count, edits := word(cCount), word(cEdits)
	if count > len(words) || edits > len(words) || cHead+count+3*edits > len(words) {
		return 0, corrupt("control entry of %d words: %d messages, %d edits", len(words), count, edits)
	}
	var rq queueState
	remove := word(cRemove)
	if remove != 0 {
		slot := remove >> 16 & 0xfff
		if slot < 1 || slot > b.cfg.MaxKsocks {
			return 0, corrupt("control entry for slot %d", slot)
		}
		if !p.freeze(slot) {
			return 0, corrupt("late freeze")
		}
		if rq, err = p.queue(slot); err != nil {
			return 0, err
		}
	}
	code, err := uint8(codeOK), error(nil)
	if h := word(cEvent); h != 0 {
		code, err = p.event(h, word(cLost), rq.slot)
	} else if count > 0 {
		code, err = p.greet(word(cTo), words[cHead:cHead+count])
	}
	if err != nil {
		return 0, err
	}
	if code != codeOK {
		if remove != 0 {
			p.thaw(&rq, rq.rw.ud(), rq.rw.head())
		}
		return code, nil
	}
	for i := range edits {
		t := words[cHead+count+3*i:]
		p.set(int(t[0].Load()&(1<<40-1)), t[1].Load(), t[2].Load())
	}
	if remove != 0 {
		if err := p.remove(&rq, remove&0x3fff); err != nil {
			return 0, err
		}
	}
	return code, nil
}

// greet plans the events of all Repliers bound, for the Ksock that has switched
// reports on: all of them or none (R7.2).
func (p *planner) greet(slot int, handles []shm.Word) (uint8, error) {
	q, err := p.queue(slot)
	if err != nil {
		return 0, err
	}
	if q.msgs+q.flush+q.owing+uint64(len(handles)) > q.limit {
		return uint8(unix.EBUSY), nil
	}
	for i := range handles {
		m, err := p.b.view(int(handles[i].Load()))
		if err != nil {
			return 0, err
		}
		p.number(&m)
		p.to = append(p.to[:0], recipient{queueState: q, n: 1})
		p.send(&m, false)
		q.tail += q.flush + 1
		q.msgs += q.flush + 1
		q.flush = 0
	}
	return codeOK, nil
}

// event plans a ReplierBindEvent (R7.1): with lost = 0 everybody must have room
// (R7.3); else what finds no room is kept aside, and for what can't even be kept
// there is the block lost (R7.4). If the Ksock whose queue the same entry edits
// first has kept events to get, that must happen before (codeFlush).
func (p *planner) event(h, lost, edited int) (uint8, error) {
	b := p.b
	m, err := b.view(h)
	if err != nil {
		return 0, err
	}
	if edited != 0 {
		if q, err := p.queue(edited); err != nil || q.flush > 0 {
			return codeFlush, err
		}
	}
	p.number(&m)
	code := uint8(codeOK)
	p.to = p.to[:0]
	for i := 0; i < m.copies; {
		g, err := m.group(i)
		if err != nil {
			return 0, err
		}
		r := p.add()
		r.i, r.n = i, g.n
		if err := p.look(&r.queueState, g.slot, true); err != nil {
			return 0, err
		}
		if p.full(&r.queueState, g.n, m.bytes) {
			r.aside = true
			code = uint8(unix.EAGAIN)
		}
		i += g.n
	}
	if lost == 0 {
		if code == codeOK {
			p.send(&m, false)
		}
		return code, nil
	}
	anyMissed := false
	for i := range p.to {
		r := &p.to[i]
		if !r.aside {
			continue
		}
		losing, told, err := p.losing(&r.queueState)
		if err != nil {
			return 0, err
		}
		if losing || int(r.kept)+r.n > b.cfg.KeptEvents { // all its copies or none (R6.1)
			r.n, r.missed, r.lost = 0, true, !told
			anyMissed = true
		}
	}
	p.send(&m, false)
	if anyMissed {
		l, err := b.view(lost)
		if err != nil {
			return 0, err
		}
		if l.copies != m.copies {
			return 0, corrupt("block %d has %d copies, not %d", lost, l.copies, m.copies)
		}
		p.number(&l)
		k := 0
		for _, r := range p.to {
			if r.lost {
				// The copy of its newest binding, behind what is kept.
				p.to[k] = recipient{queueState: r.queueState, i: r.i, n: 1, aside: true, losing: true}
				k++
			}
		}
		p.to = p.to[:k]
		p.send(&l, false)
	}
	return codeOK, nil
}

// losing tells whether events have been lost for a Ksock since it last had none
// kept, and whether the UnbindEventsLost that says so is still to be delivered.
func (p *planner) losing(q *queueState) (losing, told bool, err error) {
	tail := p.b.w[q.s+sKeptTail].Load()
	if q.kept == 0 || p.b.w[q.s+sLosing].Load() != tail {
		return false, false, nil
	}
	m, err := p.b.view(laneHandle(p.b.w[q.s+p.b.layout.kept+int((tail-1)&p.b.kmask)].Load()))
	return true, m.opts&optLost != 0, err
}

// keep plans that copies [i, i+n) of block h are kept aside.
func (p *planner) keep(r *recipient, h int) {
	b := p.b
	tail := b.w[r.s+sKeptTail].Load()
	for k := range r.n {
		pos := tail + uint64(k)
		at := r.s + b.layout.kept + int(pos&b.kmask)
		p.set(at, b.w[at].Load(), laneWord(pos/(b.kmask+1)+1, r.i+k, h))
	}
	if r.n > 0 {
		p.set(r.s+sKeptTail, tail, tail+uint64(r.n))
	}
	if r.losing {
		p.set(r.s+sLosing, b.w[r.s+sLosing].Load(), tail+uint64(r.n))
	}
}

// A spot is a copy in a lane.
type spot struct {
	at   int
	word uint64
	out  bool
}

// remove plans that the messages which came by a binding leave their queue, which
// is frozen, and the lane of kept events (R4.5, R7.4): survivors move up, what a
// removed one held is released, and a removed Request is marked as owing its
// asker a Status.
func (p *planner) remove(q *queueState, cell int) error {
	b := p.b
	n := 0
	bytes := uint64(0)
	look := func(at int) (spot, error) {
		sp := spot{at: at, word: b.w[at].Load()}
		m, err := b.view(laneHandle(sp.word))
		if err != nil {
			return sp, err
		}
		i := laneIdx(sp.word)
		if i >= m.copies {
			return sp, corrupt("copy %d of %d of block %d", i, m.copies, m.h)
		}
		c, err := m.copy(i)
		if err != nil || copyRole(c) == roleDirect || copyCell(c) != cell {
			return sp, err
		}
		sp.out = true
		if copyRole(c) == roleReplier {
			p.orphan(&m, n)
		}
		n++
		if m.bytes >= largeBytes {
			bytes += m.bytes
		}
		p.step(stepRelease, m.h, headGen(m.head), uint64(i))
		return sp, nil
	}
	move := func(to, from spot) {
		if to.at != from.at {
			p.set(to.at, to.word, laneWord(laneStamp(to.word), laneIdx(from.word), laneHandle(from.word)))
		}
	}
	gather := func(n uint64, at func(uint64) int) ([]spot, error) {
		var l []spot
		for k := range n {
			sp, err := look(at(k))
			if err != nil {
				return nil, err
			}
			l = append(l, sp)
		}
		return l, nil
	}
	// compact moves the survivors to the end of the list, and counts the removed.
	compact := func(l []spot) uint64 {
		to := len(l)
		for i := len(l) - 1; i >= 0; i-- {
			if !l[i].out {
				to--
				move(l[to], l[i])
			}
		}
		return uint64(to)
	}
	ud := q.rw.ud()
	urgent, err := gather(ud, func(k uint64) int { return q.s + b.urg + int((ud-1-k)&b.qmask) })
	if err != nil {
		return err
	}
	head := q.rw.head()
	normal, err := gather(q.msgs-ud, func(k uint64) int { return q.s + b.lane + int((head+k)&b.qmask) })
	if err != nil {
		return err
	}
	kept := b.w[q.s+sKeptHead].Load()
	aside, err := gather(q.kept, func(k uint64) int { return q.s + b.layout.kept + int((kept+k)&b.kmask) })
	if err != nil {
		return err
	}
	// The top of the urgent lane is its end: there the survivors move down.
	gone := compact(urgent)
	head += compact(normal)
	if k := compact(aside); k > 0 {
		p.set(q.s+sKeptHead, kept, kept+k)
	}
	if bytes > 0 {
		in := b.w[q.s+sBytesIn].Load()
		p.set(q.s+sBytesIn, in, in-bytes)
	}
	p.thaw(q, ud-gone, head)
	return nil
}

// orphan plans that a Request which was removed unread is owed a Status.
func (p *planner) orphan(m *view, n int) {
	b := p.b
	slot, idx, ver := ledRefSplit(m.led)
	if slot < 1 || slot > b.cfg.MaxKsocks || idx > b.lmask {
		return
	}
	at := b.slot(slot) + b.rec + idx*recWords
	l := b.w[at].Load()
	if ledState(l) != ledOpen || ledVer(l) != ver {
		return // its asker is gone
	}
	rec := b.slot(slot) + b.rec + idx*recWords + recOrder
	p.set(rec, b.w[rec].Load(), p.seq<<16|uint64(n))
	p.set(at, l, ledWord(ledOrphan, ver, uint32(l)))
}
