package ksock

import (
	"context"

	"kbus.internal/ring"
)

// A Loan is memory of the bus, to be filled in place and sent (R9.1). It is one
// goroutine's at a time. Whoever has it sends or releases it.
type Loan struct {
	l *ring.Loan
	k *Ksock
}

// Loan lends size bytes of the bus's memory for a message's data. What they
// hold is not specified. Errors: ErrNoMemory, ErrTooLong, ErrReadOnly, ErrClosed.
func (k *Ksock) Loan(size int) (Loan, error) {
	k.smu.Lock()
	if k.end != nil {
		k.smu.Unlock()
		return Loan{}, k.fail("loan", "", forOther, k.end)
	}
	l, err := k.c.Loan(size)
	if err == nil {
		k.refs.Add(1)
	}
	k.smu.Unlock()
	if err != nil {
		return Loan{}, k.fail("loan", "", forOther, err)
	}
	return Loan{l, k}, nil
}

// Data is the memory lent: valid until the Loan is sent or released.
func (l Loan) Data() []byte { return l.l.Data() }

// Release gives the memory back unsent. The Loan must not be used after that.
func (l Loan) Release() {
	l.l.Release()
	l.k.unref()
}

// SendLoan sends the message of header h whose data is the Loan's: no byte of
// the data is copied, whatever its size and whoever gets it. It waits as
// [Ksock.Send] does, with the same errors. After success the Loan is used up,
// and after ctx ended a wait; after any other error it is still the caller's.
func (k *Ksock) SendLoan(ctx context.Context, h *Header, l Loan) (MessageID, error) {
	id, err := k.deliver(ctx, outgoing{h: h, loan: l.l})
	return id, k.sendError("send", h, err)
}

// TrySendLoan is to [Ksock.TrySend] as [Ksock.SendLoan] is to [Ksock.Send]. After
// ErrWouldBlock the Loan is used up: the message waits in the Ksock.
func (k *Ksock) TrySendLoan(h *Header, l Loan) (MessageID, error) {
	id, err := k.transmit(outgoing{h: h, loan: l.l}, nil)
	return id, k.sendError("send", h, err)
}

// A View is a message received, read where it lies in the bus's memory (R9.1).
// It does not change until it is released; the memory is of use to nobody else
// so long. It may be handed to another goroutine, and is released once.
type View struct {
	t taken
}

// View takes the first message of the queue in place, waiting for one if there
// is none. Errors: those of [Ksock.Next].
func (k *Ksock) View(ctx context.Context) (View, error) {
	t, err := k.next(ctx)
	if err != nil {
		return View{}, k.fail("receive", "", forOther, err)
	}
	return View{t}, nil
}

// TryView takes the first message of the queue in place; false if there is none.
func (k *Ksock) TryView() (View, bool, error) {
	t, err := k.tryNext()
	if err != nil {
		return View{}, false, k.fail("receive", "", forOther, err)
	}
	return View{t}, !t.none(), nil
}

// Header is the message's header. Its Name may be kept beyond Release.
func (v View) Header() Header {
	if v.t.m == nil {
		return v.t.kept.Header
	}
	return v.t.m.Header()
}

// Data is the message's data in place: valid until Release, and not to be written to.
func (v View) Data() []byte {
	if v.t.m == nil {
		return v.t.kept.Data
	}
	return v.t.m.Data()
}

// Message is a copy of the message that is the caller's own.
func (v View) Message() *Message {
	if v.t.m == nil {
		return v.t.kept.Clone()
	}
	return copyOf(v.t.m)
}

// MustReply tells whether whoever read this copy is to reply to it.
func (v View) MustReply() bool {
	h := v.Header()
	return h.Flags&(WantReply|MustReply) == WantReply|MustReply
}

// Release gives the memory back. The View must not be used after that.
func (v View) Release() {
	if v.t.m != nil {
		v.t.m.Release()
		v.t.k.unref()
	}
}
