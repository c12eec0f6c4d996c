package ring

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A binding as this process knows it.
type binding struct {
	cell, slot int
	kid        uint32
	replier    bool
	born       uint64
	name       string
}

// tables is this process's copy of the binding tables of one version. It follows
// the journal of changes, or reads all cells anew if it fell too far behind.
type tables struct {
	version uint64
	cells   map[int]binding
	byName  map[string][]binding // in no order
	kids    []uint32             // by slot; 0: not open
	once    []bool
	routes  map[string]*route
	widths  [][]int32 // by kind of name: how many names have so many bindings
	most    int       // bindings that one name can match
}

// mostRoutes is how many routes are kept: one for each name of a bus that has as
// many bindings as there can be by default.
const mostRoutes = 16384

// A route is whom the messages of one name go to.
type route struct {
	version   uint64
	listeners []uint64 // copies, each Ksock's together, newest binding first
	replier   binding  // slot 0: none
	request   []uint64 // the same with the Replier's copy first
}

func (t *tables) init(b *Bus) {
	t.kids, t.once = make([]uint32, b.cfg.MaxKsocks+1), make([]bool, b.cfg.MaxKsocks+1)
	t.reset()
}

func (t *tables) reset() {
	t.version, t.cells, t.byName, t.routes = 0, map[int]binding{}, map[string][]binding{}, map[string]*route{}
	t.widths, t.most = nil, 0
}

// widen notes that a name has now so many bindings. A message's name matches at
// most one name of each kind (exact, `%`, and `*` by its depth), so that the sum
// of the widest of each bounds the copies of any message, and is mostly small
// however many bindings there are.
func (t *tables) widen(name string, was, is int) {
	kind := 0
	switch name[len(name)-1] {
	case '%':
		kind = 1
	case '*':
		kind = 2 + strings.Count(name, ".")
	}
	for len(t.widths) <= kind {
		t.widths = append(t.widths, make([]int32, 1))
	}
	w := t.widths[kind] // one longer than its widest; w[0] stands for no name
	t.most -= len(w) - 1
	for len(w) <= is {
		w = append(w, 0)
	}
	w[was]--
	w[is]++
	for len(w) > 1 && w[len(w)-1] == 0 {
		w = w[:len(w)-1]
	}
	t.widths[kind] = w
	t.most += len(w) - 1
}

// Kinds of changes in the journal: version[40] kind[4]@20 index[20].
const (
	changeCell = 1
	changeSlot = 2
)

func journalWord(version uint64, kind, index int) uint64 {
	return version<<24 | uint64(kind)<<20 | uint64(index)
}

// update brings the tables to the version in the region.
func (b *Bus) update() error {
	t := &b.tables
	for {
		v := b.w[wVer].Load() // SYNC E4 acquire: the cells of that version
		if v == t.version {
			return nil
		}
		clear(t.routes)
		if t.version == 0 || v < t.version || v-t.version > journalWords/2 {
			t.reset()
			for i := range b.cellsUsed() {
				b.readCell(i, v)
			}
			for s := 1; s <= b.slotsUsed(); s++ {
				b.readSlot(s)
			}
		} else {
			for u := t.version + 1; u <= v; u++ {
				j := b.w[b.journal+int(u%journalWords)].Load()
				if j>>24 != u&(1<<40-1) {
					t.version = 0 // overtaken: read everything
					break
				}
				switch i := int(j & 0xfffff); j >> 20 & 15 {
				case changeCell:
					if i >= b.cfg.MaxBindings {
						return corrupt("journal names binding %d", i)
					}
					b.readCell(i, v)
				case changeSlot:
					if i < 1 || i > b.cfg.MaxKsocks {
						return corrupt("journal names slot %d", i)
					}
					b.readSlot(i)
				default:
					return corrupt("journal word %#x", j)
				}
			}
			if t.version == 0 {
				continue
			}
		}
		t.version = v // the next round looks at what has changed meanwhile
	}
}

func (b *Bus) readSlot(s int) {
	k := b.w[b.slot(s)+sKid].Load()
	b.tables.kids[s] = 0
	if k>>32 == kidOpen {
		b.tables.kids[s] = uint32(k)
	}
	b.tables.once[s] = b.w[b.slot(s)+sOnce].Load()&1 != 0
}

// readCell takes over one binding's cell as of version v. A cell in the making
// is not of that version: its born word is the first to change and the last.
func (b *Bus) readCell(i int, v uint64) {
	t := &b.tables
	if old, ok := t.cells[i]; ok {
		delete(t.cells, i)
		l := slices.DeleteFunc(t.byName[old.name], func(x binding) bool { return x.cell == i })
		if len(l) == 0 {
			delete(t.byName, old.name)
		} else {
			t.byName[old.name] = l
		}
		t.widen(old.name, len(l)+1, len(l))
	}
	x, ok := b.cellOf(i, v)
	if !ok {
		return
	}
	t.cells[i] = x
	l := append(t.byName[x.name], x)
	t.byName[x.name] = l
	t.widen(x.name, len(l)-1, len(l))
}

