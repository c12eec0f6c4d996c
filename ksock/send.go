package ksock

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Send sends a message and returns the id that it went out under; it copies the
// data once. It waits only for a message flagged [AllOrWait]: until that has
// gone out (R6.5), or until ctx ends, which discards it. While one goroutine's
// Send waits, the Sends of others wait behind it; a message that [Ksock.TrySend]
// left waiting makes Send fail with ErrSendPending.
//
// Errors, by R3.8: ErrReadOnly, ErrSendPending, ErrNameTooLong, ErrInvalid
// (empty name, contradicting flags), ErrTooLong, ErrBadName, ErrNoReplyRoom,
// ErrNoReplier, ErrAskerGone, ErrNotAsked, ErrQueueFull, ErrReplierChanged;
// ErrNoMemory; and ctx's cause. A Request that fails after it has waited is
// not an error of Send: a Status answers it (R5.6).
func (k *Ksock) Send(ctx context.Context, m *Message) (MessageID, error) {
	id, err := k.deliver(ctx, &m.Header, m.Data, nil)
	return id, k.sendError("send", &m.Header, err)
}

// TrySend sends a message without waiting. A message flagged [AllOrWait] that
// finds a queue full stays in the Ksock (ErrWouldBlock): it goes out when the
// Ksock is waited on or polled, or by [Ksock.SendAgain], unless it is discarded;
// until then every other send fails with ErrSendPending (R6.5). Other errors:
// see [Ksock.Send].
func (k *Ksock) TrySend(m *Message) (MessageID, error) {
	id, err := k.transmit(&m.Header, m.Data, nil, nil)
	return id, k.sendError("send", &m.Header, err)
}

// SendBatch sends messages in their order, each as [Ksock.Send] would, and returns
// how many went out; an error is that of the next one. It is for many small
// messages at once: announcements of one name in a row come into the queues
// together, 64 at a time, and wake their readers once.
func (k *Ksock) SendBatch(ctx context.Context, ms []*Message) (sent int, err error) {
	for sent < len(ms) && err == nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		var n int
		var waits *waitingSend
		n, waits, err = k.transmitBatch(ms[sent:])
		sent += n
		switch {
		case waits != nil:
			if err = k.drain(ctx, waits); err == nil {
				sent++
			}
		case err == error(unix.EALREADY):
			if again, cause := k.behind(ctx); cause != nil || again {
				err = cause
			}
		}
	}
	if err != nil {
		err = k.sendError("send", &ms[sent].Header, err)
	}
	return sent, err
}

// transmitBatch hands messages to the bus. If one then waits in this Ksock, waits is
// what those behind it wait for.
func (k *Ksock) transmitBatch(ms []*Message) (n int, waits *waitingSend, err error) {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return 0, nil, k.end
	}
	n, err = k.c.SendBatch(len(ms), func(i int) (*Header, []byte) { return &ms[i].Header, ms[i].Data })
	if err == error(unix.EAGAIN) {
		waits = &waitingSend{over: make(chan struct{}), id: k.c.LastSent()}
		k.sending = waits
	}
	return n, waits, err
}

// Relay sends a message that comes from another bus, as a Limpet does. It never
// waits, since [AllOrWait] acts as [AllOrFail] does (R8.5), and the message's flag
// stays. With copy, the message has answered or asked somebody on its own bus: it
// reaches the Listeners here as it is and creates no obligation, whatever its flags
// and InReplyTo say (R8.9). The Ksock itself, if it listens, needs room as any other
// but gets no copy: it would have to drop it (R8.4). Errors: see [Ksock.Send].
func (k *Ksock) Relay(h *Header, data []byte, copy bool) (MessageID, error) {
	return k.relay(h, data, nil, copy)
}

// RelayLoan is to [Ksock.Relay] as [Ksock.SendLoan] is to [Ksock.Send].
func (k *Ksock) RelayLoan(h *Header, l Loan, copy bool) (MessageID, error) {
	return k.relay(h, nil, &l, copy)
}

func (k *Ksock) relay(h *Header, data []byte, l *Loan, copy bool) (id MessageID, err error) {
	k.c.Sending.Lock()
	switch {
	case k.end != nil:
		err = k.end
	case l == nil:
		id, err = k.c.Relay(h, data, copy)
	case !l.of(k):
		err = &detail{ErrInvalid.(*condition), errUsedUp}
	default:
		if id, err = k.c.RelayLoan(h, &l.l.l, copy); err == nil {
			k.usedUp(l.l)
		}
	}
	k.c.Sending.Unlock()
	return id, k.sendError("relay", h, err)
}

// SendAgain tries the message that waits in this Ksock once more (R6.5). Its
// failure is returned and ends the waiting, but for ErrWouldBlock.
// ErrNothingToSend: no message is waiting.
func (k *Ksock) SendAgain() (MessageID, error) {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return MessageID{}, k.fail("send again", "", forOther, k.end)
	}
	id, err := k.c.SendAgain()
	if err != error(unix.EAGAIN) && err != error(unix.ENOMSG) && k.sending != nil {
		k.sending.decide(err)
	}
	return id, k.fail("send again", "", forOther, err)
}

// Discard drops the message that waits in this Ksock, if there is one (R6.5). If
// a goroutine waits in [Ksock.Send] for it, that fails with ErrDiscarded.
func (k *Ksock) Discard() error {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return k.fail("discard", "", forOther, k.end)
	}
	if k.sending == nil {
		k.c.Discard()
	} else if k.c.Withdraw(k.sending.id) {
		k.sending.decide(ErrDiscarded)
	}
	return nil
}

