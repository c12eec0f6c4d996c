package ksock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm"
)

// DefaultSocket is where a supervisor listens unless it is told otherwise:
// $XDG_RUNTIME_DIR/kbus/socket, else /run/kbus/socket for root, else
// /tmp/kbus-UID/socket.
func DefaultSocket() string { return control.DefaultSocket() }

// Options of [Open]; nil and the zero value are usable.
type Options struct {
	// Socket is the path of the supervisor's socket; "" is [DefaultSocket].
	Socket string
	// ReadOnly opens for binding and reading only: sends fail with ErrReadOnly (R3.1).
	ReadOnly bool
	// Spin is how long a wait looks again and again before it sleeps, in pauses
	// of the CPU (some tens of nanoseconds each). 0 is a short while, negative
	// is not at all: less CPU against more latency.
	Spin int
	// Logger gets what happens to the connection to the supervisor; nil discards it.
	Logger *slog.Logger
}

const defaultSpin = 400

// A Ksock is one connection to one bus (R3.1). It may be used by any number of
// goroutines at once, all methods alike; what they read is divided among them.
type Ksock struct {
	bus  int
	id   uint32
	spin int
	log  *slog.Logger
	link *control.Link
	m    *mapping
	c    *ring.Client

	// life ends, with the reason, when the Ksock is closed or gone.
	life context.Context
	stop context.CancelCauseFunc
	// waits are the waits in progress; nobody joins once end is set.
	waits sync.WaitGroup

	// Lock order: c.Reading before c.Sending before file.mu. No operation holds one
	// while it waits.

	// Guarded by c.Sending.
	sending *waitingSend // the Send whose message waits, or has just left; nil: TrySend's, or none
	loans   int          // not used up
	lent    []*loan      // used up, to be used again

	// Guarded by c.Reading.
	kept  []*Message // taken from the queue by Calls, in order, not handed out yet
	calls []*call    // Requests of Calls that are not answered
	views int        // not released
	free  []*taken   // released, to be used again

	// One goroutine at a time, the leader, waits in the bus for messages; no Call
	// while there are readers, which wait for any message.
	leading   bool
	readers   int
	followers [2]followers // the readers', the Calls'
	heeded    heeded

	// end is why no operation can be done any more. It and the next two are set
	// with both locks held.
	end      error
	closed   bool // by Close
	unmapped bool

	file    file
	iterErr atomic.Pointer[error]
	closing sync.Once
}

// Open opens a Ksock on a bus of the supervisor at opts.Socket. ctx bounds the
// opening only. Errors: ErrNoBus, ErrNotAllowed, EMFILE or EUSERS or EDQUOT if
// there are too many Ksocks or descriptors, [ErrNoSupervisor], ErrCorrupt if the
// region is not one that this version understands, and ctx's cause.
func Open(ctx context.Context, bus int, opts *Options) (*Ksock, error) {
	if opts == nil {
		opts = &Options{}
	}
	k, err := open(ctx, bus, opts)
	for err == error(unix.ESTALE) && ctx.Err() == nil {
		k, err = open(ctx, bus, opts) // a supervisor ended in the middle of it; the next one has withdrawn the Ksock
	}
	if err != nil {
		return nil, &Error{Op: "open", Name: fmt.Sprintf("bus %d", bus), Err: meaning(forOther, err)}
	}
	return k, nil
}

