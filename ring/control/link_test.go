package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/shm/handoff"
	"kbus.internal/shm/shmtest"
)

// fake is a supervisor of one Ksock that does what a test tells it.
type fake struct {
	t      *testing.T
	socket string
	l      *handoff.Listener
	c      *handoff.Conn
	bound  map[binding]uint32
	files  int // descriptors that came with reattach
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, socket: filepath.Join(t.TempDir(), "socket"), bound: map[binding]uint32{}}
	f.listen()
	t.Cleanup(f.die)
	return f
}

func (f *fake) listen() {
	f.t.Helper()
	var err error
	if f.l, err = handoff.Listen(f.socket, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// die ends the connection and the listener, as the death of the process does.
func (f *fake) die() {
	f.drop()
	f.l.Close()
}

func (f *fake) drop() {
	if f.c != nil {
		f.c.Close()
	}
	f.c = nil
}

// next waits for a request, on a new connection if there is none.
func (f *fake) next() *Request {
	f.t.Helper()
	for {
		if f.c == nil {
			c, err := f.l.Accept(f.t.Context())
			if err != nil {
				f.t.Error(err)
				return &Request{}
			}
			f.c = c
		}
		b, files, err := f.c.Receive(f.t.Context(), make([]byte, MaxRequest))
		if err != nil { // the Ksock gave it up
			f.drop()
			continue
		}
		f.files += len(files)
		closeAll(files)
		r, err := ParseRequest(b)
		if err != nil {
			f.t.Error(err)
		}
		return r
	}
}

func (f *fake) answer(a Answer, files ...*os.File) {
	f.t.Helper()
	b, err := a.Append(nil)
	if err != nil {
		f.t.Error(err)
	}
	if err := f.c.Send(f.t.Context(), b, files...); err != nil {
		f.t.Error(err)
	}
}

// serve answers one request as a supervisor would, and returns it; if lose is
// set it carries it out and dies instead of answering.
func (f *fake) serve(lose bool) *Request {
	f.t.Helper()
	r := f.next()
	a := Answer{Op: r.Op, Number: r.Number}
	key := binding{r.Name, r.Replier}
	switch r.Op {
	case OpOpen:
		region, err := os.Open(os.DevNull)
		if err != nil {
			f.t.Fatal(err)
		}
		defer region.Close()
		a.Slot, a.Ksock, a.Token = 1, 7, Token{1}
		f.answer(a, region)
		return r
	case OpReattach:
		if r.Slot != 1 || r.Ksock != 7 || r.Token != (Token{1}) || f.files != 1 {
			f.t.Errorf("reattach with %d descriptors: %+v", f.files, r)
		}
		f.files = 0
		a.Slot, a.Ksock, a.Token = 1, 7, Token{1}
	case OpBind:
		f.bound[key]++
	case OpUnbind:
		f.bound[key]--
	case OpBound:
		a.Value = f.bound[key]
	default:
		a.Value = r.Value
	}
	if lose {
		f.drop()
	} else {
		f.answer(a)
	}
	return r
}

// open opens the Ksock.
func (f *fake) open() *Link {
	f.t.Helper()
	got := make(chan *Link)
	go func() {
		l, err := Open(f.t.Context(), f.socket, 0, false)
		if err != nil {
			f.t.Error(err)
		}
		got <- l
	}()
	f.serve(false)
	l := <-got
	f.t.Cleanup(func() { l.end(os.ErrClosed) }) // without waiting for an answer
	return l
}

type result struct {
	a   *Answer
	err error
}

func (f *fake) call(l *Link, ctx context.Context, r Request) chan result {
	got := make(chan result, 1)
	go func() {
		a, err := l.Call(ctx, &r)
		got <- result{a, err}
	}()
	return got
}

func (f *fake) expect(want Op, lose bool) *Request {
	f.t.Helper()
	r := f.serve(lose)
	if r.Op != want {
		f.t.Fatalf("asked for %v, want %v", r.Op, want)
	}
	return r
}

// R9.4: a bind or unbind whose answer is lost is carried out exactly once,
// whether or not the supervisor had done it before it died.
func TestCutOffBind(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, op := range []Op{OpBind, OpUnbind} {
		for _, done := range []bool{false, true} {
			f := newFake(t)
			l := f.open()
			key := binding{"$.A", true}
			before := f.call(l, t.Context(), Request{Op: OpBind, Name: key.name, Replier: key.replier})
			f.expect(OpBind, false)
			if r := <-before; r.err != nil {
				t.Fatal(r.err)
			}
			want := uint32(2)
			if op == OpUnbind {
				want = 0
			}
			got := f.call(l, t.Context(), Request{Op: op, Name: key.name, Replier: key.replier})
			if done {
				f.expect(op, true)
			} else if r := f.next(); r.Op == op { // dies with the request unread, as it were
				f.drop()
			}
			f.die()
			f.listen()
			f.expect(OpReattach, false)
			f.expect(OpBound, false)
			if !done {
				f.expect(op, false)
			}
			if r := <-got; r.err != nil || f.bound[key] != want {
				t.Errorf("%v, done %v: bound %d times, want %d; %v", op, done, f.bound[key], want, r.err)
			}
		}
	}
}

// A bind that was given up may have been done: the next one asks first.
func TestGivenUpBind(t *testing.T) {
	f := newFake(t)
	l := f.open()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	got := f.call(l, ctx, Request{Op: OpBind, Name: "$.A"})
	r := f.next()
	cancel(why)
	if r := <-got; !errors.Is(r.err, why) {
		t.Fatal(r.err)
	}
	f.bound[binding{"$.A", false}]++
	f.answer(Answer{Op: r.Op, Number: r.Number}) // too late: nobody's
	got = f.call(l, t.Context(), Request{Op: OpBind, Name: "$.A"})
	f.expect(OpBound, false)
	f.expect(OpBind, true)
	f.expect(OpReattach, false)
	f.expect(OpBound, false)
	if r := <-got; r.err != nil || f.bound[binding{"$.A", false}] != 2 {
		t.Errorf("%v, bound %d times", r.err, f.bound[binding{"$.A", false}])
	}
}

// What can't be told apart from its repetition is repeated; a switch is not.
func TestCutOffOthers(t *testing.T) {
	f := newFake(t)
	l := f.open()
	for _, r := range []Request{{Op: OpMaxMessages, Value: 7}, {Op: OpMessageSize, Value: 200}, {Op: OpOnlyOnce, Value: Ask}} {
		got := f.call(l, t.Context(), r)
		f.expect(r.Op, true)
		f.expect(OpReattach, false)
		f.expect(r.Op, false)
		if g := <-got; g.err != nil || g.a.Value != r.Value {
			t.Errorf("%v: %+v %v", r.Op, g.a, g.err)
		}
	}
	for _, r := range []Request{{Op: OpOnlyOnce, Value: On}, {Op: OpReports, Value: Off}} {
		got := f.call(l, t.Context(), r)
		f.expect(r.Op, true)
		f.expect(OpReattach, false)
		if g := <-got; !errors.Is(g.err, ErrLost) {
			t.Errorf("%v: %v", r.Op, g.err)
		}
	}
}

// A refusal is an answer: it is not repeated, and tells errno and text.
func TestRefusal(t *testing.T) {
	f := newFake(t)
	l := f.open()
	got := f.call(l, t.Context(), Request{Op: OpBind, Name: "$.A", Replier: true})
	r := f.next()
	f.answer(Answer{Op: r.Op, Number: r.Number, Errno: unix.EADDRINUSE, Text: "Ksock 3 replies to $.A"})
	if g := <-got; !errors.Is(g.err, unix.EADDRINUSE) || g.err.Error() != "Ksock 3 replies to $.A" {
		t.Error(g.err)
	}
	// The supervisor's last word ends the Ksock; it looks for no other supervisor.
	f.answer(Answer{Errno: unix.ESHUTDOWN, Text: "going down"})
	<-l.Done()
	if err := l.Err(); !errors.Is(err, unix.ESHUTDOWN) || err.Error() != "going down" {
		t.Error(err)
	}
	if _, err := l.Call(t.Context(), &Request{Op: OpMaxMessages}); !errors.Is(err, unix.ESHUTDOWN) {
		t.Error(err)
	}
}

// The next supervisor does not know the Ksock, or has no descriptor for it right now.
func TestReattachRefused(t *testing.T) {
	f := newFake(t)
	l := f.open()
	f.drop()
	for _, e := range []unix.Errno{unix.EMFILE, unix.EAGAIN, unix.ESTALE} {
		r := f.next()
		if r.Op != OpReattach {
			t.Fatalf("asked for %v", r.Op)
		}
		f.answer(Answer{Op: r.Op, Number: r.Number, Errno: e, Text: e.Error()})
	}
	<-l.Done()
	if err := l.Err(); !errors.Is(err, unix.ESTALE) {
		t.Error(err)
	}
}

// Close tells the supervisor that the region is let go of; without a
// supervisor the next one that answers is told (R9.4).
func TestLinkClose(t *testing.T) {
	shmtest.CheckFiles(t)
	f := newFake(t)
	l := f.open()
	closed := make(chan error)
	go func() { closed <- l.Close() }()
	if r := f.expect(OpClose, false); r.Value != 1 {
		t.Errorf("%+v", r)
	}
	if err := <-closed; err != nil || !errors.Is(l.Err(), os.ErrClosed) {
		t.Errorf("%v, %v", err, l.Err())
	}
	f.drop()

	l = f.open()
	f.die()
	f.l = nil
	waiting := f.call(l, t.Context(), Request{Op: OpMaxMessages})
	if err := l.Close(); err != nil { // returns though nobody is there
		t.Error(err)
	}
	f.listen()
	// The next supervisor, too, dies before it has done it; the one after does it.
	f.expect(OpReattach, false)
	f.expect(OpClose, true)
	f.expect(OpReattach, false)
	if r := f.expect(OpClose, false); r.Value != 1 {
		t.Errorf("%+v", r)
	}
	if _, _, err := f.c.Receive(t.Context(), make([]byte, MaxRequest)); err == nil {
		t.Error("a closed Ksock goes on asking")
	}
	<-l.Done()
	if g := <-waiting; !errors.Is(g.err, os.ErrClosed) {
		t.Errorf("waiting call: %v", g.err)
	}
}

// An answer that is no frame ends the connection; so does one of another version.
func TestBadAnswers(t *testing.T) {
	good, err := (&Answer{Op: OpMaxMessages, Number: 1}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte{}, good...)
	other[4] = 2
	for name, tc := range map[string]struct {
		frame []byte
		want  error
	}{"garbage": {[]byte("hello"), ErrFrame}, "cut": {good[:30], ErrFrame}, "version": {other, unix.EPROTONOSUPPORT}} {
		f := newFake(t)
		c, err := Dial(t.Context(), f.socket)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, _, err := c.Call(t.Context(), &Request{Op: OpBuses}, nil)
			got <- err
		}()
		f.next()
		if err := f.c.Send(t.Context(), tc.frame); err != nil {
			t.Fatal(err)
		}
		if err := <-got; !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

func TestDefaultSocket(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/5")
	if s := DefaultSocket(); s != "/run/user/5/kbus/socket" {
		t.Error(s)
	}
	for _, dir := range []string{"", "relative"} {
		t.Setenv("XDG_RUNTIME_DIR", dir)
		if s := DefaultSocket(); !filepath.IsAbs(s) || filepath.Base(s) != "socket" {
			t.Error(s)
		}
	}
}