func (b *Bus) cellOf(i int, v uint64) (x binding, ok bool) {
	c := b.layout.cell(i)
	born := b.w[c+bBorn].Load()
	died := b.w[c+bDied].Load()
	if born == 0 || born > v || died <= v {
		return x, false
	}
	info := b.w[c+bInfo].Load()
	x = binding{cell: i, slot: int(info >> 16 & 0xfff), replier: info>>12&1 != 0, kid: uint32(b.w[c+bKid].Load()), born: born}
	n := int(info & 0x3ff)
	if x.slot < 1 || x.slot > b.cfg.MaxKsocks || n < 3 || n > MaxName {
		return x, false
	}
	var name [(MaxName + 7) / 8 * 8]byte
	for k := range (n + 7) / 8 {
		w := b.w[c+bName+k].Load()
		for j := range 8 {
			name[8*k+j] = byte(w >> (8 * j))
		}
	}
	x.name = string(name[:n])
	return x, b.w[c+bBorn].Load() == born && CheckBinding(x.name) == nil
}

// route finds whom a name's messages go to, by the tables as they are now.
func (b *Bus) route(name string) (*route, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.update(); err != nil {
		return nil, err
	}
	t := &b.tables
	if r := t.routes[name]; r != nil {
		return r, nil
	}
	if len(t.routes) >= mostRoutes {
		clear(t.routes)
	}
	r := t.resolve(name)
	t.routes[strings.Clone(name)] = r
	return r, nil
}

// mostCopies bounds the copies of any message by the tables of a version:
// its Listeners', and one more for a Replier or an asker.
func (b *Bus) mostCopies() (copies int, version uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err = b.update()
	return min(b.tables.most+1, maxCopies), b.tables.version, err
}

// matching calls yield with the bindings of each name that matches: the exact
// name, `%`, then `*`, the longer string first (R4.3).
func (t *tables) matching(name string, yield func([]binding)) {
	yield(t.byName[name])
	dot := strings.LastIndexByte(name, '.')
	yield(t.byName[name[:dot+1]+"%"])
	for ; dot > 0; dot = strings.LastIndexByte(name[:dot], '.') {
		yield(t.byName[name[:dot+1]+"*"])
	}
}

func (t *tables) resolve(name string) *route {
	r := &route{version: t.version}
	var all []binding
	t.matching(name, func(l []binding) {
		for _, x := range l {
			switch {
			case t.kids[x.slot] != x.kid:
			case !x.replier:
				all = append(all, x)
			case r.replier.slot == 0:
				r.replier = x
			}
		}
	})
	// Each Ksock's copies together, newest first (R4.6, R4.7).
	slices.SortFunc(all, func(a, b binding) int {
		if a.slot != b.slot {
			return a.slot - b.slot
		}
		return int(int64(b.born - a.born))
	})
	for i, x := range all {
		if t.once[x.slot] && i > 0 && all[i-1].slot == x.slot {
			continue
		}
		r.listeners = append(r.listeners, copyWord(x.slot, roleListener, x.cell))
	}
	if x := r.replier; x.slot != 0 {
		r.request = first(r.listeners, copyWord(x.slot, roleReplier, x.cell), t.once[x.slot], nil)
	}
	return r
}

// first puts copy c, which its Ksock gets before its Listener's copies, in front.
func (b *Bus) first(listeners []uint64, c uint64, to []uint64) []uint64 {
	if len(listeners) == 0 {
		return append(to, c)
	}
	b.mu.Lock()
	once := b.tables.once[copySlot(c)]
	b.mu.Unlock()
	return first(listeners, c, once, to)
}

// first is Bus.first for a Ksock that gets a message only once, or not (R4.6).
func first(listeners []uint64, c uint64, once bool, to []uint64) []uint64 {
	slot := copySlot(c)
	to = append(to, c)
	if !once {
		for _, l := range listeners {
			if copySlot(l) == slot {
				to = append(to, l)
			}
		}
	}
	for _, l := range listeners {
		if copySlot(l) != slot {
			to = append(to, l)
		}
	}
	return to
}

// findKid finds the slot of an open Ksock, 0 if there is none.
func (b *Bus) findKid(id uint32) int {
	for s := 1; s <= b.slotsUsed(); s++ {
		if b.w[b.slot(s)+sKid].Load() == uint64(kidOpen)<<32|uint64(id) {
			return s
		}
	}
	return 0
}

// Replier is the id of the Ksock bound as Replier to exactly this name,
// wildcards taken literally; 0 if none (R3.7). ENAMETOOLONG if the name is empty
// or too long (R1.4).
func (b *Bus) Replier(name string) (uint32, error) {
	if name == "" || len(name) > MaxName {
		return 0, unix.ENAMETOOLONG
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.update(); err != nil {
		return 0, err
	}
	for _, x := range b.tables.byName[name] {
		if x.replier && b.tables.kids[x.slot] == x.kid {
			return x.kid, nil
		}
	}
	return 0, nil
}
