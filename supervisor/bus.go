package supervisor

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm"
)

const secretSize = 32

// bus is one bus. Its lock is what makes the supervisor the only writer; it may
// be held when Supervisor.mu or state.mu is taken, not the other way round.
type bus struct {
	s      *Supervisor
	number int
	secret []byte
	// newSecret: the secret was lost with the state file, so a token may be one of
	// the old secret's, and the process alone shows whose a Ksock is.
	newSecret bool
	id        regionID

	mu         sync.Mutex
	mem        *shm.Memory // nil: the region is still to come (recover.go)
	ring       *ring.Bus
	admin      *ring.Admin
	ksocks     map[int]*ksock        // by slot
	waits      map[*process]struct{} // who may give it back
	broken     error                 // why the region of the bus is no good
	complained bool                  // the last tick met an error
	unfinished bool                  // ring could not do all, and goes on with it when it ticks
}

// ksock is one Ksock, from its opening until its slot is free again. All fields
// that change are guarded by bus.mu.
type ksock struct {
	bus  *bus
	slot int
	id   uint32
	uid  uint32

	proc     *process // nil: not seen (another pid namespace) until it reattaches
	attached bool     // it has a connection to this supervisor
	bindings int
	closed   bool // R4.8 is done; its process may hold messages in place
	ended    bool // its slot is free
}

func newSecret() []byte {
	b := make([]byte, secretSize)
	rand.Read(b) // never fails
	return b
}

// create makes a bus with a new region.
func (s *Supervisor) create(n int, c ring.Config) error {
	size, err := c.RegionSize()
	if err != nil {
		return err
	}
	mem, err := shm.Create(fmt.Sprintf("kbus-%d", n), size)
	if err != nil {
		return err
	}
	b := &bus{s: s, number: n, secret: newSecret(), ksocks: map[int]*ksock{}}
	if err := ring.Format(mem, c); err != nil {
		mem.Close()
		return err
	}
	if err := b.attach(mem); err != nil {
		mem.Close()
		return err
	}
	if s.systemd != nil {
		s.systemd.forget(n) // the region that had the number, if there was one
	}
	if err := s.state.add(&busState{Bus: n, Region: b.id, Secret: b.secret}); err != nil {
		b.release()
		return err
	}
	s.publish(b)
	return nil
}

// publish puts b in the table.
func (s *Supervisor) publish(b *bus) {
	if s.systemd != nil && b.mem != nil {
		if err := s.systemd.store(b.number, b.mem.File()); err != nil {
			s.log.Warn("systemd does not keep the region", "bus", b.number, "err", err)
		}
	}
	s.mu.Lock()
	s.buses[b.number] = b
	s.mu.Unlock()
	s.log.Info("bus is there", "bus", b.number)
}

// attach makes mem the bus's region. The caller has b.mu or b alone.
func (b *bus) attach(mem *shm.Memory) error {
	id, err := idOf(mem.File())
	if err != nil {
		return err
	}
	r, err := ring.Attach(mem)
	if err != nil {
		return err
	}
	admin, err := r.Admin()
	if err != nil {
		return err
	}
	b.mem, b.ring, b.admin, b.id = mem, r, admin, id
	return nil
}

// release lets go of the region.
func (b *bus) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mem != nil {
		b.mem.Close()
	}
	b.mem, b.ring, b.admin = nil, nil, nil
}

