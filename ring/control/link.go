package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Link is a Ksock's line to its supervisor. When the supervisor goes away it
// finds the next one by itself, in the background, and hands the bus back to it
// (R9.4). Its methods may be called by many goroutines; calls are carried out
// one at a time.
type Link struct {
	socket string
	bus    uint32
	slot   uint32
	ksock  uint32
	token  Token // keep's
	region *os.File
	stop   context.CancelCauseFunc // ends all waiting
	ctx    context.Context

	turn chan struct{} // holds a token; its holder may call
	book map[binding]int

	mu      sync.Mutex
	conn    *Conn
	changed chan struct{} // closed and renewed when conn changes
	closing bool
	done    chan struct{}
	err     error
}

type binding struct {
	name    string
	replier bool
}

// regions counts the regions that this process holds or is about to get.
var regions atomic.Int64

// unsure stands in the book where a call was given up before its answer came.
const unsure = -1

// Open opens a Ksock on the bus with that number of the supervisor at socket.
// Errors: those of Dial; *Error: ENOENT (no such bus, R3.1), EACCES, EDQUOT,
// EMFILE and others that the supervisor says; the context's cause.
func Open(ctx context.Context, socket string, bus int, readOnly bool) (*Link, error) {
	if bus < 0 || bus > 1<<31-1 {
		return nil, &Error{unix.ENOENT, fmt.Sprintf("there is no bus %d", bus)}
	}
	c, err := Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	r := &Request{Op: OpOpen, Bus: uint32(bus), ReadOnly: readOnly}
	if regions.Add(1) == 1 {
		r.Value = 1
	}
	a, f, err := c.Call(ctx, r, nil)
	if err == nil && f == nil {
		err = fmt.Errorf("%w: the answer to open lacks the region", ErrFrame)
	}
	if err != nil {
		regions.Add(-1)
		c.Close()
		return nil, err
	}
	l := &Link{
		socket: socket, bus: uint32(bus), slot: a.Slot, ksock: a.Ksock, token: a.Token, region: f,
		turn: make(chan struct{}, 1), book: map[binding]int{},
		conn: c, changed: make(chan struct{}), done: make(chan struct{}),
	}
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	l.turn <- struct{}{}
	go l.keep()
	return l, nil
}

// Slot is the Ksock's slot in the region.
func (l *Link) Slot() int { return int(l.slot) }

// Ksock is the Ksock's id.
func (l *Link) Ksock() uint32 { return l.ksock }

// Region is the bus's region. It belongs to the Link and is closed with it.
func (l *Link) Region() *os.File { return l.region }

// Done is closed when the Ksock is gone for good: closed here, or by the
// supervisor (Err says why: going down, or it does not know the Ksock).
func (l *Link) Done() <-chan struct{} { return l.done }

// Err is nil until Done is closed, then os.ErrClosed or the supervisor's reason.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// set makes c the connection, nil for none; a Link that is closing takes none.
func (l *Link) set(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c != nil && l.closing {
		return false
	}
	l.conn = c
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// end is the end of the Link.
func (l *Link) end(err error) {
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	first := l.err == nil
	if first && l.closing {
		err = os.ErrClosed // whatever came in between
	}
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if !first {
		return
	}
	l.stop(err)
	if c != nil {
		c.Close()
	}
	l.region.Close()
	regions.Add(-1)
	close(l.done) // last: who waited for it finds nothing left
}

// keep holds the connection until the end of the Link.
func (l *Link) keep() {
	for {
		l.mu.Lock()
		c := l.conn
		l.mu.Unlock()
		if c == nil {
			return
		}
		<-c.Done()
		err := c.Err()
		var refusal *Error
		if errors.Is(err, os.ErrClosed) || errors.As(err, &refusal) {
			l.end(err)
			return
		}
		l.set(nil)
		lost := err
		for {
			if c, err = l.reattach(); err != nil {
				if lost != ErrLost { // it says more, but is not what a call ends with
					err = fmt.Errorf("%w, since %v", err, lost)
				}
				l.end(err)
				return
			}
			if l.set(c) {
				break
			}
			// The Ksock was closed while no supervisor was there to be told. The next
			// one may be killed, too, before it has done it.
			_, _, err = c.Call(l.ctx, &Request{Op: OpClose, Value: 1}, nil)
			c.Close()
			if !errors.Is(err, ErrLost) {
				l.end(os.ErrClosed)
				return
			}
		}
	}
}

// reattach finds the next supervisor. Only a supervisor that refuses this Ksock
// ends the search, or the end of the Link.
func (l *Link) reattach() (*Conn, error) {
	const least, most = 2 * time.Millisecond, 500 * time.Millisecond
	for pause := least; ; pause = min(2*pause, most) {
		c, err := Dial(l.ctx, l.socket)
		if err == nil {
			var a *Answer
			a, _, err = c.Call(l.ctx, &Request{Op: OpReattach, Bus: l.bus, Slot: l.slot, Ksock: l.ksock, Token: l.token}, l.region)
			if err == nil {
				l.token = a.Token // the one that the next supervisor will know
				return c, nil
			}
			c.Close()
			var refusal *Error
			if errors.As(err, &refusal) && final(refusal.Errno) || errors.Is(err, ErrFrame) || errors.Is(err, unix.EPROTONOSUPPORT) {
				return nil, err
			}
		}
		// Many Ksocks look for one supervisor: not all at the same moment.
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return nil, context.Cause(l.ctx)
		}
	}
}

