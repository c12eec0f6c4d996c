//go:build kbuscheck

package ring

import "math/bits"

// A digest is a hash of what it is given.
func digest(x ...uint64) uint64 {
	h := uint64(len(x))
	for _, v := range x {
		hi, lo := bits.Mul64(h^0xa0761d6478bd642f, v^0xe7037ed1a0b428db)
		h = hi ^ lo ^ h<<7
	}
	return h
}

func (p *party) state() uint64 {
	h := uint64(0)
	for i, x := range p.plan.seen {
		x.next = 0 // only says what to fetch
		if x != (place{}) {
			h = digest(h, uint64(i), uint64(x.slot), x.edit, x.head, x.ud, x.out)
		}
	}
	return h
}

func (p *party) left(i int) uint64 {
	h := uint64(len(p.plan.steps) - i)
	for _, s := range p.plan.steps[i:] {
		h = digest(h, s[0], s[1], s[2])
	}
	return h
}

func (d *draft) state() uint64 {
	if d == nil {
		return 0
	}
	route := uint64(0)
	if d.route != nil {
		route = d.route.version + 1
	}
	more := uint64(0)
	if d.tried {
		more |= 1
	}
	if d.gone {
		more |= 2
	}
	return digest(d.version, uint64(d.h), d.head, uint64(d.units), uint64(d.opts), pair(d.hdr.ID.Network, d.hdr.ID.Serial), route, more)
}

func (c *Client) state() uint64 {
	l := []uint64{
		c.hand.state(), c.waiting.state(), c.send.state(), c.recv.state(), c.b.tables.version, uint64(c.last.Serial), c.sent, uint64(c.readSeq), c.unmarked, c.pos, c.received,
		uint64(len(c.loans.free)), uint64(len(c.views.free)), uint64(c.sleepers.n), uint64(c.sleepers.room),
	}
	for _, o := range c.owed {
		l = append(l, uint64(o.asker), pair(o.id.Network, o.id.Serial), o.led)
	}
	return digest(c.cache.state(l)...)
}

func (a *Admin) state() uint64 {
	l := []uint64{a.p.state(), a.b.tables.version, uint64(len(a.held.free)), uint64(len(a.todo))}
	for _, i := range a.cells {
		l = append(l, uint64(i))
	}
	return digest(a.cache.state(l)...)
}

func (c *cache) state(l []uint64) []uint64 {
	for n := range 8 {
		if q := c.of[n]; q != nil {
			for _, f := range q.all() {
				l = append(l, uint64(n), uint64(f.h), f.head)
			}
		}
	}
	return l
}

// all is the blocks in the order in which they were let go of.
func (q *used) all() (l []freed) {
	for i := q.first; i != q.next; i++ {
		l = append(l, q.ring[i&uint(len(q.ring)-1)])
	}
	return append(l, q.warm...)
}
