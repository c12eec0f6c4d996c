package limpet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// errUnfit: the bus can't be joined as it is.
var errUnfit = errors.New("limpet")

// A session is one link's life, from the greeting to its end.
type session struct {
	l     *Limpet
	k     *ksock.Ksock
	link  Link
	d     *decoder
	peer  atomic.Uint32
	names names
	asked asked

	ctx  context.Context
	stop context.CancelCauseFunc // the first cause is why it ended

	// last ends when the message at which the Limpet ends was put on the bus: what
	// is there already is passed on. It never ends if there is no such message.
	last   context.Context
	finish context.CancelFunc

	told map[string]bool // names that the other side was told to be bound here; fromBus's own

	wmu sync.Mutex // the link's writing end
	answers

	// What is idle, for Settled: the turns that the bus's reader began, and whether
	// it waits; whether the link's reader has dealt with all that it has read.
	turns  atomic.Uint64
	waits  atomic.Bool
	inIdle atomic.Bool
}

// Serve greets the other Limpet on a link that was just made and then passes on
// messages until the link ends, ctx does, or the terminating message comes
// (ErrTerminated). k is a Ksock that nothing was done with yet. Both are closed when
// it returns; the error says why (it is never nil).
func (l *Limpet) Serve(ctx context.Context, k *ksock.Ksock, link Link) error {
	s := &session{l: l, k: k, link: link, told: map[string]bool{}}
	s.ctx, s.stop = context.WithCancelCause(ctx)
	s.last, s.finish = context.Background(), func() {} // whose wait ends when the Ksock is closed
	if l.o.Terminate != "" {
		s.last, s.finish = context.WithCancel(s.ctx)
	}
	defer s.finish()
	s.d = newDecoder(counted{s}, l.o.MaxData)
	s.names.init(k, func(err error, what, name string) {
		if !fatal(err) {
			l.tell("name "+name, err, what, "message", name)
		}
	})
	s.answers.news = make(chan struct{}, 1)
	l.mu.Lock()
	l.now = s
	l.mu.Unlock()
	context.AfterFunc(s.ctx, func() { link.Close(); k.Close() })

	err := s.greet()
	if err == nil {
		err = s.serve()
	}
	s.stop(err)
	link.Close()
	k.Close() // R8.10
	l.mu.Lock()
	l.now = nil
	l.mu.Unlock()
	return context.Cause(s.ctx)
}

// greetTime is how long the other side has for its greeting.
const greetTime = 10 * time.Second

// greet is R8.1.
func (s *session) greet() error {
	l := s.l
	l.setState("waiting for the other Limpet's greeting")
	if _, err := s.link.Write(appendGreeting(nil, l.o.NetworkID)); err != nil {
		return err
	}
	l.bytesOut.Add(greetingSize)
	late := time.AfterFunc(greetTime, func() {
		s.stop(fmt.Errorf("no greeting within %v: is there a Limpet at the other end, and has it no other link already?", greetTime))
	})
	defer late.Stop()
	peer, err := s.d.greeting()
	switch {
	case err == io.EOF:
		return errors.New("the other side closed the link before its greeting: it may have another link already, or want TLS")
	case err != nil:
		return err
	case peer == 0:
		return malformed("greeting", "has network id 0: give the other Limpet another")
	case peer == l.o.NetworkID:
		return malformed("greeting", "has network id %d, which is this Limpet's own: every Limpet needs one of its own", peer)
	}
	s.peer.Store(peer)
	return nil
}

// serve is R8.3 and then all the rest.
func (s *session) serve() error {
	if err := s.bind(); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, work := range []func() error{
		s.fromBus, s.fromLink, s.writeAnswers,
		func() error { s.names.retry(s.ctx); return nil },
		s.report,
	} {
		all.Go(func() {
			if err := work(); err != nil {
				s.stop(err)
			}
		})
	}
	all.Wait()
	return context.Cause(s.ctx)
}

// bind is R8.3 but for its end.
func (s *session) bind() error {
	if n := s.l.o.MaxMessages; n != 0 {
		if _, err := s.k.SetMaxMessages(s.ctx, n); err != nil {
			return err
		}
	}
	if _, err := s.k.SetOnlyOnce(s.ctx, ksock.On); err != nil {
		return err
	}
	for _, name := range []string{s.l.o.Name, ksock.ReplierBindEvent} {
		if err := s.k.Bind(s.ctx, name, ksock.Listener); err != nil {
			return fmt.Errorf("%w: %w", errUnfit, err)
		}
	}
	return nil
}

// mostMessages is the largest limit that a queue has any use of.
const mostMessages = 4096

