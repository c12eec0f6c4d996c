package ring

// A batch is several announcements of one name in one entry: one plan puts them all
// into the queues, and wakes each recipient once. It is what needs no judging, as
// many as have room with everybody; nobody but their sender ever plans one, so it
// is no kind of entry, and helpers carry it out as any other.

// maxBatch bounds what one entry does, since all other senders wait for it.
const maxBatch = 64

// SendBatch sends n messages in their order, as Send would one after the other,
// and returns how many went out; then the error is that of the next one, which is
// what Send says of it: after EAGAIN it waits in this Ksock (R6.5). Announcements of
// one name in a row, urgent ones apart, come into the queues with nothing in
// between as far as there is room for them.
func (c *Client) SendBatch(n int, message func(int) (*Header, []byte)) (sent int, err error) {
	for sent < n {
		if err := c.check(); err != nil {
			return sent, err
		}
		h, data := message(sent)
		d := &c.hand
		if err := c.draw(d, h, data, kindMessage, 0); err != nil {
			return sent, err
		}
		k, err := c.together(d, message, sent, c.alike(d, message, sent, n))
		if err != nil {
			if k == 0 {
				c.drop(d)
			}
			return sent + k, err
		}
		if k == 0 {
			if _, err := c.sendDrawn(d); err != nil {
				return sent, err
			}
			k = 1
		}
		sent += k
	}
	return sent, nil
}

// alike counts the messages from one on, drawn in d, that one entry may take.
func (c *Client) alike(d *draft, message func(int) (*Header, []byte), from, n int) int {
	plain := func(h *Header, data []byte) bool {
		return h.Flags&(WantReply|Urgent) == 0 && !h.IsReply() && h.Name == d.hdr.Name && len(data)+MaxName < largeBytes/2
	}
	k := 0
	for k < min(n-from, maxBatch) {
		if h, data := message(from + k); !plain(h, data) {
			break
		}
		k++
	}
	return k
}

// together sends up to n messages from one on, drawn in d, by one entry. 0: they
// are to be sent one by one.
func (c *Client) together(d *draft, message func(int) (*Header, []byte), from, n int) (sent int, err error) {
	p := &c.send
	if n < 2 {
		return 0, nil
	}
	if err := d.prepare(p); err != nil {
		return 0, err
	}
	n, err = p.plan.roomFor(&d.v, n)
	if err != nil || n < 2 {
		return 0, nil // whoever sends the one finds out why
	}
	for len(c.batch) < n {
		c.batch = append(c.batch, new(draft))
	}
	c.batch[0] = d
	drawn := 1
	for ; drawn < n; drawn++ {
		h, data := message(from + drawn)
		if c.draw(c.batch[drawn], h, data, kindMessage, 0) != nil {
			break // it is told when that message is the next
		}
	}
	ds := c.batch[:drawn]
	sent, err = p.appendBatch(ds)
	for i, d := range ds {
		if i < sent {
			c.last = MessageID{d.hdr.ID.Network, uint32(d.v.serw)}
			c.count(d)
		}
		if i < sent || i > 0 {
			c.drop(d)
		}
	}
	return sent, err
}

// appendBatch brings drafts into the log by one entry: as many as there is room
// for, or none.
func (p *party) appendBatch(ds []*draft) (int, error) {
	for try := 0; try < 2; {
		a, err := p.idle()
		if err != nil {
			return 0, err
		}
		for _, d := range ds {
			if err := d.prepare(p); err != nil {
				return 0, err
			}
		}
		p.plan.begin(curSeq(a))
		n, err := p.plan.batch(ds)
		if err != nil || n < 2 {
			if p.b.w[wCur].Load() != a {
				continue // planned from words that were changing
			}
			return 0, err
		}
		mine := curWord(curSeq(a), p.area, curPlanned)
		p.plan.end()
		// SYNC E1 release: the plan.
		if p.b.w[wCur].CompareAndSwap(a, mine) {
			for _, d := range ds[:n] {
				d.tried, d.gone = true, true
			}
			p.plan.remember()
			return n, p.finish(mine)
		}
		try++
	}
	return 0, nil
}

// batch plans as many announcements as everybody has room for. All have the same
// list.
func (p *planner) batch(ds []*draft) (int, error) {
	b := p.b
	p.own = true
	n, err := p.roomFor(&ds[0].v, len(ds))
	for i, d := range ds[:n] {
		if d.v.bytes >= largeBytes { // those have books of their own
			n = i
			break
		}
	}
	if err != nil || n < 2 {
		return 0, err
	}
	for _, d := range ds[:n] {
		m := &d.v
		m.serw = m.serw&^0xffffffff | uint64(p.number(m))
		p.arm(m) // before any copy (T3)
	}
	for i := range p.to {
		q := &p.to[i].queueState
		tail := q.tail
		for _, d := range ds[:n] {
			for k := range p.to[i].n {
				p.insert(q, tail, p.to[i].i+k, d.h)
				tail++
			}
		}
		p.set(q.s+sTail, q.tail, tail)
		p.wake(q.slot)
	}
	if p.over() {
		return 0, corrupt("entry %d needs more than %d steps", p.seq, b.areaCap)
	}
	return n, nil
}

// roomFor looks at the recipients of an announcement, and tells for how many of
// its like, at most n, all of them have room; 0 if there is more to do for one.
func (p *planner) roomFor(m *view, n int) (int, error) {
	p.to = p.to[:0]
	for i := 0; i < m.copies && n > 1; {
		g, err := m.group(i)
		if err != nil {
			return 0, err
		}
		r := p.add()
		r.i, r.n = i, g.n
		i += g.n
		fit := 0
		for _, fresh := range [...]bool{false, true} {
			if err := p.look(&r.queueState, g.slot, fresh); err != nil {
				return 0, err
			}
			if fit = p.fit(&r.queueState, g.n); fit >= n {
				break
			}
		}
		n = min(n, fit)
	}
	// A step for each block, its tree of bits, and each copy; two for each recipient;
	// one for the numbers.
	steps := 1 + m.copies
	if m.copies > 16 {
		leaves, mids := groupCounts(m.copies)
		steps += leaves + mids
	}
	return min(n, (p.b.areaCap-2*len(p.to)-1)/steps), nil
}

// fit is how many messages of n copies each have room in a queue, one after the
// other (R6.1); 0 if kept events come first (R7.4).
func (p *planner) fit(q *queueState, n int) int {
	used := q.msgs + q.owing
	if q.kept > 0 || used >= q.limit || used >= p.b.qmask {
		return 0
	}
	return int(min((q.limit-used-1)/uint64(n)+1, (p.b.qmask-used-1)/uint64(n)))
}
