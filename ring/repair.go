package ring

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Close ends a Ksock, in the order of R4.8, after its process has closed it or is
// dead: it is the same, and it may be repeated after it was cut off at any step.
// What the process still holds in place stays as it is (I7), and the slot taken,
// until Reap. If it fails, for want of memory, Tick goes on with it.
func (a *Admin) Close(slot int) error {
	if slot < 1 || slot > a.b.cfg.MaxKsocks {
		return fmt.Errorf("ring: slot %d: %w", slot, unix.EINVAL)
	}
	if a.todo[slot] == nil {
		a.todo[slot] = a.Close
	}
	if err := a.close(slot); err != nil {
		return err
	}
	delete(a.todo, slot)
	return nil
}

// Reap closes a Ksock, if that is not done, and takes back all that its process
// held in place: the process is dead, or has let go of the region's memory. Then
// the slot may be given to another.
func (a *Admin) Reap(slot int) error {
	if err := a.Close(slot); err != nil {
		a.todo[slot] = a.Reap
		return err
	}
	b, s := a.b, a.b.slot(slot)
	kid := b.w[s+sKid].Load()
	if kid>>32 != kidEnded {
		return nil
	}
	here := shm.Here()
	if err := a.reclaim(slot); err != nil {
		return err
	}
	here.Forget(a.state())
	b.w[s+sBytesOut].Store(b.w[s+sBytesIn].Load())
	b.waiter(slot, false)
	b.w[s+sSleeping].Store(0)
	if err := a.apply(change{edits: []edit{{s + sKid, kid, uint64(uint32(kid))}}}); err != nil {
		a.todo[slot] = a.Reap
		return err
	}
	b.wakeSenders()
	return nil
}

func (a *Admin) close(slot int) error {
	b, s, here := a.b, a.b.slot(slot), shm.Here()
	// The entry that it may have in progress is over once the log is idle, and
	// then it claims no more (T10).
	if _, err := a.p.idle(); err != nil {
		return err
	}
	for k := 1; k <= b.slotsUsed(); k++ {
		b.wake(k) // a waker may have died before it did
	}
	kid := b.w[s+sKid].Load()
	if st := kid >> 32; st == kidFree || st == kidEnded {
		return nil
	}
	id := uint32(kid)
	forget := func(step int) { here.Forget(uint64(step), uint64(id), a.state()) }
	forget(0)
	if kid>>32 == kidOpen {
		// From now on no plan puts anything in its queue.
		err := a.apply(change{edits: append([]edit{{s + sKid, kid, uint64(kidClosing)<<32 | uint64(id)}},
			a.version(changeSlot, slot)...)})
		if err != nil {
			return err
		}
	}
	forget(1)
	if err := a.orphans(slot); err != nil {
		return err
	}
	forget(2)
	if err := a.unread(slot, id); err != nil {
		return err
	}
	forget(3)
	l, err := a.bindings(func(x binding) bool { return x.slot == slot && x.kid == id })
	if err != nil {
		return err
	}
	for _, x := range l {
		if err := a.unbind(x, true); err != nil {
			return err
		}
	}
	forget(4)
	if err := a.ignored(slot, id); err != nil {
		return err
	}
	forget(5)
	if byTheClock {
		shm.Yield() // those who have a Status now may wait for this CPU, and the rest is nobody's hurry
	}
	// As asker it is gone now, and nobody reads its ledger any more.
	owing := b.w[s+sOwing].Load()
	for i, left := 0, owing&0xffff; i <= b.lmask && left > 0; i++ {
		at := s + b.rec + i*recWords
		if w := b.w[at].Load(); ledState(w) != ledFree {
			b.w[at].CompareAndSwap(w, ledWord(ledFree, ledVer(w)+1, 0))
			left--
		}
	}
	b.w[s+sOwing].CompareAndSwap(owing, (owing>>16+1)<<16)
	if err := a.empty(slot); err != nil {
		return err
	}
	forget(6)
	if err := a.apply(change{edits: []edit{{s + sKid, uint64(kidClosing)<<32 | uint64(id), uint64(kidEnded)<<32 | uint64(id)}}}); err != nil {
		return err
	}
	b.wakeSenders() // R6.6
	return nil
}

// queued calls f for the copies in a Ksock's queue, first to last.
func (a *Admin) queued(slot int, f func(word uint64) error) error {
	b, s := a.b, a.b.slot(slot)
	r := readWord(b.w[s+sRead].Load())
	for k := r.ud(); k > 0; k-- {
		if err := f(b.w[s+b.urg+int((k-1)&b.qmask)].Load()); err != nil {
			return err
		}
	}
	n := (b.w[s+sTail].Load() - r.head()) & (laneMod - 1)
	for k := range n {
		if err := f(b.w[s+b.lane+int((r.head()+k)&b.qmask)].Load()); err != nil {
			return err
		}
	}
	return nil
}

// unread answers the Requests in a closing Replier's queue (GoneAway), in queue
// order.
func (a *Admin) unread(slot int, id uint32) error {
	b := a.b
	return a.queued(slot, func(w uint64) error {
		m, err := b.view(laneHandle(w))
		if err != nil || laneIdx(w) >= m.copies {
			return nil
		}
		c, err := m.copy(laneIdx(w))
		if err != nil || copyRole(c) != roleReplier {
			return nil
		}
		asker, idx, ver := ledRefSplit(m.led)
		if asker < 1 || asker > b.cfg.MaxKsocks || idx > b.lmask {
			return nil
		}
		// If a predecessor got as far as emptying the queue, the block may be anything
		// by now, a Request to somebody else perhaps.
		rep := b.w[b.slot(asker)+b.rec+idx*recWords+recReplier].Load()
		if rep != uint64(slot)<<32|uint64(id) {
			return nil
		}
		return a.status(asker, idx, ver, id, GoneAway)
	})
}

