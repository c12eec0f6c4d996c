package ring

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Settings of a switch (R3.9).
const (
	Off     = 0
	On      = 1
	AskOnly = 0xffffffff
)

const defaultMaxMessages = 100 // R3.2

// ErrNoID says that the bus has had as many Ksocks as there are ids (R3.1).
var ErrNoID = fmt.Errorf("ring: no ids are left for Ksocks; make a new bus: %w", unix.EOVERFLOW)

// ErrNoSlot says that as many Ksocks are open as the bus was made for.
var ErrNoSlot = fmt.Errorf("ring: no slot for another Ksock: %w", unix.EUSERS)

// ErrNoCell says that there are as many bindings as the bus was made for.
var ErrNoCell = fmt.Errorf("ring: no room for another binding: %w", unix.ENOSPC)

// An Admin is the supervisor's end of a bus: the only writer of its tables. There
// must be one at a time in the whole system, used by one goroutine at a time.
// Every call may be cut off by the supervisor's death at any step; the next
// Admin finishes what was begun, or undoes it.
type Admin struct {
	b     *Bus
	p     party
	cache *cache
	held  heldList
	cells []int                   // below cellsUsed, and free
	last  uint64                  // cur at the last Tick
	todo  map[int]func(int) error // slots whose Close or Reap met an error
}

// Admin takes over the supervisor's end, and repairs what a predecessor left
// half done. Everything that the predecessor's own process was doing must have
// ended.
func (b *Bus) Admin() (*Admin, error) {
	a := &Admin{b: b, cache: newCache(), todo: map[int]func(int) error{}}
	a.p.init(b, 0, 0)
	held := b.slot(0) + b.layout.held
	a.held.init(held+1, heldWords-1)
	if _, err := a.p.idle(); err != nil {
		return nil, err
	}
	if err := a.reclaim(0); err != nil {
		return nil, err
	}
	// What was prepared and did not come to pass.
	v := b.w[wVer].Load()
	for i := range b.cellsUsed() {
		c := b.layout.cell(i)
		if b.w[c+bBorn].Load() > v {
			b.w[c+bBorn].Store(0)
		}
		if died := b.w[c+bDied].Load(); died != never && died > v {
			b.w[c+bDied].Store(never)
		}
		if b.w[c+bBorn].Load() == 0 || b.w[c+bDied].Load() <= v {
			a.cells = append(a.cells, i)
		}
	}
	if err := a.orphans(0); err != nil {
		return nil, err
	}
	for s := 1; s <= b.slotsUsed(); s++ {
		var err error
		switch b.w[b.slot(s)+sKid].Load() >> 32 {
		case kidClosing:
			err = a.Close(s)
		case kidOpen:
			err = a.settle(s)
		}
		if err != nil {
			return nil, err
		}
	}
	for s := 1; s <= b.slotsUsed(); s++ {
		b.wake(s)
	}
	return a, nil
}

// An edit is a word of the region that a control entry changes.
type edit struct {
	at       int
	old, new uint64
}

func (a *Admin) edit(at int, new uint64) edit { return edit{at, a.b.w[at].Load(), new} }

// version is the edits that make the tables those of the next version, with the
// journal's word for what changes.
func (a *Admin) version(kind, index int) []edit {
	v := a.b.w[wVer].Load() + 1
	return []edit{
		a.edit(a.b.journal+int(v%journalWords), journalWord(v&(1<<40-1), kind, index)),
		a.edit(wVer, v),
	}
}

// A change is what one control entry does.
type change struct {
	edits       []edit
	event, lost *draft
	remove      uint64
	to          int
	messages    []*draft
}

