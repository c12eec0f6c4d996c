package ksock

import (
	"context"
	"errors"
	"iter"

	"kbus.internal/ring"
)

// Next takes the first message of the queue, waiting for one if there is none;
// the Message is the caller's own copy. Errors: ErrClosed, ErrGone, ErrCorrupt,
// ctx's cause.
func (k *Ksock) Next(ctx context.Context) (*Message, error) {
	t, err := k.next(ctx)
	if err != nil {
		return nil, k.fail("receive", "", forOther, err)
	}
	return t.own(), nil
}

// TryNext takes the first message of the queue; nil if there is none. The
// Message is the caller's own copy.
func (k *Ksock) TryNext() (*Message, error) {
	t, err := k.tryNext()
	if err != nil {
		return nil, k.fail("receive", "", forOther, err)
	}
	return t.own(), nil
}

// Messages gives the messages of the queue as they come, each the caller's own,
// until ctx ends, the Ksock is closed, or the loop is left. Then [Ksock.Err]
// tells why.
func (k *Ksock) Messages(ctx context.Context) iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for {
			m, err := k.Next(ctx)
			if err != nil {
				k.ends(err)
				return
			}
			if !yield(m) {
				k.ends(nil)
				return
			}
		}
	}
}

// Views is like [Ksock.Messages] with each message in place: a View is valid
// until the next turn of the loop, or its end, however that comes.
func (k *Ksock) Views(ctx context.Context) iter.Seq[View] {
	return func(yield func(View) bool) {
		for {
			v, err := k.View(ctx)
			if err != nil {
				k.ends(err)
				return
			}
			if !lend(v, yield) {
				k.ends(nil)
				return
			}
		}
	}
}

// lend releases v even if yield panics.
func lend(v View, yield func(View) bool) bool {
	defer v.Release()
	return yield(v)
}

// Err tells why the last loop over [Ksock.Messages] or [Ksock.Views] ended: nil
// if the loop was left or the Ksock closed, else the reason, such as ctx's cause.
func (k *Ksock) Err() error {
	if p := k.iterErr.Load(); p != nil {
		return *p
	}
	return nil
}

func (k *Ksock) ends(err error) {
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	k.iterErr.Store(&err)
}

// taken is what came from the queue: a message in place, one that a Call has
// copied before, or nothing.
type taken struct {
	m    *ring.Message
	kept *Message
	k    *Ksock
}

func (t taken) none() bool { return t.m == nil && t.kept == nil }

// own makes t the caller's own message and gives the place back; nil for nothing.
func (t taken) own() *Message {
	if t.m == nil {
		return t.kept
	}
	m := copyOf(t.m)
	t.m.Release()
	t.k.unref()
	return m
}

func copyOf(m *ring.Message) *Message {
	return &Message{Header: m.Header(), Data: append([]byte(nil), m.Data()...)}
}

// tryNext takes the first message. A message in place holds a reference.
func (k *Ksock) tryNext() (taken, error) {
	k.rmu.Lock()
	t, err := k.takeLocked()
	if t.m != nil {
		k.refs.Add(1)
	}
	k.rmu.Unlock()
	k.file.refresh(k)
	return t, err
}

// takeLocked takes the first message that answers no Call. rmu is held.
func (k *Ksock) takeLocked() (taken, error) {
	if k.end != nil {
		return taken{}, k.end
	}
	if len(k.kept) > 0 {
		m := k.kept[0]
		k.kept[0] = nil
		k.kept = k.kept[1:]
		return taken{kept: m, k: k}, nil
	}
	for {
		m, err := k.c.Take()
		if err != nil || m == nil {
			return taken{}, err
		}
		if len(k.calls) == 0 || !k.answer(m) {
			return taken{m: m, k: k}, nil
		}
	}
}

// next is tryNext with waiting. One goroutine at a time waits in the bus, the
// leader; the others wait for its turn.
func (k *Ksock) next(ctx context.Context) (taken, error) {
	if t, err := k.tryNext(); err != nil || !t.none() {
		return t, err
	}
	for {
		select {
		case k.lead <- struct{}{}:
		default:
			select {
			case k.lead <- struct{}{}:
			case <-ctx.Done():
				return taken{}, context.Cause(ctx)
			case <-k.life.Done():
				return taken{}, k.ended()
			}
		}
		// What a Call has kept does not make the queue readable: look first.
		t, err := k.tryNext()
		if err == nil && t.none() {
			err = k.wait(func() error { return k.c.WaitReadable(ctx, k.spin) })
		}
		<-k.lead
		if err != nil || !t.none() {
			return t, err
		}
		if t, err := k.tryNext(); err != nil || !t.none() {
			return t, err
		}
	}
}

// WaitReadable waits until there is something to read (R3.4).
func (k *Ksock) WaitReadable(ctx context.Context) error {
	if k.keeps() {
		return nil
	}
	err := k.wait(func() error { return k.c.WaitReadable(ctx, k.spin) })
	return k.fail("wait", "", forOther, err)
}

func (k *Ksock) keeps() bool {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	return len(k.kept) > 0
}

// Unread is the number of unread messages, with those that are kept aside for
// the Ksock (R3.7, R7.4), and those that a [Ksock.Call] has passed by.
func (k *Ksock) Unread() (int, error) {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for unread messages", "", forOther, k.end)
	}
	return k.c.Unread() + len(k.kept), nil
}

// Unreplied is the number of Requests that this Ksock has read as Replier and
// not answered (R3.7).
func (k *Ksock) Unreplied() (int, error) {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for unanswered Requests", "", forOther, k.end)
	}
	return k.c.Unreplied(), nil
}
