package ksock

import (
	"context"
	"errors"
	"iter"

	"kbus.internal/ring"
)

// Next takes the first message of the queue, waiting for one if there is none;
// the Message is the caller's own copy. Errors: ErrClosed, ErrGone, ErrCorrupt,
// ENOBUFS if more than a thousand Views are held, ctx's cause.
func (k *Ksock) Next(ctx context.Context) (*Message, error) {
	v, err := k.next(ctx)
	if err != nil {
		return nil, k.fail("receive", "", forOther, err)
	}
	return v.own(), nil
}

// TryNext takes the first message of the queue; nil if there is none. The
// Message is the caller's own copy.
func (k *Ksock) TryNext() (*Message, error) {
	v, err := k.tryNext()
	if err != nil || v.t == nil {
		return nil, k.fail("receive", "", forOther, err)
	}
	return v.own(), nil
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

// tryNext takes the first message; a View of nothing if there is none.
func (k *Ksock) tryNext() (View, error) {
	k.c.Reading.Lock()
	v, err := k.take()
	k.c.Reading.Unlock()
	k.file.refresh(k)
	return v, err
}

// take takes the first message that answers no Call. Reading is held.
func (k *Ksock) take() (View, error) {
	if k.end != nil {
		return View{}, k.end
	}
	var t *taken
	if n := len(k.free); n > 0 {
		t, k.free = k.free[n-1], k.free[:n-1]
	} else {
		t = &taken{k: k}
	}
	if len(k.kept) > 0 {
		t.kept, k.kept[0] = k.kept[0], nil
		k.kept = k.kept[1:]
		k.views++
		return View{t, t.turn}, nil
	}
	for {
		ok, err := k.c.Take(&t.m)
		if err != nil || !ok {
			k.free = append(k.free, t)
			return View{}, err
		}
		if len(k.calls) == 0 || !k.answer(&t.m) {
			k.views++
			return View{t, t.turn}, nil
		}
	}
}

// next is tryNext with waiting.
func (k *Ksock) next(ctx context.Context) (v View, err error) {
	k.c.Reading.Lock()
	// A Call that leads wakes up for readers only, so the look that finds nothing
	// comes after this one is counted.
	k.readers++
	for waited := false; ; waited = true {
		if waited || k.end != nil || len(k.kept) > 0 || k.c.Any() {
			if v, err = k.take(); err != nil || v.t != nil {
				break
			}
		}
		if err = k.lead(ctx, ofReaders, k.arrive); err != nil {
			break
		}
	}
	k.readers--
	k.handOn()
	k.c.Reading.Unlock()
	k.file.refresh(k)
	return v, err
}

// followers are goroutines that wait for the leader to hand on.
type followers struct {
	n    int
	turn chan struct{}
}

const (
	ofReaders = iota
	ofCalls
)

// handOn has another lead who waits to, if nobody does. Reading is held.
func (k *Ksock) handOn() {
	for i := range k.followers {
		if f := &k.followers[i]; f.n > 0 && !k.leading {
			select {
			case f.turn <- struct{}{}:
			default:
			}
			return
		}
	}
}

// lead waits in the bus by wait, or until whoever leads hands on. Reading is held,
// but not while it waits. The caller looks again for what it waits for, and calls
// handOn when it has ended.
func (k *Ksock) lead(ctx context.Context, of int, wait func(context.Context) error) (err error) {
	switch {
	case k.end != nil:
		return k.end
	case k.leading || of == ofCalls && k.readers > 0:
		k.handOn()
		f := &k.followers[of]
		f.n++
		k.c.Reading.Unlock()
		select {
		case <-f.turn:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-k.life.Done():
		}
		k.c.Reading.Lock()
		f.n--
		return err
	}
	k.leading = true
	k.waits.Add(1)
	k.c.Reading.Unlock()
	err = wait(ctx)
	k.c.Reading.Lock()
	k.waits.Done()
	k.leading = false
	if k.end != nil {
		return k.end
	}
	return err
}

// arrive waits until there is something to read.
func (k *Ksock) arrive(ctx context.Context) error {
	if ctx.Done() == nil {
		return k.c.WaitReadable(ctx, k.spin)
	}
	k.heeded.heed(ctx, k)
	return k.c.WaitReadable(&k.heeded, k.spin)
}

// nudge wakes the leader.
func (k *Ksock) nudge() {
	k.wait(func() error {
		k.c.Nudge()
		return nil
	})
}

// heeded is the context of the last wait. Its end wakes the leader by a function
// that stays registered when the wait is over: whoever waits with one context
// again and again allocates nothing for it. Done is nil, so that the bus does
// not register another. The leader's, within a wait; then whoever ends the Ksock's.
type heeded struct {
	context.Context
	done <-chan struct{}
	stop func() bool
}

func (h *heeded) Done() <-chan struct{} { return nil }

func (h *heeded) heed(ctx context.Context, k *Ksock) {
	h.Context = ctx
	if h.done == ctx.Done() {
		return
	}
	h.ignore()
	h.done, h.stop = ctx.Done(), context.AfterFunc(ctx, k.nudge)
}

func (h *heeded) ignore() {
	if h.stop != nil {
		h.stop()
	}
}

// WaitReadable waits until there is something to read (R3.4).
func (k *Ksock) WaitReadable(ctx context.Context) error {
	k.c.Reading.Lock()
	kept := len(k.kept)
	k.c.Reading.Unlock()
	if kept > 0 {
		return nil
	}
	err := k.wait(func() error { return k.c.WaitReadable(ctx, k.spin) })
	return k.fail("wait", "", forOther, err)
}

// Unread is the number of unread messages, with those that are kept aside for
// the Ksock (R3.7, R7.4), and those that a [Ksock.Call] has passed by.
func (k *Ksock) Unread() (int, error) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for unread messages", "", forOther, k.end)
	}
	return k.c.Unread() + len(k.kept), nil
}