// Poll tells, without waiting, whether there is something to read and whether
// there is nothing that waits to be sent (R3.4); it tries to send that first.
func (k *Ksock) Poll() (readable, writable bool, err error) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return false, false, k.fail("poll", "", forOther, k.end)
	}
	readable, writable, err = k.c.Poll()
	return readable || len(k.kept) > 0, writable, k.fail("poll", "", forOther, err)
}

// WaitWritable waits until no message waits in this Ksock, trying to send it
// whenever there is a chance (R6.5, R6.6). A read-only Ksock never is writable.
func (k *Ksock) WaitWritable(ctx context.Context) error {
	err := k.wait(func() error { return k.c.WaitWritable(ctx, k.spin) })
	return k.fail("wait to send", "", forOther, err)
}

// waitingSend is a Send that waits until its message has left the Ksock.
type waitingSend struct {
	over chan struct{} // closed when it has, or was given up
	id   MessageID

	// What somebody else has made of it, guarded by Sending.
	decided bool
	err     error
	wake    context.CancelFunc // nil: not waiting yet
}

// decide ends the waiting. Sending is held.
func (w *waitingSend) decide(err error) {
	w.decided, w.err = true, err
	if w.wake != nil {
		w.wake()
	}
}

// transmit hands a message to the bus, with a copy of data or, if l is not nil,
// with the data of a Loan. If it then waits in this Ksock, sending is what those
// behind it wait for; nil for TrySend.
func (k *Ksock) transmit(h *Header, data []byte, l *Loan, sending *waitingSend) (id MessageID, err error) {
	k.c.Sending.Lock()
	switch {
	case k.end != nil:
		err = k.end
	case l != nil:
		id, err = k.sendLoan(h, *l)
	default:
		id, err = k.c.Send(h, data)
	}
	if err == error(unix.EAGAIN) {
		if k.sending = sending; sending != nil {
			sending.id = id
		}
	}
	k.c.Sending.Unlock()
	return id, err
}

// sendLoan sends what is in place. Sending is held.
func (k *Ksock) sendLoan(h *Header, l Loan) (MessageID, error) {
	if !l.of(k) {
		return MessageID{}, &detail{ErrInvalid.(*condition), errUsedUp}
	}
	id, err := k.c.SendLoan(h, &l.l.l)
	if err == nil || err == error(unix.EAGAIN) {
		k.usedUp(l.l)
	}
	return id, err
}

var errUsedUp = errors.New("the Loan is used up, or another Ksock's")

// deliver is transmit, and the waiting that it may need.
func (k *Ksock) deliver(ctx context.Context, h *Header, data []byte, l *Loan) (MessageID, error) {
	sending := mayWait(h)
	for {
		if ctx.Err() != nil {
			return MessageID{}, context.Cause(ctx)
		}
		id, err := k.transmit(h, data, l, sending)
		switch {
		case err == error(unix.EALREADY):
			if waits, err := k.behind(ctx); err != nil || !waits {
				return id, errOr(err, unix.EALREADY)
			}
		case err == error(unix.EAGAIN) && sending != nil:
			return id, k.drain(ctx, sending)
		default:
			return id, err
		}
	}
}

// mayWait prepares for a message that may have to wait; nil if it can't.
func mayWait(h *Header) *waitingSend {
	if h.Flags&AllOrWait == 0 {
		return nil
	}
	return &waitingSend{over: make(chan struct{})}
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// behind waits until another goroutine's Send is over; false if none waits.
func (k *Ksock) behind(ctx context.Context) (bool, error) {
	k.c.Sending.Lock()
	sending := k.sending
	k.c.Sending.Unlock()
	if sending == nil {
		return false, nil
	}
	select {
	case <-sending.over:
		return true, nil
	case <-k.life.Done():
		return true, nil // the next try says why
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// drain waits until this goroutine's message has left the Ksock; the end of ctx
// discards it.
func (k *Ksock) drain(ctx context.Context, sending *waitingSend) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	k.c.Sending.Lock()
	sending.wake = cancel
	decided := sending.decided
	k.c.Sending.Unlock()
	var err error
	if !decided {
		err = k.wait(func() error { return k.c.WaitWritable(waiting, k.spin) })
	}
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.sending == sending { // else the next message waits already
		k.sending = nil
	}
	close(sending.over)
	switch {
	case sending.decided:
		return sending.err
	case err != nil && k.end == nil && !k.c.Withdraw(sending.id):
		return nil // it went out just before
	}
	return err
}

func (k *Ksock) sendError(op string, h *Header, err error) error {
	if err == nil {
		return nil
	}
	as := forOther
	if h.InReplyTo != (MessageID{}) {
		as = forReply
	}
	err = k.fail(op, h.Name, as, err)
	if h.Flags&WantReply != 0 || as == forReply { // else it is for whoever listens, whatever To says
		err.(*Error).Peer = h.To
	}
	return err
}

// LastSent is the id of the last message that this Ksock sent or tried to send,
// the zero id before the first (R3.7, R3.8).
func (k *Ksock) LastSent() (MessageID, error) {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return MessageID{}, k.fail("ask for the last message sent", "", forOther, k.end)
	}
	return k.c.LastSent(), nil
}

// Pending tells whether a message waits in this Ksock (R6.5). It does not try to send it.
func (k *Ksock) Pending() bool {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	return k.end == nil && k.c.Waiting()
}