// report switches the reports on while the bus is being read; as many events as
// there are Repliers have to fit into the queue (R7.2).
func (s *session) report() error {
	for p := time.Millisecond; ; p = min(2*p, time.Second) {
		_, err := s.k.SetReportReplierBinds(s.ctx, ksock.On)
		if err == nil {
			s.linked()
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		n, err := s.k.MaxMessages()
		if err != nil {
			return err
		}
		if n < mostMessages {
			if _, err := s.k.SetMaxMessages(s.ctx, min(2*n, mostMessages)); err != nil {
				return err
			}
			continue
		}
		s.l.tell("reports", unix.EBUSY, "the bus has too many Repliers, or is too busy, to begin; trying again")
		t := time.NewTimer(p)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return context.Cause(s.ctx)
		}
	}
}

func (s *session) linked() {
	l := s.l
	l.forget("connect", "reports")
	l.setState("linked")
	l.log.Info("linked", "bus", l.o.Bus, "network_id", l.o.NetworkID, "peer", s.peer.Load(), "ksock", s.k.ID())
}

// fatal tells that no operation of the Ksock will succeed any more.
func fatal(err error) bool {
	return errors.Is(err, ksock.ErrClosed) || errors.Is(err, ksock.ErrGone) || errors.Is(err, ksock.ErrCorrupt)
}

// counted is the link's reading end.
type counted struct{ s *session }

func (c counted) Read(b []byte) (int, error) {
	c.s.inIdle.Store(true)
	n, err := c.s.link.Read(b)
	c.s.inIdle.Store(false)
	c.s.l.bytesIn.Add(uint64(n))
	return n, err
}

func (c counted) Await(n int) error {
	a, ok := c.s.link.(Awaiter)
	if !ok {
		return nil
	}
	c.s.inIdle.Store(true)
	defer c.s.inIdle.Store(false)
	return a.Await(n)
}

// answers are the frames that this Limpet makes by itself (R8.7), waiting for the
// link's writing end. The link's reader must not wait for it: two Limpets that both
// did would wait for ever.
type answers struct {
	amu  sync.Mutex
	buf  []byte
	n    uint64 // frames in buf
	busy bool   // some are being written
	news chan struct{}
}

// mostAnswers bounds the answers that wait, in bytes.
const mostAnswers = 4 << 20

// answer answers a Request that came in the frame h with a message of no data (R8.7).
func (s *session) answer(h *ksock.Header, name string) error {
	a := ksock.Header{Name: name, To: h.From, InReplyTo: h.ID}
	s.amu.Lock()
	defer s.amu.Unlock()
	if len(s.buf) > mostAnswers {
		return errors.New("the other side sends Requests and does not read their answers")
	}
	s.buf = append(appendHead(s.buf, &a, 0), tail(0)...)
	s.n++
	s.l.debug("to link", &a, nil)
	select {
	case s.news <- struct{}{}:
	default:
	}
	return nil
}

func (s *session) writeAnswers() error {
	var mine []byte
	for {
		select {
		case <-s.news:
		case <-s.ctx.Done():
			return nil
		}
		s.amu.Lock()
		n := s.n
		mine, s.buf, s.n, s.busy = s.buf, mine[:0], 0, true
		s.amu.Unlock()
		s.wmu.Lock()
		_, err := s.link.Write(mine)
		s.wmu.Unlock()
		if err != nil {
			return err
		}
		s.l.framesOut.Add(n)
		s.l.bytesOut.Add(uint64(len(mine)))
		s.amu.Lock()
		s.busy = false
		s.amu.Unlock()
	}
}

// Settled tells whether everything has been dealt with that was on the bus when it
// was called, and the first read bytes of the link: a Limpet that is settled does
// nothing more by itself. Whoever replays a transcript waits for it. A binding that
// is tried again and again counts as settled after the next two attempts.
func (l *Limpet) Settled(ctx context.Context, read uint64) error {
	l.mu.Lock()
	s := l.now
	l.mu.Unlock()
	var since uint64
	for first := true; s != nil && s.ctx.Err() == nil; first = false {
		s.names.mu.Lock()
		rounds, later := s.names.rounds, len(s.names.later)
		s.names.mu.Unlock()
		if first {
			since = rounds
		}
		// In this order: what comes by the link goes to the bus and comes from there.
		if l.bytesIn.Load() >= read && s.inIdle.Load() && (later == 0 || rounds >= since+2) && s.busIdle() && s.answered() {
			return nil
		}
		t := time.NewTimer(100 * time.Microsecond)
		select {
		case <-t.C:
		case <-s.ctx.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		t.Stop()
	}
	return nil
}

func (s *session) busIdle() bool {
	if s.l.State() != "linked" {
		return s.peer.Load() == 0 // still waiting for the greeting
	}
	n := s.turns.Load()
	if !s.waits.Load() {
		return false
	}
	unread, err := s.k.Unread()
	return err != nil || unread == 0 && s.waits.Load() && s.turns.Load() == n
}

func (s *session) answered() bool {
	s.amu.Lock()
	defer s.amu.Unlock()
	return len(s.buf) == 0 && !s.busy
}

// State says what the Limpet does: "linked", or what it waits for.
func (l *Limpet) State() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}
