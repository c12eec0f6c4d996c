package ring

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// The arena is a chain of blocks, each some units long. A block is used, or free
// for anyone to take by one compare-and-swap of its head, or in the pool. Only
// entries change the chain and the pool, so joining and splitting need no
// protocol of their own, and nobody who stops half-way keeps space from others.
//
// A sender takes again, if it can, a block that it has used before (cache); else
// a carve entry takes the first fit of the pool, joining neighbours. If nothing
// fits, the same entry moves all free blocks to the pool, and it is tried again.

// unitsFor is the number of units that data, name and list need.
func unitsFor(data, name, copies int) int {
	n := (data + name + 7) &^ 7
	if copies > inlineCopies {
		n += 8 * copies
	}
	return max((n+unitBytes-1)/unitBytes, groupUnits(copies), 1)
}

// A freed is a block that this process used before, and what its head will be
// once it is free.
type freed struct {
	h    int
	head uint64
}

// A cache remembers blocks that this process used, by size.
type cache struct {
	of    map[int]*used // by units
	units int           // what q is for: most messages are as large as the one before
	q     *used
}

// A used is the blocks of one size in the order in which they were let go of; the
// oldest is the likeliest to be free again. Small ones are taken in that order:
// their lines come from the last reader's CPU, and are fetched beforehand. Of large
// ones the newest that is free is taken: more of it may still be in the caches.
type used struct {
	ring        []freed // a power of two; from ring[first%len] to before ring[next%len]
	first, next uint
	warm        []freed // large ones that were found free again, the newest last
	fetched     bool    // willTake was here since the last take
}

const (
	cacheLooks = 4    // blocks looked at for one size
	cacheLag   = 2    // blocks that are not looked at unless they must
	cacheSizes = 256  // sizes remembered
	cacheKeep  = 4096 // blocks of one size, a power of two
	largeUnits = 64   // of a block that is large
	maxSweeps  = 16   // before a full arena is ENOMEM
)

func newCache() *cache { return &cache{of: map[int]*used{}} }

// get is what is known of a size; nil if that is nothing.
func (c *cache) get(units int) *used {
	if c.units == units {
		return c.q
	}
	return c.turn(units)
}

func (c *cache) turn(units int) *used {
	q := c.of[units]
	if q != nil {
		c.units, c.q = units, q
	}
	return q
}

func (c *cache) add(units int, f freed) {
	q := c.get(units)
	if q == nil {
		q = c.begin(units)
	}
	if q.next-q.first == uint(len(q.ring)) && !q.grow() {
		return
	}
	q.ring[q.next&uint(len(q.ring)-1)] = f
	q.next++
}

func (c *cache) begin(units int) *used {
	if len(c.of) == cacheSizes { // forget them all: a sweep finds those blocks
		clear(c.of)
	}
	q := &used{ring: make([]freed, 4)}
	c.of[units], c.units, c.q = q, units, q
	return q
}

func (q *used) grow() bool {
	n := len(q.ring)
	if n == cacheKeep {
		return false
	}
	old := int(q.first) & (n - 1)
	q.ring = append(append(make([]freed, 0, 2*n), q.ring[old:]...), q.ring[:old]...)[:2*n]
	q.first, q.next = 0, uint(n)
	return true
}

// willTake begins to fetch the block that comes next for a size, if there are so
// many: after a send not the block just sent, which its readers are to fetch.
func (c *cache) willTake(b *Bus, units, many int) {
	q := c.get(units)
	if q == nil || q.fetched {
		return
	}
	var h int
	if n := len(q.warm); n > 0 && q.next-q.first <= cacheLag {
		h = q.warm[n-1].h
	} else if q.next-q.first >= uint(many) {
		h = q.ring[q.first&uint(len(q.ring)-1)].h
	} else {
		return
	}
	q.fetched = true
	b.w[b.block(h)].WillWriteTwo()
	b.w[b.payload+h*unitWords].WillWriteTwo()
}

// take takes a block of exactly so many units that is free again, for slot
// owner; word held tells the supervisor of it before (R9.2).
func (c *cache) take(b *Bus, units, owner, held int) (h int, head uint64, ok bool) {
	q := c.get(units)
	if q == nil {
		return 0, 0, false
	}
	q.fetched = false
	if units >= largeUnits {
		q.sort(b)
	}
	for range cacheLooks {
		var f freed
		if n := len(q.warm); n > 0 {
			f, q.warm = q.warm[n-1], q.warm[:n-1]
		} else if q.first != q.next {
			f = q.ring[q.first&uint(len(q.ring)-1)]
			q.first++
		} else {
			break
		}
		at := &b.w[b.block(f.h)+mHead]
		w := at.Load()
		if w == f.head {
			b.w[held].Put(uint64(f.h))
			n := w | headWord(0, owner, headSender)
			if at.CompareAndSwap(w, n) { // SYNC E3 acquire
				return f.h, n, true
			}
		} else if f.isUsed(w) {
			c.add(units, f)
		}
	}
	return 0, 0, false
}

// isUsed tells by its head that the block is not free yet.
func (f *freed) isUsed(head uint64) bool { return headGen(head) == headGen(f.head)-1 }

// sort looks at the oldest blocks and moves to warm which are free again, until one
// is not, which waits for its turn anew. At the last few it does not look: their
// readers have them still, and need their lines.
func (q *used) sort(b *Bus) {
	for range min(cacheLooks, max(int(q.next-q.first)-cacheLag, 0)) {
		f := q.ring[q.first&uint(len(q.ring)-1)]
		q.first++
		if w := b.w[b.block(f.h)+mHead].Load(); w == f.head {
			q.warm = append(q.warm, f)
		} else if f.isUsed(w) {
			q.ring[q.next&uint(len(q.ring)-1)] = f
			q.next++
			break
		}
	}
}