// newBus makes a bus for a caller (R3.1).
func (s *Supervisor) newBus(c control.Config) (int, error) {
	rc := s.o.Bus
	for _, f := range [...]struct {
		to   *int
		from uint32
	}{{&rc.MaxKsocks, c.MaxKsocks}, {&rc.KeptEvents, c.KeptEvents}} {
		if f.from != 0 {
			*f.to = int(f.from)
		}
	}
	if c.MaxMessageSize != 0 {
		rc.MaxMessageSize, rc.MessageSize = c.MaxMessageSize, 0
	}
	if c.MessageSize != 0 {
		rc.MessageSize = c.MessageSize
	}
	if c.ArenaBytes|c.QueueBytes > 1<<62 {
		return 0, refuse(unix.EINVAL, "an arena of %d bytes with queues of %d", c.ArenaBytes, c.QueueBytes)
	}
	if c.ArenaBytes != 0 {
		rc.ArenaBytes, rc.QueueBytes = int64(c.ArenaBytes), 0
	}
	if c.QueueBytes != 0 {
		rc.QueueBytes = int64(c.QueueBytes)
	}
	if c != (control.Config{}) {
		size, err := rc.RegionSize()
		if err != nil {
			return 0, refuse(unix.EINVAL, "%v", err)
		}
		if size > s.o.MaxRegionBytes {
			return 0, refuse(unix.EDQUOT, "a bus of %d bytes; this supervisor allows %d (Options.MaxRegionBytes)", size, s.o.MaxRegionBytes)
		}
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	for n := range MaxBuses {
		if s.bus(n) == nil {
			return n, s.create(n, rc)
		}
	}
	return 0, refuse(unix.EINVAL, "there are %d buses, and no more can be had", MaxBuses)
}

// lookUp finds the bus n for a newcomer. Error: ENOENT (R3.1).
func (s *Supervisor) lookUp(n uint32) (*bus, error) {
	if n < MaxBuses {
		if b := s.bus(int(n)); b != nil {
			return b, nil
		}
	}
	return nil, refuse(unix.ENOENT, "there is no bus %d", n)
}

// token proves that its bearer is the Ksock, to this supervisor and the next.
func (b *bus) token(slot int, id uint32) (t control.Token) {
	h := hmac.New(sha256.New, b.secret)
	binary.Write(h, binary.LittleEndian, [...]uint32{uint32(b.number), uint32(slot), id})
	copy(t[:], h.Sum(nil))
	return t
}

// open opens a Ksock for c.
func (b *bus) open(c *conn, readOnly bool) (*ksock, error) {
	s := b.s
	most := quota(s.o.KsocksPerUser, guestKsocks, c.uid)
	err := s.use(c.uid, func(u *usage) error {
		if most > 0 && u.ksocks >= most {
			return refuse(unix.EDQUOT, "user %d has %d Ksocks, the most that this supervisor allows (kbus up --ksocks-per-user)", c.uid, most)
		}
		u.ksocks++
		return nil
	})
	if err != nil {
		return nil, err
	}
	k, err := b.openSlot(c, readOnly)
	if err != nil {
		s.use(c.uid, func(u *usage) error { u.ksocks--; return nil })
		return nil, err
	}
	if !s.own(c.proc, k) {
		b.end(k, "its process ended while it opened it")
		return nil, refuse(unix.ESRCH, "process %d has ended", c.proc.h.PID)
	}
	s.wakeTicker()
	s.log.Info("Ksock is open", "bus", b.number, "ksock", k.id, "pid", c.proc.h.PID)
	return k, nil
}

func (b *bus) openSlot(c *conn, readOnly bool) (*ksock, error) {
	// Whoever is to get the region is written down first.
	if err := b.s.state.hold(b.number, c.proc.h); err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	mode := ring.ReadWrite
	if readOnly {
		mode = ring.ReadOnly
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.live()
	if err == nil {
		var slot int
		var id uint32
		if slot, id, err = b.admin.Open(c.proc.h.PID, c.proc.h.Start, mode); err == nil {
			k := &ksock{bus: b, slot: slot, id: id, uid: c.uid, proc: c.proc, attached: true}
			b.ksocks[slot] = k
			return k, nil
		}
		if errors.Is(err, ring.ErrNoSlot) {
			n := b.ring.Config().MaxKsocks
			err = refuse(unix.EUSERS, "bus %d was made for %d Ksocks, and all are in use (kbus up --max-ksocks)", b.number, n)
		}
	}
	b.s.state.drop(b.number, c.proc.h)
	return nil, err
}

// live says whether the bus has its region. The caller has b.mu.
func (b *bus) live() error {
	switch {
	case b.mem != nil:
		return nil
	case b.broken != nil:
		return refuse(unix.EIO, "bus %d could not be taken over (%v); it begins anew when its old Ksocks have ended", b.number, b.broken)
	case len(b.waits) > 0:
		for p := range b.waits {
			return refuse(unix.EAGAIN, "bus %d is being taken over: process %d (%s) holds it and has not given it back yet",
				b.number, p.h.PID, command(p.h.PID))
		}
	}
	return refuse(unix.ESHUTDOWN, "the supervisor is going down")
}

// close closes k (R4.8), but leaves it what it holds in place.
func (b *bus) close(k *ksock, why string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil || k.closed {
		return err
	}
	k.closed = true
	b.s.log.Info("Ksock is closed", "bus", b.number, "ksock", k.id, "why", why)
	return b.admin.Close(k.slot)
}

// end closes k if that is still to be done, and frees its slot: its process is
// dead, or has let go of the region.
func (b *bus) end(k *ksock, why string) {
	s := b.s
	b.mu.Lock()
	if k.ended {
		b.mu.Unlock()
		return
	}
	k.closed, k.ended = true, true
	delete(b.ksocks, k.slot)
	bindings, proc := k.bindings, k.proc
	var err error
	if b.mem != nil {
		err = b.admin.Reap(k.slot)
		b.unfinished = b.unfinished || err != nil
	}
	b.mu.Unlock()
	pid := 0
	if proc != nil {
		pid = proc.h.PID
		s.state.drop(b.number, proc.h)
		s.disown(proc, k)
	}
	s.use(k.uid, func(u *usage) error {
		u.ksocks--
		u.bindings -= bindings
		return nil
	})
	if err != nil {
		s.log.Error("Ksock is not ended well", "bus", b.number, "ksock", k.id, "err", err)
		s.wakeTicker()
	}
	s.log.Info("Ksock has ended", "bus", b.number, "ksock", k.id, "pid", pid, "why", why)
}

// with does f for the Ksock k, alone.
func (b *bus) with(k *ksock, f func(*ring.Admin) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	if k.closed {
		return refuse(unix.EBADF, "Ksock %d is closed", k.id)
	}
	return f(b.admin)
}

func (b *bus) bind(k *ksock, name string, replier bool) error {
	most := quota(b.s.o.BindingsPerUser, guestBindings, k.uid)
	err := b.s.use(k.uid, func(u *usage) error {
		if most > 0 && u.bindings >= most {
			return refuse(unix.EDQUOT, "user %d has %d bindings, the most that this supervisor allows (kbus up --bindings-per-user)", k.uid, most)
		}
		u.bindings++
		return nil
	})
	if err != nil {
		return err
	}
	err = b.with(k, func(ad *ring.Admin) error {
		if err := ad.Bind(k.slot, name, replier); err != nil {
			return err
		}
		k.bindings++
		return nil
	})
	if err != nil {
		b.s.use(k.uid, func(u *usage) error { u.bindings--; return nil })
	}
	return err
}

func (b *bus) unbind(k *ksock, name string, replier bool) error {
	err := b.with(k, func(ad *ring.Admin) error {
		if err := ad.Unbind(k.slot, name, replier); err != nil {
			return err
		}
		k.bindings--
		return nil
	})
	if err == nil {
		b.s.use(k.uid, func(u *usage) error { u.bindings--; return nil })
	}
	return err
}

// tick helps an entry that is left open, and tells whether there is anything to
// look after, and whether the bus is in use.
func (b *bus) tick() (needed, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mem == nil || len(b.ksocks) == 0 && !b.unfinished {
		return false, false
	}
	busy, err := b.admin.Tick()
	b.unfinished = err != nil
	if err != nil && !b.complained {
		b.s.log.Error("bus is in trouble", "bus", b.number, "err", err)
	}
	b.complained = err != nil
	return true, busy
}

// reattach gives an orphan its connection: r is of a Ksock whose supervisor was
// another one, region what it holds.
func (b *bus) reattach(c *conn, r *control.Request, region *os.File) (*ksock, error) {
	id, err := idOf(region)
	if err != nil {
		return nil, err
	}
	if id != b.id {
		return nil, refuse(unix.ESTALE, "the region is not that of bus %d", b.number)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waits) > 0 && b.broken == nil {
		if err := b.regain(region); err != nil {
			return nil, err
		}
		b.s.log.Info("bus is given back", "bus", b.number, "pid", c.proc.h.PID)
	}
	if err := b.live(); err != nil {
		return nil, err
	}
	slot, token := int(r.Slot), b.token(int(r.Slot), r.Ksock)
	k := b.ksocks[slot]
	known := hmac.Equal(token[:], r.Token[:]) || b.newSecret && k != nil && k.proc != nil
	if k == nil || k.id != r.Ksock || k.attached || !known || k.proc != nil && k.proc.h.differs(c.proc.h) {
		return nil, refuse(unix.ESTALE, "Ksock %d of bus %d is closed", r.Ksock, b.number)
	}
	if k.proc == nil {
		if !b.s.own(c.proc, k) {
			b.s.disown(c.proc, k)
			return nil, refuse(unix.ESRCH, "process %d has ended", c.proc.h.PID)
		}
		k.proc = c.proc
		if err := b.s.state.hold(b.number, c.proc.h); err != nil {
			b.s.log.Warn("the next supervisor will not know the Ksock", "bus", b.number, "ksock", k.id, "err", err)
		}
	}
	if k.uid != c.uid { // its owner could not be read, or it has changed its user since
		old := k.uid
		b.s.use(old, func(u *usage) error { u.ksocks--; u.bindings -= k.bindings; return nil })
		b.s.use(c.uid, func(u *usage) error { u.ksocks++; u.bindings += k.bindings; return nil })
		k.uid = c.uid
	}
	k.attached = true
	b.s.wakeTicker()
	b.s.log.Info("Ksock is back", "bus", b.number, "ksock", k.id, "pid", c.proc.h.PID)
	return k, nil
}
