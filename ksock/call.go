package ksock

import (
	"context"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
)

// call is one Request of a Call that is not answered yet.
type call struct {
	id      MessageID
	cancel  context.CancelFunc // ends the caller's waiting
	answer  *Message           // guarded by rmu
	dropped bool               // nobody waits for the answer any more
}

// Call sends a Request (m is made one if it is not) and waits for its Reply. It
// waits as [Ksock.Send] does if the Request has to wait for room. A Status makes
// it fail with a [*StatusError]; other errors are those of Send and Next.
//
// Other messages are not lost meanwhile: those that a Call has to take from the
// queue to get at the Reply are handed out by the next reads, in their order,
// and count in [Ksock.Unread]. But their places in the queue are free again
// (R3.3), so somebody else has to read if many come; when as many as
// [Ksock.MaxMessages] lie there, the next Call fails with ErrNoReplyRoom.
//
// Any number of goroutines may Call at once, and read beside. When ctx ends
// first, the Request is not taken back; its answer is dropped when it comes.
func (k *Ksock) Call(ctx context.Context, m *Message) (*Message, error) {
	h := m.Header
	h.Flags |= WantReply
	answer, err := k.call(ctx, outgoing{h: &h, data: m.Data})
	if err != nil {
		return nil, k.sendError("call", &h, err)
	}
	if answer.IsStatus() {
		return nil, &Error{Op: "call", Name: h.Name, ID: k.id, Err: &StatusError{answer}}
	}
	return answer, nil
}

func (k *Ksock) call(ctx context.Context, o outgoing) (*Message, error) {
	sending := mayWait(o.h)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &call{cancel: cancel}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err := k.ask(c, o, sending)
		if err == error(unix.EALREADY) {
			if waits, err := k.behind(ctx); err != nil || !waits {
				return nil, errOr(err, unix.EALREADY)
			}
			continue
		}
		if err == error(unix.EAGAIN) && sending != nil {
			if err = k.drain(ctx, sending); err != nil {
				k.forget(c)
			}
		}
		if err != nil {
			return nil, err
		}
		return k.awaitAnswer(ctx, waiting, c)
	}
}

// ask sends the Request and notes that c waits for its answer, in one step for
// whoever reads beside.
func (k *Ksock) ask(c *call, o outgoing, sending *waitingSend) error {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	if k.end != nil {
		return k.end
	}
	if len(k.kept) >= k.c.MaxMessages() {
		return unix.ENOLCK
	}
	id, err := k.transmit(o, sending)
	if err == nil || err == error(unix.EAGAIN) && sending != nil {
		c.id = id
		k.calls = append(k.calls, c)
	}
	return err
}

// awaitAnswer reads until c has its answer. waiting ends when it has, or with ctx.
func (k *Ksock) awaitAnswer(ctx, waiting context.Context, c *call) (*Message, error) {
	for {
		select {
		case k.lead <- struct{}{}:
		case <-waiting.Done():
			return k.answerOf(ctx, c)
		case <-k.life.Done():
			return nil, k.ended()
		}
		err := k.pass(c)
		if err == nil && waiting.Err() == nil {
			err = k.wait(func() error { return k.c.WaitReadable(waiting, k.spin) })
		}
		<-k.lead
		if waiting.Err() != nil {
			return k.answerOf(ctx, c)
		}
		if err != nil {
			k.forget(c)
			return nil, err
		}
	}
}

// pass takes what is in the queue until c has its answer, and keeps the rest.
// Only the leader calls it, so nobody sleeps in the bus who would miss what is
// kept: the next leader looks.
func (k *Ksock) pass(c *call) error {
	k.rmu.Lock()
	defer func() {
		k.rmu.Unlock()
		k.file.refresh(k)
	}()
	for c.answer == nil {
		if k.end != nil {
			return k.end
		}
		m, err := k.c.Take()
		if err != nil || m == nil {
			return err
		}
		if !k.answer(m) {
			k.kept = append(k.kept, copyOf(m))
			m.Release()
		}
	}
	return nil
}

// answer hands m to the Call that it answers, and releases it; false if there is
// none. rmu is held.
func (k *Ksock) answer(m *ring.Message) bool {
	h := m.Header()
	if h.InReplyTo == (MessageID{}) || h.To != k.id {
		return false
	}
	for i, c := range k.calls {
		if c.id != h.InReplyTo {
			continue
		}
		k.calls = append(k.calls[:i], k.calls[i+1:]...)
		if !c.dropped {
			c.answer = copyOf(m)
			c.cancel()
		}
		m.Release()
		return true
	}
	return false
}

// answerOf is c's answer, or why there is none.
func (k *Ksock) answerOf(ctx context.Context, c *call) (*Message, error) {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	if c.answer != nil {
		return c.answer, nil
	}
	c.dropped = true
	return nil, context.Cause(ctx)
}

// forget: no answer to c will come, or matter.
func (k *Ksock) forget(c *call) {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	for i := range k.calls {
		if k.calls[i] == c {
			k.calls = append(k.calls[:i], k.calls[i+1:]...)
			return
		}
	}
}
