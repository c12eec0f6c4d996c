package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/shm"
	"kbus.internal/shm/handoff"
)

// takeOver takes over the buses of a predecessor: those in its state file, and
// those whose regions systemd has kept. A region comes back, in this order, from
// systemd's descriptor store, from the descriptors of a process that holds it
// (which may be stopped), or, if such a process lives but can't be looked at,
// later from its own hand (reattach). Only when nobody is left who holds it is
// a region gone, and the bus begins anew.
func (s *Supervisor) takeOver(stored map[int]*os.File) error {
	old, err := s.state.load()
	if err != nil {
		return err
	}
	known := map[int]bool{}
	for _, st := range old {
		known[st.Bus] = true
		b := &bus{s: s, number: st.Bus, secret: st.Secret, newSecret: st.New, id: st.Region, ksocks: map[int]*ksock{}, waits: map[*process]struct{}{}}
		if err := s.recover(b, st, stored[st.Bus]); err != nil {
			return fmt.Errorf("take over bus %d: %w", st.Bus, err)
		}
	}
	for n, f := range stored {
		if known[n] {
			continue
		}
		// The state file is lost. Who the Ksocks are is told by the region; their
		// tokens mean nothing any more, so they are known by their processes alone.
		s.log.Warn("bus comes from systemd without a state file", "bus", n)
		id, err := idOf(f)
		if err != nil {
			return err
		}
		st := &busState{Bus: n, Region: id, Secret: newSecret(), New: true}
		b := &bus{s: s, number: n, secret: st.Secret, newSecret: true, id: id, ksocks: map[int]*ksock{}}
		if err := s.state.add(st); err != nil {
			return err
		}
		if err := b.takeBack(f); err != nil {
			return fmt.Errorf("take over bus %d: %w", n, err)
		}
		s.publish(b)
	}
	return nil
}

// recover finds the region of one bus of the state file.
func (s *Supervisor) recover(b *bus, st *busState, stored *os.File) error {
	if stored != nil {
		id, err := idOf(stored)
		done := false
		if err == nil && id == b.id {
			done, err = s.regained(b, stored)
		}
		if done || err != nil {
			return err
		}
	}
	for _, h := range st.Holders {
		p, _, err := openHolder(h) // whether it holds the region shows
		if errors.Is(err, handoff.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := borrow(p, b.id)
		switch {
		case err == nil:
			done := false
			if b.broken == nil {
				done, err = s.regained(b, f)
			}
			f.Close()
			if done || err != nil {
				p.Close()
				return err
			}
			b.waits[s.meet(p)] = struct{}{}
		case errors.Is(err, errNotHeld), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
			p.Close() // it has closed its Ksocks, or it has just ended
		case errors.Is(err, fs.ErrPermission):
			b.waits[s.meet(p)] = struct{}{}
		default:
			p.Close()
			return err
		}
	}
	if len(b.waits) > 0 {
		s.log.Warn("bus waits for a Ksock to give it back", "bus", b.number, "processes", len(b.waits))
		s.publish(b)
		// One of them may have ended before the bus was in the table.
		for p := range b.waits {
			if ended, err := p.p.Ended(); err == nil && ended {
				b.holderDied(p)
			}
		}
		return nil
	}
	s.log.Info("nobody holds the bus any more: it begins anew", "bus", b.number)
	return s.create(b.number, s.o.Bus)
}

// regained makes the region of f the bus's and puts the bus in the table; if
// the region is no good, the bus is broken until nobody holds it any more. An
// error is the system's, and says nothing about the region.
func (s *Supervisor) regained(b *bus, f *os.File) (bool, error) {
	err := b.takeBack(f)
	var errno unix.Errno
	switch {
	case err == nil:
		s.publish(b)
		return true, nil
	case errors.As(err, &errno) && !errors.Is(err, shm.ErrForeign) && !errors.Is(err, ring.ErrCorrupt):
		return false, err
	}
	b.broken = err
	s.log.Error("bus is not taken over", "bus", b.number, "err", err)
	return false, nil
}

// takeBack regains the region of a bus that is not in the table yet. All the same
// it needs the lock: processes of Ksocks that were adopted may end meanwhile,
// and then their goroutines close them.
func (b *bus) takeBack(f *os.File) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.regain(f)
}