// A debt is a Request on its asker's ledger.
type debt struct {
	slot, idx int
	ver       uint64
	replier   uint32
	order     uint64
}

// debts lists what is in a state on all ledgers and owed by the Ksock in a slot
// (0: by any), with the order that record word holds.
func (a *Admin) debts(state uint64, replier, order int) (l []debt) {
	b := a.b
	for s := 1; s <= b.slotsUsed(); s++ {
		if b.w[b.slot(s)+sOwing].Load()&0xffff == 0 {
			continue
		}
		// All that were ever used: its owner may be asking more meanwhile, so it is no
		// use to count up to sOwing.
		for i := range b.asked(b.slot(s)) {
			w := b.w[b.slot(s)+b.rec+i*recWords].Load()
			if ledState(w) == ledFree {
				continue
			}
			rec := b.slot(s) + b.rec + i*recWords
			rep := b.w[rec+recReplier].Load()
			if ledState(w) == state && (replier == 0 || int(rep>>32) == replier) {
				l = append(l, debt{s, i, ledVer(w), uint32(rep), b.w[rec+order].Load()})
			}
		}
	}
	return l
}

// orphans answers Requests that were removed by an unbind of a slot's Ksock
// (0: of any) before they were read (Unbound), in queue order.
func (a *Admin) orphans(slot int) error {
	l := a.debts(ledOrphan, slot, recOrder)
	slices.SortFunc(l, func(x, y debt) int { return cmp.Compare(x.order, y.order) })
	for _, d := range l {
		if err := a.status(d.slot, d.idx, d.ver, d.replier, Unbound); err != nil {
			return err
		}
	}
	return nil
}

// ignored answers the Requests that a closing Replier has read, last read first.
// One without a number was read last: its reader died before it wrote one.
func (a *Admin) ignored(slot int, id uint32) error {
	l := a.debts(ledOpen, slot, recRead)
	slices.SortFunc(l, func(x, y debt) int { return cmp.Compare(uint32(y.order)-1, uint32(x.order)-1) })
	for _, d := range l {
		if d.replier != id {
			continue
		}
		if err := a.status(d.slot, d.idx, d.ver, id, Ignored); err != nil {
			return err
		}
	}
	return nil
}

// empty releases what is in a closed Ksock's queue.
func (a *Admin) empty(slot int) error {
	b, s := a.b, a.b.slot(slot)
	drop := func(w uint64) error {
		m, err := b.view(laneHandle(w))
		if err != nil {
			return nil // a predecessor has released it, and it is something else now
		}
		return a.releaseFor(&m, slot)
	}
	if err := a.queued(slot, drop); err != nil {
		return err
	}
	head, tail := b.w[s+sKeptHead].Load(), b.w[s+sKeptTail].Load()
	for k := head; k != tail && tail-head <= b.kmask; k++ {
		if err := drop(b.w[s+b.layout.kept+int(k&b.kmask)].Load()); err != nil {
			return err
		}
	}
	b.w[s+sKeptHead].CompareAndSwap(head, tail)
	r := b.w[s+sRead].Load()
	b.w[s+sRead].CompareAndSwap(r, uint64(makeRead(readWord(r).es(), false, 0, b.w[s+sTail].Load())))
	return nil
}

// releaseFor clears all bits of a slot's Ksock in a block. It may be another block
// by now, even in the making: then its list makes no sense, and no bit is set.
func (a *Admin) releaseFor(m *view, slot int) error {
	for i := range m.copies {
		if c, err := m.copy(i); err == nil && copySlot(c) == slot {
			if err := a.b.release(m.h, headGen(m.head), i); err != nil {
				return err
			}
		}
	}
	return nil
}

// reclaim frees what a dead process still owned or held in place: its slot names
// it. Naming too much does no harm.
func (a *Admin) reclaim(slot int) error {
	b, s := a.b, a.b.slot(slot)
	free := func(h int) error {
		if h <= 0 || h >= b.units {
			return nil
		}
		head := b.w[b.block(h)+mHead].Load()
		if headOwner(head) == slot && head&headSender != 0 {
			b.clearHead(b.block(h), headGen(head), headSender)
		}
		// The list of copies stands from when the bits are armed until the block is
		// free. Of a block that was lent, or is in the making again, it is rubbish.
		m, err := b.view(h)
		if slot == 0 || m.head&headArmed == 0 || m.head&headMask == 0 {
			return nil
		}
		if err == nil {
			err = a.releaseFor(&m, slot)
		}
		if b.w[b.block(h)+mHead].Load()>>30 != m.head>>30 {
			return nil // it was let go of meanwhile
		}
		return err
	}
	here := shm.Here()
	for i := range heldWords {
		here.Forget(uint64(i))
		w := &b.w[s+b.layout.held+i]
		if h := w.Load(); h != 0 {
			if err := free(int(min(h, 1<<30))); err != nil {
				return err
			}
			w.Put(0)
		}
	}
	if cmd := b.w[s+sCmd].Load(); cmd>>60 == kindCarve {
		if err := free(laneHandle(b.w[s+sOut].Load())); err != nil {
			return err
		}
	}
	return nil
}