// carve plans the taking of e.arg units from the pool. The first units are the
// supervisor's alone, so that Statuses never meet ENOMEM (R5.6); it may use the
// others too.
func (p *planner) carve(e entry) (o outcome, err error) {
	b, need := p.b, int(e.arg)
	if need < 1 || need > b.units {
		return o, corrupt("carve of %d units", need)
	}
	if e.from == 0 {
		f, err := b.fit(need, need, 1, 1+b.reserve)
		if err != nil {
			return o, err
		}
		if f.found {
			p.cut(f.first, need, f.total, e.from)
			return outcome{handle: f.first}, nil
		}
	}
	hint, least := carveClass(need)
	old := b.w[hint].Load()
	from := int(old & 0xfffffff)
	if from <= b.reserve || from > b.units {
		from = 1 + b.reserve
	}
	f, err := b.fit(need, least, from, b.units)
	switch {
	case err != nil:
		return o, err
	case f.found:
		p.cut(f.first, need, f.total, e.from)
		if f.next != from {
			p.set(hint, old, p.seq<<28|uint64(f.next))
		}
		return outcome{handle: f.first}, nil
	}
	swept, err := p.sweep()
	if err != nil || swept {
		return outcome{code: codeAgain}, err
	}
	return outcome{code: uint8(unix.ENOMEM)}, nil
}

// carveClass is the word that tells where to begin a search for so many units:
// before that no run of the pool's has as many as the least of the class. The
// pool grows by sweeps only, which reset these words; so each names the
// beginning of a block until then.
func carveClass(need int) (hint, least int) {
	c := min(bits.Len(uint(need))/3, carveClasses-1)
	return wCarve + c, max(1, 1<<(3*c)/2)
}

// A fit is what a search for room in the pool has found: a run, and where the
// next search of the class begins.
type fit struct {
	found              bool
	first, total, next int
}

// fit searches from a block's beginning to another for the first run of the pool's
// with so many units. least is the least of the class.
func (b *Bus) fit(need, least, from, end int) (f fit, err error) {
	for h := from; h < end; {
		head, span, err := b.link(h)
		if err != nil {
			return f, err
		}
		if headPooled(head) {
			if f.total == 0 {
				f.first = h
			}
			if f.total += span; f.total >= need {
				f.found = true
				if f.next == 0 {
					f.next = f.first + need
				}
				return f, nil
			}
		} else {
			if f.total >= least && f.next == 0 {
				f.next = f.first
			}
			f.total = 0
		}
		h += span
	}
	return f, nil
}

// link reads a block of the chain: its head, and where the next one is.
func (b *Bus) link(h int) (head uint64, span int, err error) {
	at := b.block(h)
	span = int(b.w[at+mSpan].Load() & 0xfffffff)
	if span < 1 || span > b.units-h {
		return 0, 0, corrupt("block %d of %d spans %d units", h, b.units, span)
	}
	return b.w[at+mHead].Load(), span, nil
}

// cut plans that units [h, h+need) of the pool are one block of slot owner, and
// the rest up to h+total one of the pool again. The generation of a block that is
// made anew is the entry's number: no block was reused as often as there were
// entries, so it is higher than any that its head has had.
func (p *planner) cut(h, need, total, owner int) {
	if rest := total - need; rest > 0 {
		p.recut(h+need, rest, headWord(p.seq, 0, headPool))
	}
	p.recut(h, need, headWord(p.seq, owner, headSender))
}

func (p *planner) recut(h, units int, head uint64) {
	at := p.b.block(h)
	sp := p.b.w[at+mSpan].Load()
	p.set(at+mSpan, sp, p.seq<<28|uint64(units))
	p.set(at+mHead, p.b.w[at+mHead].Load(), head)
}

// sweep plans that free blocks belong to the pool, and tells whether there are
// any. One that somebody takes meanwhile stays his: then the step fails.
func (p *planner) sweep() (any bool, err error) {
	b := p.b
	for c := range carveClasses {
		if w := b.w[wCarve+c].Load(); w&0xfffffff != 0 {
			p.set(wCarve+c, w, p.seq<<28)
		}
	}
	for h := 1; h < b.units; {
		head, span, err := b.link(h)
		if err != nil {
			return any, err
		}
		if headFree(head) {
			if len(p.steps)+3 >= b.areaCap {
				break // the rest next time
			}
			p.set(b.block(h)+mHead, head, headWord(headGen(head), 0, headPool))
			any = true
		}
		h += span
	}
	return any, nil
}

// alloc takes a block for the sending side of p, with word held naming it.  ENOMEM at once if there is none.
func (p *party) alloc(c *cache, units, held int) (h int, head uint64, err error) {
	if h, head, ok := c.take(p.b, units, p.slot, held); ok {
		return h, head, nil
	}
	if units >= p.b.units {
		return 0, 0, unix.ENOMEM
	}
	for sweeps := 0; ; {
		o, err := p.append(entry{kind: kindCarve, arg: uint64(units), from: p.slot}, false, nil)
		switch {
		case err != nil:
			return 0, 0, err
		case o.code == codeAgain:
			// Others may free small blocks faster than they can be swept.
			if sweeps++; sweeps > maxSweeps {
				return 0, 0, unix.ENOMEM
			}
			continue
		case o.code != codeOK:
			return 0, 0, unix.Errno(o.code)
		case o.handle <= 0 || o.handle+units > p.b.units:
			return 0, 0, corrupt("carved block %d", o.handle)
		}
		p.b.w[held].Put(uint64(o.handle))
		return o.handle, p.b.w[p.b.block(o.handle)+mHead].Load(), nil
	}
}