// regain makes the region of f the bus's, and its Ksocks orphans until they
// come back; those whose processes have ended are closed (R4.8). The caller
// has b.mu, and has checked that f is the region meant.
func (b *bus) regain(f *os.File) error {
	mem, err := shm.Map(f)
	if err != nil {
		return err
	}
	if err := b.attach(mem); err != nil {
		mem.Close()
		return err
	}
	rows, err := b.ring.Bindings()
	if err != nil {
		b.mem, b.ring, b.admin = nil, nil, nil
		return errors.Join(err, mem.Close())
	}
	for p := range b.waits {
		delete(b.waits, p)
		b.s.leave(p)
	}
	bindings := map[uint32]int{}
	for i := range rows {
		bindings[rows[i].ID]++
	}
	for _, i := range b.ring.Slots() {
		b.adopt(i, bindings[i.ID])
	}
	b.s.state.prune(b.number)
	return nil
}

// adopt takes over one Ksock of the region.
func (b *bus) adopt(st ring.SlotInfo, bindings int) {
	h := holder{st.Pid, st.Start}
	if b.admin.Withdraw(st.Slot) {
		b.adoptDead(st, "the supervisor ended while it was opened")
		return
	}
	k := &ksock{bus: b, slot: st.Slot, id: st.ID, bindings: bindings, uid: uint32(os.Geteuid()), closed: !st.Open}
	p, sure, err := openHolder(h)
	switch {
	case h.PID == 0: // not seen from here: it is watched from when it comes back
	case errors.Is(err, handoff.ErrGone):
		b.adoptDead(st, "its process ended")
		return
	case err != nil || !sure: // no descriptor left, most likely
		if p != nil {
			p.Close()
		}
		b.s.log.Warn("Ksock is not watched until it comes back", "bus", b.number, "ksock", st.ID, "pid", st.Pid, "err", err)
	default:
		k.proc = b.s.meet(p)
		if err := b.s.state.hold(b.number, h); err != nil {
			b.s.log.Warn("the next supervisor will not know the Ksock", "bus", b.number, "ksock", st.ID, "err", err)
		}
		if uid, err := owner(h.PID); err == nil {
			k.uid = uid
		}
	}
	b.ksocks[k.slot] = k
	b.s.use(k.uid, func(u *usage) error {
		u.ksocks++
		u.bindings += bindings
		return nil
	})
	if k.proc != nil {
		alive := b.s.own(k.proc, k)
		b.s.leave(k.proc) // meet's reference; own has taken its own
		if !alive {
			b.s.work.Go(func() { b.end(k, "its process ended") })
		}
	}
}

// adoptDead ends a Ksock of the region that nobody is behind.
func (b *bus) adoptDead(st ring.SlotInfo, why string) {
	b.s.log.Info("Ksock has ended", "bus", b.number, "ksock", st.ID, "pid", st.Pid, "why", why)
	if err := b.admin.Reap(st.Slot); err != nil {
		b.s.log.Error("Ksock is not ended well", "bus", b.number, "ksock", st.ID, "err", err)
		b.unfinished = true
	}
}

// holderDied: of those who hold the region of a bus that waits for it there is
// one less, since its process ended or says that it holds none. After the last one
// there is no region any more.
func (b *bus) holderDied(p *process) {
	b.mu.Lock()
	_, waited := b.waits[p]
	delete(b.waits, p)
	last := waited && len(b.waits) == 0 && b.mem == nil
	b.mu.Unlock()
	if !waited {
		return
	}
	b.s.leave(p)
	if !last {
		return
	}
	b.s.creating.Lock()
	defer b.s.creating.Unlock()
	if b.s.ctx.Err() != nil {
		return
	}
	b.s.log.Info("nobody holds the bus any more: it begins anew", "bus", b.number)
	if err := b.s.create(b.number, b.s.o.Bus); err != nil {
		b.s.log.Error("bus is gone", "bus", b.number, "err", err)
	}
}