// final tells with which errnos a supervisor refuses a Ksock for good: it, or its
// bus, is not known or not admitted, or the bus is given up. All others, a
// shortage of whatever kind above all, may be gone at the next try; and who stops
// trying leaves the Ksock open with nobody to close it.
func final(e unix.Errno) bool {
	switch e {
	case unix.ESTALE, unix.ENOENT, unix.EACCES, unix.EIO, unix.ESHUTDOWN, unix.EPROTO, unix.EPROTONOSUPPORT:
		return true
	}
	return false
}

// attached is the connection, waited for if there is none.
func (l *Link) attached(ctx context.Context) (*Conn, error) {
	for {
		l.mu.Lock()
		c, changed, err, closing := l.conn, l.changed, l.err, l.closing
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if closing {
			return nil, os.ErrClosed
		}
		if c != nil && c.Err() == nil {
			return c, nil
		}
		select {
		case <-changed: // also if there is one that has ended: keep is about to notice
		case <-l.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNoSupervisor, context.Cause(ctx))
		}
	}
}

// Call asks the supervisor. While there is none it waits for the next, as long
// as ctx lets it. A request that was cut off is repeated if that can do no harm
// (bindings are counted first, so none is made twice); OpOnlyOnce and OpReports
// that switch are not, and fail with ErrLost. Other errors: *Error, os.ErrClosed,
// ENAMETOOLONG, the reason of Err, and the context's cause, after which it is
// not known whether the request was carried out.
func (l *Link) Call(ctx context.Context, r *Request) (*Answer, error) {
	select {
	case <-l.turn:
		defer func() { l.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.done:
		return nil, l.Err()
	}
	if r.Op == OpBind || r.Op == OpUnbind {
		return l.bind(ctx, r)
	}
	for {
		a, err := l.try(ctx, r)
		if !errors.Is(err, ErrLost) || (r.Op == OpOnlyOnce || r.Op == OpReports) && r.Value != Ask {
			return a, err
		}
	}
}

func (l *Link) try(ctx context.Context, r *Request) (*Answer, error) {
	c, err := l.attached(ctx)
	if err != nil {
		return nil, err
	}
	a, f, err := c.Call(ctx, r, nil)
	if f != nil {
		f.Close()
	}
	return a, err
}

// bind carries out an OpBind or OpUnbind exactly once, whatever becomes of the
// supervisor meanwhile: the number of such bindings tells whether it was done.
func (l *Link) bind(ctx context.Context, r *Request) (*Answer, error) {
	key := binding{r.Name, r.Replier}
	before := l.book[key]
	if before == unsure {
		n, err := l.bound(ctx, key)
		if err != nil {
			return nil, err
		}
		before = n
	}
	after := before + 1
	if r.Op == OpUnbind {
		after = before - 1
	}
	for {
		a, err := l.try(ctx, r)
		var refusal *Error
		switch {
		case err == nil:
			l.note(key, after)
			return a, nil
		case errors.As(err, &refusal):
			l.note(key, before)
			return nil, err
		case !errors.Is(err, ErrLost):
			l.note(key, unsure)
			return nil, err
		}
		n, err := l.bound(ctx, key)
		if err != nil {
			l.note(key, unsure)
			return nil, err
		}
		if n == after {
			l.note(key, after)
			return &Answer{Op: r.Op, Number: r.Number}, nil
		}
	}
}

func (l *Link) note(key binding, n int) {
	if n == 0 {
		delete(l.book, key)
	} else {
		l.book[key] = n
	}
}

// bound asks how many such bindings the Ksock has.
func (l *Link) bound(ctx context.Context, key binding) (int, error) {
	for {
		a, err := l.try(ctx, &Request{Op: OpBound, Name: key.name, Replier: key.replier})
		if err == nil {
			return int(a.Value), nil
		}
		if !errors.Is(err, ErrLost) {
			return 0, err
		}
	}
}

// Close closes the Ksock: when it returns, the others see that it is gone. The
// caller has unmapped the region before. Without a supervisor, or if it does
// not answer for two seconds, the rest happens in the background: the next one
// is told, or sees it when this process ends. It may be repeated.
func (l *Link) Close() error {
	l.mu.Lock()
	again := l.closing || l.err != nil
	l.closing = true
	c := l.conn
	l.mu.Unlock()
	if again || c == nil {
		return nil // c == nil: keep will see that it is closing
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		if _, _, err := c.Call(l.ctx, &Request{Op: OpClose, Value: 1}, nil); !errors.Is(err, ErrLost) {
			l.end(os.ErrClosed)
		}
	}()
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
	}
	return nil
}