func (a *Admin) apply(c change) error {
	n := cHead + len(c.messages) + 3*len(c.edits)
	d, err := a.draft(Header{}, 8*n)
	if err != nil {
		return err
	}
	defer a.drop(d)
	// fill and address are for messages; this block nobody reads but planners.
	d.kind, d.version = kindControl, a.b.w[wVer].Load()
	if err := d.room(&a.p, unitsFor(d.data, 0, 0)); err != nil {
		return err
	}
	at := a.b.block(d.h)
	a.b.w[at+mFlags].Put(kindControl << 28)
	a.b.w[at+mNet].Put(uint64(d.data))
	a.b.w[at+mFrom].Put(0)
	w := a.b.wordsAt(d.h, 0, n)
	for i := range cHead {
		w[i].Put(0)
	}
	for _, x := range [...]struct {
		i int
		d *draft
	}{{cEvent, c.event}, {cLost, c.lost}} {
		if x.d != nil {
			if err := x.d.prepare(&a.p); err != nil {
				return err
			}
			w[x.i].Put(uint64(x.d.h))
			x.d.tried = true
		}
	}
	w[cRemove].Put(c.remove)
	w[cTo].Put(uint64(c.to))
	w[cCount].Put(uint64(len(c.messages)))
	w[cEdits].Put(uint64(len(c.edits)))
	w = w[cHead:]
	for i, m := range c.messages {
		if err := m.prepare(&a.p); err != nil {
			return err
		}
		m.tried = true
		w[i].Put(uint64(m.h))
	}
	w = w[len(c.messages):]
	for i, e := range c.edits {
		w[3*i].Put(uint64(e.at))
		w[3*i+1].Put(e.old)
		w[3*i+2].Put(e.new)
	}
	for {
		o, err := a.p.append(entry{kind: kindControl, handle: d.h}, false, nil)
		d.tried = true
		switch {
		case err != nil:
			return err
		case o.code == codeFlush:
			slot := c.remove >> 16 & 0xfff
			if _, err := a.p.append(entry{kind: kindFlush, arg: slot}, true, nil); err != nil {
				return err
			}
			continue
		case o.code != codeOK:
			return unix.Errno(o.code)
		}
		return nil
	}
}

// draft begins a message of the bus itself; its block is taken when it is
// addressed.
func (a *Admin) draft(h Header, data int) (*draft, error) {
	held, err := a.held.get()
	if err != nil {
		return nil, err
	}
	return &draft{kind: kindEvent, hdr: h, data: data, held: held, cache: a.cache}, nil
}

func (a *Admin) drop(d *draft) {
	if d == nil {
		return
	}
	if d.h != 0 {
		d.drop(&a.p)
	}
	a.held.put(d.held)
}

// Open opens a Ksock and tells its slot and id (R3.1). pid and start, the
// process's start time, only stand in the slot for others to read. ErrNoSlot if
// all slots are in use.
func (a *Admin) Open(pid int, start uint64, mode Mode) (slot int, id uint32, err error) {
	b := a.b
	if b.w[wNextID].Load() > 1<<32-1 {
		return 0, 0, ErrNoID
	}
	for s := 1; s <= b.cfg.MaxKsocks; s++ {
		at := b.slot(s)
		kid := b.w[at+sKid].Load()
		if kid>>32 != kidFree {
			continue
		}
		if s > b.slotsUsed() {
			b.w[wSlots].Store(uint64(s))
		}
		id := uint32(b.w[wNextID].Load())
		b.w[at+sPid].Put(uint64(pid))
		b.w[at+sStart].Put(start)
		b.w[at+sMode].Put(uint64(mode))
		for _, i := range [...]int{sSent, sBytesSent, sReceived, sBytesRead, sLast} {
			b.w[at+i].Put(0)
		}
		b.w[at+sUp].Put(upOffered<<32 | uint64(id))
		b.w[at+sMissedBase].Put(b.w[at+sMissed].Load())
		once := b.w[at+sOnce].Load()
		return s, id, a.apply(change{edits: append([]edit{
			a.edit(at+sLimit, restamp(b.w[at+sLimit].Load(), defaultMaxMessages)),
			a.edit(at+sOnce, (once>>1+1)<<1),
			a.edit(wNextID, uint64(id)+1),
			{at + sKid, kid, uint64(kidOpen)<<32 | uint64(id)},
		}, a.version(changeSlot, s)...)})
	}
	return 0, 0, ErrNoSlot
}

