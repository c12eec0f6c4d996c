//go:build kbuscheck

package check

import (
	"fmt"
	"math/bits"
)

// A node is a state on the explorer's present path.
type node struct {
	key     hash
	enabled choices // that are possible here
	todo    choices // to be explored, done ones included
	done    choices
	taken   choice // the last of done

	step    int32   // set: what the step taken accessed
	after   int32   // set: what steps explored behind this state accessed
	paths   float64 // interleavings explored from here on
	last    int8    // process of the step before
	preempt int8    // preemptions so far
}

type known struct {
	after int32
	paths float64
}

// explorer is the exhaustive policy: depth first, executing again from the start
// for each path. See the package comment for why what it leaves out is known.
type explorer struct {
	cfg     *Config
	stack   []node
	replay  int // steps that the present execution repeats
	seen    map[hash]known
	sets    sets
	present bitset // accesses of the present step
	hit     known  // of the state at which the present execution was cut
	hits    uint64
}

func newExplorer(cfg *Config) *explorer {
	x := &explorer{cfg: cfg, seen: map[hash]known{}}
	x.sets.init()
	return x
}

func (e *engine) key() hash {
	h := e.memory
	cur := e.cur
	e.cur = nil // live looks at words
	for i := range e.regions {
		for k, g := range e.regions[i].groups {
			if g.live() {
				h = h.add(g.memory.fold(uint64(k)))
			}
		}
	}
	e.cur = cur
	for _, p := range e.procs {
		h = h.add(p.local.fold(uint64(p.id)<<8 | uint64(p.status)))
	}
	return h
}

func (x *explorer) reduce() bool { return !x.cfg.Full && x.cfg.Mode == Exhaustive }

func (x *explorer) pick(e *engine) choice {
	if n := len(x.present); n > 0 {
		if int(e.pos) >= x.replay {
			x.stack[e.pos-1].step = x.sets.intern(x.present)
		}
		x.present = x.present[:0]
	} else if int(e.pos) >= x.replay && e.pos > 0 {
		x.stack[e.pos-1].step = 0
	}
	if int(e.pos) < x.replay {
		c := x.stack[e.pos].taken
		if s := e.procs[c.process()].status; s >= ended || s == asleep && c.kind() == run {
			e.fail(fmt.Errorf("the same steps lead elsewhere: the test is not deterministic (%s)", e.statuses()))
			return cut
		}
		return c
	}
	n := node{key: e.key(), enabled: e.enabled(), last: -1}
	if e.pos > 0 {
		t := &x.stack[e.pos-1]
		n.last, n.preempt = int8(t.taken.process()), t.preempt
		if t.last >= 0 && t.enabled.has(of(run, int(t.last))) && n.last != t.last {
			n.preempt++
		}
	}
	if x.cfg.Mode == Bounded {
		n.key = n.key.fold(uint64(n.preempt)<<8 | uint64(uint8(n.last)))
	}
	if k, ok := x.seen[n.key]; ok {
		x.hits++
		x.hit = k
		x.meet(e)
		return cut
	}
	// One that has just fallen asleep may end there: it makes no step of its
	// own at which that would be tried, perhaps for ever.
	if n.last >= 0 && e.enabled()&of(run, int(n.last)).bit() == 0 {
		n.todo = e.ends(int(n.last))
	}
	if n.enabled == 0 {
		x.hit = known{x.waiting(e), 1}
		x.meet(e)
		if n.todo == 0 {
			x.seen[n.key] = x.hit
		} else {
			n.enabled = n.todo
			x.stack = append(x.stack, n)
		}
		return none
	}
	for i := range e.procs {
		n.enabled |= e.ends(i)
	}
	// Going on with the same process costs no switch.
	first := n.enabled.first()
	if n.last >= 0 && n.enabled.has(of(run, int(n.last))) {
		first = of(run, int(n.last))
	}
	switch {
	case x.reduce():
		n.add(first.process())
	case x.cfg.Mode == Bounded && int(n.preempt) >= x.cfg.Preemptions && n.last >= 0 && n.enabled.has(of(run, int(n.last))):
		n.add(int(n.last))
	default:
		n.todo = n.enabled
	}
	n.taken = first
	n.done = first.bit()
	x.stack = append(x.stack, n)
	return first
}

// add has all steps of process p explored from n.
func (n *node) add(p int) {
	n.todo |= n.enabled & (of(run, p).bit() | of(stop, p).bit() | of(die, p).bit())
}

// next turns to the next path after an execution; false if there is none.
func (x *explorer) next(e *engine) bool {
	k := x.hit
	for len(x.stack) > 0 {
		n := &x.stack[len(x.stack)-1]
		n.after = x.sets.union(n.after, x.sets.union(n.step, k.after))
		n.paths += k.paths
		if left := n.todo &^ n.done; left != 0 {
			n.taken = left.first()
			n.done |= n.taken.bit()
			x.replay = len(x.stack)
			return true
		}
		k = known{n.after, n.paths}
		x.seen[n.key] = k
		x.stack = x.stack[:len(x.stack)-1]
	}
	x.hit = k
	return false
}

