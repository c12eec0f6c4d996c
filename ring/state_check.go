//go:build kbuscheck

package ring

import (
	"encoding/binary"
	"hash/fnv"
)

// A digest is a hash of what it is given.
func digest(x ...uint64) uint64 {
	h := fnv.New64a()
	var b [8]byte
	for _, v := range x {
		binary.LittleEndian.PutUint64(b[:], v)
		h.Write(b[:])
	}
	return h.Sum64()
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
		c.hand.state(), c.waiting.state(), c.b.tables.version, uint64(c.last.Serial), c.sent, uint64(c.readSeq), c.received,
		uint64(len(c.loans.free)), uint64(len(c.views.free)), uint64(c.sleepers.n), uint64(c.sleepers.room),
	}
	for _, o := range c.owed {
		l = append(l, uint64(o.asker), pair(o.id.Network, o.id.Serial), o.led)
	}
	return digest(c.cache.state(l)...)
}

func (a *Admin) state() uint64 {
	l := []uint64{a.b.tables.version, uint64(len(a.held.free)), uint64(len(a.todo))}
	for _, i := range a.cells {
		l = append(l, uint64(i))
	}
	return digest(a.cache.state(l)...)
}

func (c cache) state(l []uint64) []uint64 {
	for n := range 8 {
		if q := c[n]; q != nil {
			for _, f := range q.items[q.head:] {
				l = append(l, uint64(n), uint64(f.h), f.head)
			}
		}
	}
	return l
}