// Withdraw tells whether no Client has been made for the Ksock since it was
// opened; if so none will be, and the caller reaps it. It is for a supervisor that takes
// over: its predecessor may have died before it told anybody of the Ksock.
func (a *Admin) Withdraw(slot int) bool {
	s := a.b.slot(slot)
	id := uint64(uint32(a.b.w[s+sKid].Load()))
	up := &a.b.w[s+sUp]
	return up.CompareAndSwap(upOffered<<32|id, upGone<<32|id) || up.Load() == upGone<<32|id
}

// kid is the id of the Ksock open in a slot.
func (a *Admin) kid(slot int) (uint32, error) {
	if slot < 1 || slot > a.b.cfg.MaxKsocks {
		return 0, fmt.Errorf("ring: slot %d: %w", slot, unix.EINVAL)
	}
	k := a.b.w[a.b.slot(slot)+sKid].Load()
	if k>>32 != kidOpen {
		return 0, fmt.Errorf("ring: no Ksock is open in slot %d: %w", slot, unix.ENOTCONN)
	}
	return uint32(k), nil
}

// bindings is the tables' bindings that match f, newest first.
func (a *Admin) bindings(f func(binding) bool) ([]binding, error) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if err := a.b.update(); err != nil {
		return nil, err
	}
	var l []binding
	for _, x := range a.b.tables.cells {
		if f(x) {
			l = append(l, x)
		}
	}
	slices.SortFunc(l, func(x, y binding) int { return cmp.Compare(y.born, x.born) })
	return l, nil
}

// Bind binds a Ksock to a name as Listener or Replier (R4.1, R4.2, R7.3, R7.5).
func (a *Admin) Bind(slot int, name string, replier bool) error {
	kid, err := a.kid(slot)
	if err != nil {
		return err
	}
	if err := CheckBinding(name); err != nil {
		return err
	}
	if replier {
		if name == ReplierBindEvent {
			return unix.EBADMSG
		}
		if r, err := a.b.Replier(name); err != nil || r != 0 {
			return cmp.Or[error](err, unix.EADDRINUSE)
		}
	}
	b, v := a.b, a.b.w[wVer].Load()
	cell := b.cellsUsed()
	switch n := len(a.cells); {
	case n > 0:
		cell, a.cells = a.cells[n-1], a.cells[:n-1]
	case cell < b.cfg.MaxBindings:
		b.w[wCells].Store(uint64(cell) + 1)
	default:
		return ErrNoCell
	}
	c := b.layout.cell(cell)
	info := uint64(slot)<<16 | uint64(len(name))
	if replier {
		info |= 1 << 12
	}
	b.w[c+bBorn].Store(0)
	b.w[c+bInfo].Put(info)
	b.w[c+bKid].Put(uint64(kid))
	var pad [(MaxName + 7) / 8 * 8]byte
	copy(pad[:], name)
	for i := range (len(name) + 7) / 8 {
		b.w[c+bName+i].Put(binary.LittleEndian.Uint64(pad[8*i:]))
	}
	b.w[c+bDied].Put(never)
	b.w[c+bBorn].Store(v + 1)
	err = a.withEvent(change{edits: a.version(changeCell, cell)}, replier, true, false, kid, name)
	if err != nil {
		b.w[c+bBorn].Store(0)
		a.cells = append(a.cells, cell)
	}
	return err
}

// withEvent applies a change with its ReplierBindEvent, if Repliers are reported.
// sure is that of a closing Ksock: it can't fail (R7.4).
func (a *Admin) withEvent(c change, replier, bind, sure bool, kid uint32, name string) error {
	if replier && a.b.Reports() {
		e, err := a.eventFor(bind, kid, name)
		if err != nil {
			return err
		}
		defer a.drop(e)
		c.event = e
		if sure {
			l, err := a.draft(Header{Flags: Synthetic, Name: ReplierBindEvent}, 0)
			if err != nil {
				return err
			}
			defer a.drop(l)
			// Addressed like the event, by the same bindings; then it gets its own name.
			if err := l.address(&a.p); err != nil {
				return err
			}
			l.opts |= optLost
			l.rename(&a.p, UnbindEventsLost)
			c.lost = l
		}
	}
	return a.apply(c)
}

