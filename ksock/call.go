package ksock

import (
	"context"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
)

// call is one Request of a Call that is not answered yet.
type call struct {
	id     MessageID
	cancel context.CancelFunc // ends the caller's waiting

	// Guarded by Reading.
	sent   bool // not waiting to be sent any more
	answer *Message
}

// Call sends a Request (m is made one if it is not) and waits for its Reply. It
// waits as [Ksock.Send] does if the Request has to wait for room. A Status makes
// it fail with a [*StatusError]; other errors are those of Send and Next.
//
// Other messages stay queued meanwhile. Those before the Reply have to be taken
// from the queue to get at it: they are handed out by the next reads, in their
// order, and count in [Ksock.Unread], but their places in the queue are free
// again (R3.3), and an unbind does not remove them. A Call for which as many of
// them lie there already as the queue would hold fails with ErrNoReplyRoom.
//
// Any number of goroutines may Call at once, and read beside. When ctx ends
// first, the Request is not taken back; its answer is dropped when it comes.
func (k *Ksock) Call(ctx context.Context, m *Message) (*Message, error) {
	h := m.Header
	h.Flags |= WantReply
	answer, err := k.call(ctx, &h, m.Data)
	if err != nil {
		return nil, k.sendError("call", &h, err)
	}
	if answer.IsStatus() {
		return nil, &Error{Op: "call", Name: h.Name, ID: k.id, Peer: answer.From, Err: &StatusError{answer}}
	}
	return answer, nil
}

func (k *Ksock) call(ctx context.Context, h *Header, data []byte) (*Message, error) {
	sending := mayWait(h)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &call{cancel: cancel}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err := k.ask(c, h, data, sending)
		if err == error(unix.EALREADY) {
			if waits, err := k.behind(ctx); err != nil || !waits {
				return nil, errOr(err, unix.EALREADY)
			}
			continue
		}
		if err == error(unix.EAGAIN) && sending != nil {
			if err = k.drain(ctx, sending); err == nil {
				k.c.Reading.Lock()
				c.sent = true
				k.c.Reading.Unlock()
			}
		}
		if err != nil {
			k.c.Reading.Lock()
			k.forget(c)
			k.c.Reading.Unlock()
			return nil, err
		}
		return k.awaitAnswer(ctx, waiting, c)
	}
}

// ask sends the Request and notes that c waits for its answer, in one step for
// whoever reads beside.
func (k *Ksock) ask(c *call, h *Header, data []byte, sending *waitingSend) error {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return k.end
	}
	if uint64(len(k.kept)) >= uint64(k.c.MaxMessages()) {
		return unix.ENOLCK
	}
	id, err := k.transmit(h, data, nil, sending)
	if err == nil || err == error(unix.EAGAIN) && sending != nil {
		c.id, c.sent = id, err == nil
		k.calls = append(k.calls, c)
	}
	return err
}

// awaitAnswer waits until c has its answer. waiting ends when it has, or with ctx.
func (k *Ksock) awaitAnswer(ctx, waiting context.Context, c *call) (*Message, error) {
	k.c.Reading.Lock()
	var err error
	for err == nil && c.answer == nil {
		if !k.leading {
			err = k.pass()
		}
		if err == nil && c.answer == nil {
			err = k.lead(waiting, ofCalls, k.untilAnswer)
		}
	}
	switch {
	case c.answer != nil:
		err = nil
	case ctx.Err() != nil:
		err = context.Cause(ctx) // and the answer will be dropped
	default:
		k.forget(c)
	}
	k.handOn()
	k.c.Reading.Unlock()
	k.file.refresh(k)
	return c.answer, err
}

// untilAnswer waits until there is something to do for the leader of a Call: to
// look at the queue, since an answer is there, or to let another do it.
func (k *Ksock) untilAnswer(ctx context.Context) error {
	return k.c.WaitUntil(ctx, k.spin, func() (bool, error) {
		readable, _, err := k.c.Look()
		if err != nil || !readable {
			return false, err
		}
		k.c.Reading.Lock()
		defer k.c.Reading.Unlock()
		return k.readers > 0 || k.answered(), nil
	})
}

// answered tells whether an answer to a Call is in the queue, or will be at
// once. Reading is held.
func (k *Ksock) answered() bool {
	for i, c := range k.calls {
		if !c.sent {
			continue
		}
		n := 1 // Calls of that id so far
		for _, other := range k.calls[:i] {
			if other.sent && other.id == c.id {
				n++
			}
		}
		if k.c.Outstanding(c.id) < n {
			return true
		}
	}
	return false
}

// pass hands out the answers that are in the queue, and keeps what lies before
// them. Reading is held, and nobody leads: who sleeps in the bus would not hear
// of what is kept.
func (k *Ksock) pass() error {
	var m ring.Message
	for k.end == nil && k.answered() {
		if ok, err := k.c.Take(&m); err != nil || !ok {
			return err
		}
		if !k.answer(&m) {
			k.kept = append(k.kept, copyOf(&m))
			m.Release()
		}
	}
	return k.end
}

// answer hands m to the Call that it answers, and releases it; false if there is
// none. Reading is held.
func (k *Ksock) answer(m *ring.Message) bool {
	if !m.Answer() {
		return false // perhaps a Listener's copy of one (R5.8, R8.9)
	}
	for i, c := range k.calls {
		if c.id != m.InReplyTo {
			continue
		}
		k.calls = append(k.calls[:i], k.calls[i+1:]...)
		c.answer = copyOf(m) // perhaps nobody waits for it any more
		c.cancel()
		m.Release()
		return true
	}
	return false
}

// forget: no answer to c will come, or matter. Reading is held.
func (k *Ksock) forget(c *call) {
	for i := range k.calls {
		if k.calls[i] == c {
			k.calls = append(k.calls[:i], k.calls[i+1:]...)
			return
		}
	}
}
