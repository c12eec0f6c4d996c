//go:build kbuscheck

package check

import (
	"fmt"
	"math/bits"
	"slices"
)

// A node is a state on the explorer's present path.
type node struct {
	key     hash
	enabled choices // that are possible here
	todo    choices // to be explored, done ones included
	done    choices
	taken   choice // the last of done

	step    int32   // what the step taken accessed
	after   int32   // what steps explored behind this state accessed
	paths   float64 // interleavings explored from here on
	last    int8    // process of the step before
	preempt int8    // preemptions so far

	clocks [MaxProcesses]clock
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
	futures futures
	present []access // of the present step
	hit     known    // of the state at which the present execution was cut
	hits    uint64

	// Of the present execution, kept from one to the next as far as they agree.
	events [][]event // by variable
	order  []int32   // the variables of all events
	clocks []clock   // by position: of the step that ends there
}

// An event is an access at a position.
type event struct {
	access
	pos int32
}

func newExplorer(cfg *Config) *explorer {
	x := &explorer{cfg: cfg, seen: map[hash]known{}}
	x.futures.init()
	return x
}

// scouted returns an explorer that has not begun, but knows from the first
// execution of x which variables matter most.
func (x *explorer) scouted() *explorer {
	y := newExplorer(x.cfg)
	var l []int32
	for a, events := range x.events {
		by, write := 0, false
		for _, v := range events {
			by |= 1 << v.p
			write = write || v.kind >= writes
		}
		if write && bits.OnesCount(uint(by)) > 1 && a >= varWords {
			l = append(l, int32(a))
		}
	}
	slices.SortStableFunc(l, func(a, b int32) int { return len(x.events[b]) - len(x.events[a]) })
	for _, a := range l[:min(len(l), maxHubs)] {
		y.futures.hubOf[a] = len(y.futures.hubs)
		y.futures.hubs = append(y.futures.hubs, a)
	}
	return y
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
		h = h.add(p.local.fold(p.known.a).fold(p.known.b).fold(uint64(p.id)<<8 | uint64(p.status)))
	}
	return h
}

func (x *explorer) reduce() bool { return !x.cfg.Full && x.cfg.Mode == Exhaustive }

func (x *explorer) pick(e *engine) choice {
	if e.pos > 0 && int(e.pos) >= x.replay && x.reduce() {
		n := &x.stack[e.pos-1]
		n.step = x.futures.step(n.taken.process(), x.present)
		x.present = x.present[:0]
	}
	if int(e.pos) < x.replay {
		if int(e.pos) == x.replay-1 {
			x.rewind(e)
		}
		c := x.stack[e.pos].taken
		if s := e.procs[c.process()].status; s >= ended || s == asleep && c.kind() == run {
			e.fail(fmt.Errorf("the same steps lead elsewhere: the test is not deterministic (%s)", e.statuses()))
			return cut
		}
		return c
	}
	n := node{key: e.key(), enabled: e.enabled(), last: -1}
	for i, p := range e.procs {
		n.clocks[i] = p.clock
	}
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
		n.after = x.futures.union(n.after, x.futures.before(n.step, k.after))
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

// rewind makes what is known of the present execution what it was when it came to
// the state from which it goes another way now.
func (x *explorer) rewind(e *engine) {
	n := &x.stack[e.pos]
	for i, p := range e.procs {
		p.clock = n.clocks[i]
	}
	for k := len(x.order) - 1; k >= 0; k-- {
		l := &x.events[x.order[k]]
		if (*l)[len(*l)-1].pos <= e.pos {
			break
		}
		*l = (*l)[:len(*l)-1]
		x.order = x.order[:k]
	}
}

func (x *explorer) access(e *engine, p *process, a access) {
	if int(e.pos) < x.replay || !x.reduce() {
		return
	}
	x.futures.all = 1<<len(e.procs) - 1
	x.present = append(x.present, a)
	last, ordered := x.last(&a, &p.clock)
	x.races(&last, p, &p.base, &p.clock)
	for _, pos := range ordered {
		if pos > 0 {
			p.clock.join(&x.clocks[pos])
		}
	}
	for len(x.events) <= int(a.a) {
		x.events = append(x.events, nil)
	}
	x.events[a.a] = append(x.events[a.a], event{a, e.pos})
	x.order = append(x.order, a.a)
	for len(x.clocks) <= int(e.pos) {
		x.clocks = append(x.clocks, clock{})
	}
	x.clocks[e.pos] = p.clock
}

// last returns, for each other process, the position of its last access that
// conflicts with a (0: none), and of its last that is ordered before a by it.
// known is what happens before a.
//
// An Advance that another process has taken ahead of it conflicts with nothing
// then; but it could be the one that takes it, so it also conflicts with what is
// before the other's.
func (x *explorer) last(a *access, known *clock) (last, ordered clock) {
	if int(a.a) >= len(x.events) {
		return last, ordered
	}
	l, taken := x.events[a.a], *a
	for i := len(l) - 1; i >= 0; i-- {
		f := &l[i]
		switch {
		case f.p == a.p:
		case f.same(&taken) && f.pos > known[f.p]:
			taken.kind = advances
		case last[f.p] == 0 && f.conflict(&taken):
			last[f.p] = f.pos
			fallthrough
		default:
			if ordered[f.p] == 0 && f.conflict(a) {
				ordered[f.p] = f.pos
			}
		}
	}
	return last, ordered
}

// races adds, for an access by p behind the present path, p's step at each
// earlier one that conflicts (last) and is not ordered before it by others: what
// happens before it is in known, base what happens before its step.
func (x *explorer) races(last *clock, p *process, base, known *clock) {
next:
	for q, pos := range last {
		if pos <= known[q] {
			continue
		}
		for r, other := range last {
			if r != q && other > pos && x.clocks[other][q] >= pos {
				continue next
			}
		}
		x.reverse(pos, p, base)
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
func (x *explorer) waiting(e *engine) (f int32) {
	if !x.reduce() {
		return 0
	}
	for _, p := range e.procs {
		if p.status == paused {
			var l []access
			for _, r := range p.reads {
				l = append(l, access{e.variable(r.word, false), int8(p.id), reads, 0, 0})
			}
			f = x.futures.union(f, x.futures.before(x.futures.step(p.id, l), 0))
		}
	}
	return f
}

// meet does what races does for all accesses behind a state that was explored
// before.
func (x *explorer) meet(e *engine) {
	if !x.reduce() {
		return
	}
	for _, f := range x.futures.sets[x.hit.after] {
		a := &x.futures.accesses[f.access()]
		p := e.procs[a.p]
		last, _ := x.last(a, &p.clock)
		for q, pos := range last {
			if pos <= p.clock[q] {
				continue
			}
			known := p.clock
			for r := f.behind(); r != 0; r &= r - 1 {
				known.join(&e.procs[bits.TrailingZeros8(r)].clock)
			}
			for h := f.hubs(); h != 0; h &= h - 1 {
				x.joinWrites(&known, x.futures.hubs[bits.TrailingZeros32(h)])
			}
			if a.kind == idles {
				last, _ = x.last(a, &known)
			}
			x.races(&last, p, &known, &known)
			break
		}
	}
}

// joinWrites adds to c what happens before a future read of a variable.
func (x *explorer) joinWrites(c *clock, a int32) {
	if int(a) >= len(x.events) {
		return
	}
	l := x.events[a]
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].kind >= writes && l[i].x != l[i].y {
			c.join(&x.clocks[l[i].pos])
			return
		}
	}
}