// eventFor makes a ReplierBindEvent (R7.1).
func (a *Admin) eventFor(bind bool, kid uint32, name string) (*draft, error) {
	e, err := a.draft(Header{Flags: Synthetic | AllOrFail, Name: ReplierBindEvent}, 12+4*((len(name)+4)/4))
	if err != nil {
		return nil, err
	}
	if err := e.address(&a.p); err != nil {
		a.drop(e)
		return nil, err
	}
	p := a.b.bytesAt(e.h, 0, e.data)
	clear(p)
	if bind {
		p[0] = 1
	}
	binary.NativeEndian.PutUint32(p[4:], kid)
	binary.NativeEndian.PutUint32(p[8:], uint32(len(name)))
	copy(p[12:], name)
	return e, nil
}

// Unbind undoes the newest binding like that (R4.4), and removes from the queue
// what came by it (R4.5). EINVAL if there is none; EAGAIN if its event has no
// room (R7.3).
func (a *Admin) Unbind(slot int, name string, replier bool) error {
	kid, err := a.kid(slot)
	if err != nil {
		return err
	}
	if err := CheckBinding(name); err != nil {
		return err
	}
	l, err := a.bindings(func(x binding) bool {
		return x.slot == slot && x.kid == kid && x.replier == replier && x.name == name
	})
	if err != nil {
		return err
	}
	if len(l) == 0 {
		return unix.EINVAL
	}
	if err := a.unbind(l[0], false); err != nil {
		return err
	}
	here := shm.Here()
	if replier {
		if err := a.orphans(slot); err != nil {
			return err
		}
		here.Forget(a.state())
	}
	a.b.wakeSenders() // R6.6
	return a.settle(slot)
}

// settle moves kept events into a queue in which the supervisor has made room,
// and wakes its reader (R7.4).
func (a *Admin) settle(slot int) error {
	if q, err := a.p.plan.queue(slot); err != nil || q.flush == 0 {
		return err
	}
	_, err := a.p.append(entry{kind: kindFlush, arg: uint64(slot)}, true, nil)
	return err
}

func (a *Admin) unbind(x binding, closing bool) error {
	b := a.b
	died := b.layout.cell(x.cell) + bDied
	b.w[died].Store(b.w[wVer].Load() + 1)
	c := change{edits: a.version(changeCell, x.cell)}
	if !closing {
		c.remove = 1<<32 | uint64(x.slot)<<16 | uint64(x.cell)
	}
	err := a.withEvent(c, x.replier, false, closing, x.kid, x.name)
	if err != nil && b.w[died].Load() > b.w[wVer].Load() {
		b.w[died].Store(never)
	}
	if err == nil {
		a.cells = append(a.cells, x.cell)
	}
	return err
}

// SetMaxMessages sets the limit of a Ksock's queue and tells it; 0 asks (R3.2).
func (a *Admin) SetMaxMessages(slot int, n uint32) (uint32, error) {
	if _, err := a.kid(slot); err != nil {
		return 0, err
	}
	at := a.b.slot(slot) + sLimit
	if n != 0 {
		if err := a.apply(change{edits: []edit{a.edit(at, restamp(a.b.w[at].Load(), n))}}); err != nil {
			return 0, err
		}
		a.b.wakeSenders()
		if err := a.settle(slot); err != nil {
			return 0, err
		}
	}
	return uint32(a.b.w[at].Load()), nil
}

