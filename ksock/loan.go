package ksock

import (
	"context"

	"kbus.internal/ring"
)

// loan is memory lent. It is used again after that; turn tells the uses apart.
// guarded by Sending, but for the memory itself.
type loan struct {
	k    *Ksock
	turn uint64
	l    ring.Loan
}

// A Loan is memory of the bus, to be filled in place and sent (R9.1). One
// goroutine at a time fills it; it is sent or released once, and empty afterwards.
type Loan struct {
	l    *loan
	turn uint64
}

// Loan lends size bytes of the bus's memory for a message's data. What they
// hold is not specified. Errors: ErrNoMemory, ErrTooLong, ErrReadOnly,
// ErrClosed, ENOBUFS if more than a thousand Loans are held.
func (k *Ksock) Loan(size int) (Loan, error) {
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	if k.end != nil {
		return Loan{}, k.fail("loan", "", forOther, k.end)
	}
	var l *loan
	if n := len(k.lent); n > 0 {
		l, k.lent = k.lent[n-1], k.lent[:n-1]
	} else {
		l = &loan{k: k}
	}
	if err := k.c.LoanInto(&l.l, size); err != nil {
		k.lent = append(k.lent, l)
		return Loan{}, k.fail("loan", "", forOther, err)
	}
	k.loans++
	return Loan{l, l.turn}, nil
}

// of tells whether l is k's and not used up. Sending is held.
func (l Loan) of(k *Ksock) bool { return l.l != nil && l.l.k == k && l.l.turn == l.turn }

// Data is the memory lent: valid until the Loan is sent or released.
func (l Loan) Data() []byte {
	if l.l == nil || l.l.turn != l.turn {
		return nil
	}
	return l.l.l.Data()
}

// Release gives the memory back unsent. It does nothing if the Loan was sent or
// released before.
func (l Loan) Release() {
	if l.l == nil {
		return
	}
	k := l.l.k
	k.c.Sending.Lock()
	if l.l.turn != l.turn {
		k.c.Sending.Unlock()
		return
	}
	l.l.l.Release()
	k.usedUp(l.l)
	last := k.loans == 0 && k.end != nil
	k.c.Sending.Unlock()
	if last {
		k.finish()
	}
}

// usedUp is the end of a Loan. Sending is held.
func (k *Ksock) usedUp(l *loan) {
	l.turn++
	k.lent = append(k.lent, l)
	k.loans--
}

// SendLoan sends the message of header h whose data is the Loan's: no byte of
// the data is copied, whatever its size and whoever gets it. It waits as
// [Ksock.Send] does, with the same errors. The Loan is used up by success, and
// by waiting, whatever came of that; after any other error it is still the caller's.
func (k *Ksock) SendLoan(ctx context.Context, h *Header, l Loan) (MessageID, error) {
	id, err := k.deliver(ctx, h, nil, &l)
	return id, k.sendError("send", h, err)
}

// TrySendLoan is to [Ksock.TrySend] as [Ksock.SendLoan] is to [Ksock.Send]. After
// ErrWouldBlock the Loan is used up: the message waits in the Ksock.
func (k *Ksock) TrySendLoan(h *Header, l Loan) (MessageID, error) {
	id, err := k.transmit(h, nil, &l, nil)
	return id, k.sendError("send", h, err)
}
