//go:build kbuscheck

package check

import (
	"slices"
)

// A future is an access behind a state, with some of what is certain to happen
// before it: 24 bits access, 8 bits processes of which a step does, behind the
// state, 32 bits hubs of which a read or write does.
type future uint64

func makeFuture(access int32, behind uint8, hubs uint32) future {
	return future(access)<<40 | future(behind)<<32 | future(hubs)
}

func (f future) access() int32 { return int32(f >> 40) }
func (f future) behind() uint8 { return uint8(f >> 32) }
func (f future) hubs() uint32  { return uint32(f) }

// A step is what one step accesses.
type step struct {
	p            int
	accesses     []int32
	hubs, writes uint32 // hubs that it reads or writes, and that it changes
}

// futures numbers accesses, steps, and sets of futures. Set 0 is the empty one.
type futures struct {
	all      uint8 // processes that exist
	accesses []access
	number   map[access]int32
	steps    []step
	stepOf   map[uint64][]int32
	sets     [][]future // sorted
	setOf    map[uint64][]int32
	hubs     []int32 // variables
	hubOf    map[int32]int
	memo     [2][]memo // of union, of before
	scratch  []future
}

type memo struct{ a, b, result int32 }

const maxMemo = 1 << 18 // entries: older ones give way

// maxHubs is how many variables are hubs: of those that several processes
// access, and write, the most frequent.
const maxHubs = 32

func (s *futures) init() {
	s.number = map[access]int32{}
	s.steps = []step{{}}
	s.stepOf = map[uint64][]int32{}
	s.sets = [][]future{nil}
	s.setOf = map[uint64][]int32{}
	s.hubOf = map[int32]int{}
}

// step returns the number of a step by p.
func (s *futures) step(p int, l []access) int32 {
	h := mix(uint64(p), 1)
	for _, a := range l {
		h = mix(h+uint64(a.a)<<8+uint64(a.kind), a.x)
		h = mix(h, a.y)
	}
next:
	for _, i := range s.stepOf[h] {
		o := &s.steps[i]
		if o.p != p || len(o.accesses) != len(l) {
			continue
		}
		for k, a := range l {
			if s.accesses[o.accesses[k]] != a {
				continue next
			}
		}
		return i
	}
	st := step{p: p}
	for _, a := range l {
		st.accesses = append(st.accesses, s.numberOf(a))
		if h, ok := s.hubOf[a.a]; ok {
			if a.kind == reads || a.kind == writes || a.kind == advances {
				st.hubs |= 1 << h
			}
			if a.kind >= writes && a.x != a.y {
				st.writes |= 1 << h
			}
		}
	}
	i := int32(len(s.steps))
	s.steps = append(s.steps, st)
	s.stepOf[h] = append(s.stepOf[h], i)
	return i
}

func (s *futures) numberOf(a access) int32 {
	n, ok := s.number[a]
	if !ok {
		n = int32(len(s.accesses))
		s.number[a] = n
		s.accesses = append(s.accesses, a)
	}
	return n
}

// look returns the place in memo k for a and b.
func (s *futures) look(k int, a, b int32) *memo {
	if n := len(s.memo[k]); n < 2*len(s.sets) && n < maxMemo {
		s.memo[k] = make([]memo, max(64, 8*n))
	}
	return &s.memo[k][mix(uint64(a), uint64(b))%uint64(len(s.memo[k]))]
}

// before returns the futures of a state behind which step i leads to one with the
// futures of set j.
func (s *futures) before(i, j int32) int32 {
	m := s.look(1, i, j)
	if m.a == i && m.b == j && m.result != 0 {
		return m.result
	}
	st := &s.steps[i]
	own := uint8(1) << st.p
	out := s.scratch[:0]
	for _, f := range s.sets[j] {
		n := f.access()
		a := &s.accesses[n]
		behind, hubs := f.behind(), f.hubs()
		switch {
		case int(a.p) == st.p:
			hubs |= st.hubs
		case behind&own != 0, hubs&st.writes != 0, s.conflict(st, a):
			behind, hubs = behind|own, hubs|st.hubs
			if behind|1<<a.p == s.all {
				continue // all that is before the state happens before it
			}
		case a.kind == idles && s.takes(st, a):
			// It could be the one that takes it.
			n = s.numberOf(access{a.a, a.p, advances, a.x, a.y})
		}
		out = append(out, makeFuture(n, behind, hubs))
	}
	for _, a := range st.accesses {
		out = append(out, makeFuture(a, 0, 0))
	}
	slices.Sort(out)
	r := s.intern(prune(out))
	s.scratch = out[:0]
	*m = memo{i, j, r}
	return r
}

// takes tells whether a step of another process is the Advance that has made f
// come too late.
func (s *futures) takes(st *step, f *access) bool {
	for _, i := range st.accesses {
		if a := &s.accesses[i]; a.a == f.a && a.same(f) {
			return true
		}
	}
	return false
}

func (s *futures) conflict(st *step, f *access) bool {
	for _, i := range st.accesses {
		if a := &s.accesses[i]; a.a == f.a && a.conflict(f) {
			return true
		}
	}
	return false
}

// prune drops the futures that others make superfluous: the same access, with
// less before it.
func prune(l []future) []future {
	out := l[:0]
	for i := 0; i < len(l); {
		k := i + 1
		for k < len(l) && l[k].access() == l[i].access() {
			k++
		}
		first := len(out)
	next:
		for _, f := range l[i:k] {
			rest := uint64(f) & (1<<40 - 1)
			for _, g := range out[first:] {
				if uint64(g)&(1<<40-1)&^rest == 0 {
					continue next
				}
			}
			kept := out[:first]
			for _, g := range out[first:] {
				if rest&^uint64(g) != 0 {
					kept = append(kept, g)
				}
			}
			out = append(kept, f)
		}
		if len(out)-first > 8 { // what all have before them
			rest := uint64(1<<40 - 1)
			for _, g := range out[first:] {
				rest &= uint64(g)
			}
			out = append(out[:first], out[first]&^(1<<40-1)|future(rest))
		}
		slices.Sort(out[first:])
		i = k
	}
	return out
}

func (s *futures) union(i, j int32) int32 {
	if i == j || j == 0 {
		return i
	}
	if i == 0 {
		return j
	}
	if i > j {
		i, j = j, i
	}
	m := s.look(0, i, j)
	if m.a == i && m.b == j {
		return m.result
	}
	a, b := s.sets[i], s.sets[j]
	out := s.scratch[:0]
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			out, a = append(out, a[0]), a[1:]
		case a[0] > b[0]:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	out = append(append(out, a...), b...)
	r := s.intern(prune(out))
	s.scratch = out[:0]
	*m = memo{i, j, r}
	return r
}

func (s *futures) intern(l []future) int32 {
	if len(l) == 0 {
		return 0
	}
	var h uint64
	for _, f := range l {
		h = mix(h+1, uint64(f))
	}
	for _, i := range s.setOf[h] {
		if slices.Equal(s.sets[i], l) {
			return i
		}
	}
	i := int32(len(s.sets))
	s.sets = append(s.sets, slices.Clone(l))
	s.setOf[h] = append(s.setOf[h], i)
	return i
}