// Unreplied is the number of Requests that this Ksock has read as Replier and
// not answered (R3.7).
func (k *Ksock) Unreplied() (int, error) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for unanswered Requests", "", forOther, k.end)
	}
	return k.c.Unreplied(), nil
}

// taken is a message taken from the queue, in place or copied by a Call. It is
// used again when it is released; turn tells the uses apart. Guarded by Reading, but
// for reading what it holds between take and release.
type taken struct {
	k    *Ksock
	turn uint64
	m    ring.Message
	kept *Message
}

// A View is a message received, read where it lies in the bus's memory (R9.1).
// It does not change until it is released; so long the memory is of use to nobody
// else. It may be copied and handed on, and is released once; afterwards it is empty.
type View struct {
	t    *taken
	turn uint64
}

// View takes the first message of the queue in place, waiting for one if there
// is none. Errors: those of [Ksock.Next].
func (k *Ksock) View(ctx context.Context) (View, error) {
	v, err := k.next(ctx)
	if err != nil {
		return View{}, k.fail("receive", "", forOther, err)
	}
	return v, nil
}

// TryView takes the first message of the queue in place; false if there is none.
func (k *Ksock) TryView() (View, bool, error) {
	v, err := k.tryNext()
	if err != nil {
		return View{}, false, k.fail("receive", "", forOther, err)
	}
	return v, v.t != nil, nil
}

// Header is the message's header. It may be kept beyond Release.
func (v View) Header() Header {
	switch {
	case v.t == nil || v.t.turn != v.turn:
		return Header{}
	case v.t.kept != nil:
		return v.t.kept.Header
	}
	return v.t.m.Header
}

// Data is the message's data in place: valid until Release, and not to be written to.
func (v View) Data() []byte {
	switch {
	case v.t == nil || v.t.turn != v.turn:
		return nil
	case v.t.kept != nil:
		return v.t.kept.Data
	}
	return v.t.m.Data()
}

// Message is a copy of the message that is the caller's own.
func (v View) Message() *Message {
	return &Message{Header: v.Header(), Data: append([]byte(nil), v.Data()...)}
}

// MustReply tells whether whoever read this copy is to reply to it.
func (v View) MustReply() bool {
	h := v.Header()
	return h.Flags&(WantReply|MustReply) == WantReply|MustReply
}

// Release gives the memory back. Only the first Release of a View counts.
func (v View) Release() {
	if v.t == nil {
		return
	}
	k := v.t.k
	k.c.Reading.Lock()
	last := v.release()
	k.c.Reading.Unlock()
	if last {
		k.finish()
	}
}

// release is Release with Reading held; it tells whether the Ksock is closed and
// waited for this View.
func (v View) release() (last bool) {
	t := v.t
	if t.turn != v.turn {
		return false
	}
	k := t.k
	t.turn++
	if t.kept == nil {
		t.m.Release()
	}
	t.kept = nil
	k.free = append(k.free, t)
	k.views--
	return k.views == 0 && k.end != nil
}

// ViewBatch takes what there is in the queue, up to len(vs) messages, in place and
// in one go, waiting for the first. It fills vs from the front and returns how many
// there are; they are to be released, also if an error comes with them. Errors:
// those of [Ksock.Next].
func (k *Ksock) ViewBatch(ctx context.Context, vs []View) (n int, err error) {
	if len(vs) == 0 {
		return 0, nil
	}
	if vs[0], err = k.View(ctx); err != nil {
		return 0, err
	}
	k.c.Reading.Lock()
	for n = 1; n < len(vs); n++ {
		if vs[n], err = k.take(); err != nil || vs[n].t == nil {
			break
		}
	}
	k.c.Reading.Unlock()
	k.file.refresh(k)
	return n, k.fail("receive", "", forOther, err)
}

// ReleaseAll releases Views of one Ksock in one go.
func (k *Ksock) ReleaseAll(vs []View) {
	last := false
	k.c.Reading.Lock()
	for _, v := range vs {
		if v.t != nil && v.t.k == k && v.release() {
			last = true
		}
	}
	k.c.Reading.Unlock()
	if last {
		k.finish()
	}
}

// own makes v the caller's own message and releases it.
func (v View) own() *Message {
	m := v.t.kept
	if m == nil {
		m = v.Message()
	}
	v.Release()
	return m
}

func copyOf(m *ring.Message) *Message {
	return &Message{Header: m.Header, Data: append([]byte(nil), m.Data()...)}
}