// An access in a bitset: variable, process, and whether it is a write.
func code(a int32, p int, write bool) int {
	c := (int(a)*MaxProcesses + p) * 2
	if write {
		c++
	}
	return c
}

func (x *explorer) access(e *engine, p *process, a int32, write bool) {
	if x.reduce() {
		if int(e.pos) >= x.replay {
			x.present = x.present.with(code(a, p.id, write))
			x.races(e, p, &p.base, a, write)
		}
		e.order(p, a, write)
	}
}

// races adds, for an access by p behind the present path, p's step at each
// earlier one that conflicts and is not ordered before it by others.
func (x *explorer) races(e *engine, p *process, base *clock, a int32, write bool) {
	v := e.at(a)
	if a == varHistory {
		if !write {
			v = e.at(varReturns)
		}
		for q, pos := range v.readPos {
			if q != p.id && pos > p.clock[q] {
				x.reverse(pos, p, base)
			}
		}
		return
	}
	read := false
	if write {
		for q, pos := range v.readPos {
			if pos > v.writePos {
				read = true
				if q != p.id && pos > p.clock[q] {
					x.reverse(pos, p, base)
				}
			}
		}
	}
	if !read && v.writePos > 0 && int(v.writer) != p.id && v.writePos > p.clock[v.writer] {
		x.reverse(v.writePos, p, base)
	}
}

// reverse has p, or one that p's step needs, explored ahead of the step at pos.
func (x *explorer) reverse(pos int32, p *process, base *clock) {
	n := &x.stack[pos-1]
	can := n.enabled.has(of(run, p.id))
	if !can {
		// One who spins may be able to go on, unable, and able again. The step
		// at pos is not the one to be ahead of, then, but one before it.
		for i := pos - 1; i > base[p.id]; i-- {
			if m := &x.stack[i-1]; m.enabled.has(of(run, p.id)) {
				m.add(p.id)
				break
			}
		}
	} else if n.todo.has(of(run, p.id)) {
		return
	}
	for q := range base {
		if base[q] > pos && n.todo.has(of(run, q)) {
			return
		}
	}
	if can {
		n.add(p.id)
	} else {
		n.todo = n.enabled
	}
}

// waiting returns what those who spin would read if they went on: a word may have
// changed and changed back meanwhile.
func (x *explorer) waiting(e *engine) int32 {
	var b bitset
	for _, p := range e.procs {
		if p.status == paused {
			for _, r := range p.reads {
				b = b.with(code(e.variable(r.word, false), p.id, false))
			}
		}
	}
	return x.sets.intern(b)
}

// meet does the same for all accesses behind a state that was explored before.
func (x *explorer) meet(e *engine) {
	if !x.reduce() {
		return
	}
	for i, w := range x.sets.of(x.hit.after) {
		for ; w != 0; w &= w - 1 {
			c := i*64 + bits.TrailingZeros64(w)
			p := e.procs[c/2%MaxProcesses]
			x.races(e, p, &p.clock, int32(c/2/MaxProcesses), c&1 == 1)
		}
	}
}

// A bitset is a set of small numbers, without zero words at its end.
type bitset []uint64

func (b bitset) with(i int) bitset {
	for len(b) <= i/64 {
		b = append(b, 0)
	}
	b[i/64] |= 1 << (i % 64)
	return b
}

// sets numbers the bitsets that occur; 0 is the empty one.
type sets struct {
	all    []bitset
	byHash map[uint64][]int32
	unions map[[2]int32]int32
}

func (s *sets) init() {
	s.all = []bitset{nil}
	s.byHash = map[uint64][]int32{}
	s.unions = map[[2]int32]int32{}
}

func (s *sets) of(i int32) bitset { return s.all[i] }

func (s *sets) intern(b bitset) int32 {
	if len(b) == 0 {
		return 0
	}
	var h uint64
	for _, w := range b {
		h = mix(h+1, w)
	}
next:
	for _, i := range s.byHash[h] {
		o := s.all[i]
		if len(o) != len(b) {
			continue
		}
		for k := range b {
			if o[k] != b[k] {
				continue next
			}
		}
		return i
	}
	i := int32(len(s.all))
	s.all = append(s.all, append(bitset(nil), b...))
	s.byHash[h] = append(s.byHash[h], i)
	return i
}

func (s *sets) union(i, j int32) int32 {
	if i == j || j == 0 {
		return i
	}
	if i == 0 {
		return j
	}
	if i > j {
		i, j = j, i
	}
	if u, ok := s.unions[[2]int32{i, j}]; ok {
		return u
	}
	a, b := s.all[i], s.all[j]
	if len(a) < len(b) {
		a, b = b, a
	}
	c := append(bitset(nil), a...)
	for k, w := range b {
		c[k] |= w
	}
	u := s.intern(c)
	s.unions[[2]int32{i, j}] = u
	return u
}