func open(ctx context.Context, bus int, opts *Options) (*Ksock, error) {
	socket := opts.Socket
	if socket == "" {
		socket = DefaultSocket()
	}
	link, err := control.Open(ctx, socket, bus, opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	k := &Ksock{
		bus: bus, id: link.Ksock(), spin: opts.Spin, log: opts.Logger, link: link,
		followers: [2]followers{{turn: make(chan struct{}, 1)}, {turn: make(chan struct{}, 1)}},
	}
	k.life, k.stop = context.WithCancelCause(context.Background())
	switch {
	case k.spin == 0:
		k.spin = defaultSpin
	case k.spin < 0:
		k.spin = 0
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.log = k.log.With("bus", bus, "ksock", k.id)
	k.m, err = mapRegion(link.Region())
	if err != nil {
		k.stop(err)
		link.Close()
		return nil, err
	}
	mode := ring.ReadWrite
	if opts.ReadOnly {
		mode = ring.ReadOnly
	}
	k.c, err = k.m.bus.Client(link.Slot(), k.id, mode)
	if err != nil {
		k.stop(err)
		k.m.release()
		link.Close()
		return nil, err
	}
	go k.watch()
	return k, nil
}

// ID is the Ksock's id on its bus (R3.1).
func (k *Ksock) ID() uint32 { return k.id }

// Bus is the number of the bus.
func (k *Ksock) Bus() int { return k.bus }

// watch notices that the Ksock is gone.
func (k *Ksock) watch() {
	<-k.link.Done()
	err := k.link.Err()
	if errors.Is(err, os.ErrClosed) {
		return
	}
	k.log.Warn("the supervisor ended this Ksock", "err", err)
	k.shut(&detail{ErrGone.(*condition), fmt.Errorf("%w: %w", ErrGone, err)})
}

// shut ends all operations, now and in the future, with err; the first one
// counts. When it returns nobody uses the region but for Views and Loans.
func (k *Ksock) shut(err error) {
	k.c.Reading.Lock()
	k.c.Sending.Lock()
	if k.end == nil {
		k.end = err
		k.stop(err)
		k.c.Interrupt()
	}
	k.c.Sending.Unlock()
	k.c.Reading.Unlock()
	k.waits.Wait()
	k.c.Reading.Lock() // there are two who end a Ksock: Close and watch
	k.heeded.ignore()
	k.c.Reading.Unlock()
	k.file.close()
}

// Close closes the Ksock (R4.8): who waits in one of its methods gets
// [ErrClosed], and so does whoever calls one afterwards. Messages that were not
// read, and a send that was waiting, vanish; Requests that it has not answered
// are answered by Statuses. Close may be repeated.
//
// Views and Loans stay valid until they are released; so long the Ksock's place
// on the bus, one of those that the bus was made for, is not free for another.
//
// The Ksock is closed whatever Close returns. Errors: those of munmap(2).
func (k *Ksock) Close() (err error) {
	k.closing.Do(func() {
		k.shut(ErrClosed)
		k.c.Reading.Lock()
		k.c.Sending.Lock()
		k.closed = true
		inUse := k.views + k.loans
		k.c.Sending.Unlock()
		k.c.Reading.Unlock()
		if inUse > 0 {
			// The end of the connection is what frees the slot and all that it holds
			// in place, so it has to wait; the rest of R4.8 need not.
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			if _, err := k.link.Call(ctx, &control.Request{Op: control.OpClose}); err != nil {
				k.log.Warn("closed without the supervisor's answer", "err", err)
			}
		}
		err = k.fail("close", "", forOther, k.finish())
	})
	return err
}

// closeTimeout is how long Close waits for a supervisor that does not answer.
const closeTimeout = 2 * time.Second

// finish unmaps once nothing needs the mapping, and then ends the connection:
// from that moment the slot may be another's.
func (k *Ksock) finish() error {
	k.c.Reading.Lock()
	k.c.Sending.Lock()
	now := k.closed && !k.unmapped && k.views == 0 && k.loans == 0
	k.unmapped = k.unmapped || now
	k.c.Sending.Unlock()
	k.c.Reading.Unlock()
	if !now {
		return nil
	}
	err := k.m.release()
	if err != nil {
		k.log.Error("the region stays mapped", "err", err)
	}
	k.link.Close() // the end of the process does what it could not
	return err
}

// fail makes err the error of an operation on name, nil if err is nil.
func (k *Ksock) fail(op, name string, as kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Name: name, ID: k.id, Err: precise(op, name, meaning(as, err))}
}

// wait begins a wait outside the locks: fn runs while the mapping stays.
func (k *Ksock) wait(fn func() error) error {
	k.c.Reading.Lock()
	if k.end != nil {
		defer k.c.Reading.Unlock()
		return k.end
	}
	k.waits.Add(1)
	k.c.Reading.Unlock()
	defer k.waits.Done()
	err := fn()
	if errors.Is(err, ring.ErrClosed) {
		return k.ended()
	}
	return err
}

// ended is why the Ksock ended; ErrClosed if it has not.
func (k *Ksock) ended() error {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end == nil {
		return ErrClosed
	}
	return k.end
}

// mapping is the one mapping that all Ksocks of a process on one bus share.
type mapping struct {
	key  regionKey
	bus  *ring.Bus
	mem  *shm.Memory
	refs int // guarded by mappings.mu
}

// regionKey tells regions apart: a memory file's inode.
type regionKey struct{ dev, ino uint64 }

var mappings struct {
	mu sync.Mutex
	of map[regionKey]*mapping
}

func mapRegion(f *os.File) (*mapping, error) {
	key, err := keyOf(f)
	if err != nil {
		return nil, err
	}
	mappings.mu.Lock()
	defer mappings.mu.Unlock()
	if m := mappings.of[key]; m != nil {
		m.refs++
		return m, nil
	}
	m, err := newMapping(f)
	if err != nil {
		return nil, err
	}
	m.key, m.refs = key, 1
	if mappings.of == nil {
		mappings.of = map[regionKey]*mapping{}
	}
	mappings.of[key] = m
	return m, nil
}

func keyOf(f *os.File) (regionKey, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return regionKey{}, err
	}
	var st unix.Stat_t
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }); err != nil {
		return regionKey{}, err
	}
	return regionKey{uint64(st.Dev), st.Ino}, os.NewSyscallError("fstat", statErr)
}

func (m *mapping) release() error {
	mappings.mu.Lock()
	defer mappings.mu.Unlock()
	if m.refs--; m.refs > 0 {
		return nil
	}
	delete(mappings.of, m.key)
	return m.mem.Close()
}

func newMapping(f *os.File) (*mapping, error) {
	mem, err := shm.Map(f)
	if err != nil {
		return nil, err
	}
	bus, err := ring.Attach(mem)
	if err != nil {
		mem.Close()
		return nil, err
	}
	return &mapping{bus: bus, mem: mem}, nil
}