// SetMessageSize sets the bus's size limit and tells it; 0 asks for it, 1 for
// the largest possible, what is out of range is EINVAL (R2.6).
func (a *Admin) SetMessageSize(n uint32) (uint32, error) {
	switch {
	case n == 0:
		return a.b.MessageSize(), nil
	case n == 1:
		return a.b.cfg.MaxMessageSize, nil
	case n < MinSize || n > a.b.cfg.MaxMessageSize:
		return 0, unix.EINVAL
	}
	err := a.apply(change{edits: []edit{a.edit(wMsgSize, restamp(a.b.w[wMsgSize].Load(), n))}})
	return n, err
}

// toggle is a switch's word with a new setting.
func toggle(old uint64, v uint32) uint64 { return (old>>1+1)<<1 | uint64(v) }

// SetOnlyOnce switches *only once* (R4.6); v is Off, On or AskOnly. It tells the
// setting before.
func (a *Admin) SetOnlyOnce(slot int, v uint32) (was bool, err error) {
	if _, err := a.kid(slot); err != nil {
		return false, err
	}
	at := a.b.slot(slot) + sOnce
	old := a.b.w[at].Load()
	switch v {
	case Off, On:
		err = a.apply(change{edits: append([]edit{{at, old, toggle(old, v)}}, a.version(changeSlot, slot)...)})
	case AskOnly:
	default:
		err = unix.EINVAL
	}
	return old&1 != 0, err
}

// SetReports switches the reporting of Replier bindings (R7.1) on behalf of a
// Ksock, which is told of all Repliers when it switches on (R7.2). It tells the
// setting before.
func (a *Admin) SetReports(slot int, v uint32) (was bool, err error) {
	if _, err := a.kid(slot); err != nil {
		return false, err
	}
	old := a.b.w[wReports].Load()
	was = old&1 != 0
	c := change{edits: []edit{{wReports, old, toggle(old, v&1)}}, to: slot}
	switch v {
	case AskOnly:
		return was, nil
	case Off:
		return was, a.apply(c)
	case On:
	default:
		return was, unix.EINVAL
	}
	l, err := a.bindings(func(x binding) bool { return x.replier && a.b.tables.kids[x.slot] == x.kid })
	if err != nil {
		return was, err
	}
	if len(l) > a.b.cfg.QueueSlots || len(l) > heldWords/2 {
		return was, unix.EBUSY
	}
	defer func() {
		for _, m := range c.messages {
			a.drop(m)
		}
	}()
	for _, x := range l {
		m, err := a.eventFor(true, x.kid, x.name)
		if err != nil {
			return was, err
		}
		c.messages = append(c.messages, m)
		m.direct(&a.p, slot)
	}
	return was, a.apply(c)
}

// status makes one Status (R5.6, R5.7) for the Request of a ledger word.
func (a *Admin) status(slot, idx int, ver uint64, from uint32, name string) error {
	b := a.b
	s, here := b.slot(slot), shm.Here()
	l := b.w[s+b.rec+idx*recWords].Load()
	if ledState(l) == ledFree || ledVer(l) != ver {
		here.Forget()
		return nil
	}
	network := uint32(b.w[s+b.rec+idx*recWords+recNetwork].Load())
	d, err := a.draft(Header{
		InReplyTo: MessageID{network, uint32(l)}, To: uint32(b.w[s+sKid].Load()), From: from,
		Flags: Synthetic, Name: name,
	}, 0)
	if err != nil {
		return err
	}
	defer a.drop(d)
	d.kind, d.led = kindStatus, ledRef(slot, idx, ver)
	_, err = a.p.append(entry{kind: kindStatus}, true, d)
	here.Forget(d.state())
	return err
}

// Tick helps an entry that its sender has left alone since the last Tick, and
// tries again what failed for want of memory. Call it every few milliseconds. It
// tells whether the bus has been used since.
func (a *Admin) Tick() (busy bool, err error) {
	cur := a.b.w[wCur].Load()
	busy = cur != a.last
	if !busy && curPhase(cur) != curIdle {
		_, err = a.p.idle()
	}
	a.last = cur
	for s, again := range a.todo {
		err = errors.Join(err, again(s))
	}
	return busy, err
}
