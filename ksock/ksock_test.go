package ksock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// Whoever waits when a Ksock is closed gets ErrClosed, and so does whoever comes later.
func TestCloseUnblocks(t *testing.T) {
	s := setStage(t)
	k := s.open()
	full := s.listener("$.F")
	full.holds(1)
	full.announce("$.F", "x")
	calls := map[string]func() error{
		"Next":         func() error { _, err := k.Next(s.ctx); return err },
		"View":         func() error { _, err := k.View(s.ctx); return err },
		"WaitReadable": func() error { return k.WaitReadable(s.ctx) },
		"Send":         func() error { _, err := k.Send(s.ctx, flagged(say("$.F", ""), ksock.AllOrWait)); return err },
		"Send behind":  func() error { _, err := k.Send(s.ctx, flagged(say("$.F", ""), ksock.AllOrWait)); return err },
		"WaitWritable": func() error { return k.WaitWritable(s.ctx) },
		"Messages loop": func() error {
			for range k.Messages(s.ctx) {
				t.Error("a message")
			}
			return nil
		},
	}
	var wg sync.WaitGroup
	for what, call := range calls {
		wg.Go(func() {
			err := call()
			if what == "Messages loop" {
				if err := k.Err(); err != nil {
					t.Errorf("Err after Close: %v", err)
				}
				return
			}
			if !errors.Is(err, ksock.ErrClosed) || !errors.Is(err, os.ErrClosed) {
				if what != "WaitWritable" { // may have come before the Send
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	for !k.Pending() {
		runtime.Gosched()
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()

	one := func(_ any, err error) error { return err }
	for what, err := range map[string]error{
		"Next": one(k.Next(s.ctx)), "TryNext": one(k.TryNext()), "Send": one(k.Send(s.ctx, say("$.A", ""))),
		"TrySend": one(k.TrySend(say("$.A", ""))), "SendAgain": one(k.SendAgain()), "Discard": k.Discard(),
		"Bind": k.Bind(s.ctx, "$.A", ksock.Listener), "Unbind": k.Unbind(s.ctx, "$.A", ksock.Listener),
		"Loan": one(k.Loan(1)), "Unread": one(k.Unread()), "Unreplied": one(k.Unreplied()), "LastSent": one(k.LastSent()),
		"Replier": one(k.Replier("$.A")), "MaxMessages": one(k.MaxMessages()), "SetMaxMessages": one(k.SetMaxMessages(s.ctx, 1)),
		"MaxMessageSize": one(k.MaxMessageSize()), "Call": one(k.Call(s.ctx, ask("$.A", ""))), "File": one(k.File()),
		"View": one(k.View(s.ctx)), "OnlyOnce": one(k.SetOnlyOnce(s.ctx, ksock.On)),
	} {
		if !errors.Is(err, ksock.ErrClosed) {
			t.Errorf("%s of a closed Ksock: %v", what, err)
		}
	}
	if k.Pending() {
		t.Error("a send is pending in a closed Ksock")
	}
}

// The last Ksock of a process on its bus is closed, and its mapping goes, while
// others are in the middle of its methods.
func TestCloseUnderLoad(t *testing.T) {
	s := setStage(t)
	for range 8 {
		k := s.listener("$.A")
		f := value(s, k.File)
		var wg sync.WaitGroup
		for _, call := range []func() error{
			func() error { _, err := k.Next(s.ctx); return err },
			func() error { _, err := k.Next(s.ctx); return err },
			func() error { _, err := k.TryNext(); return err },
			func() error { v, _, err := k.TryView(); v.Release(); return err },
			func() error { _, err := k.TrySend(say("$.A", "x")); return err },
			func() error { return k.WaitReadable(s.ctx) },
			func() error { _, _, err := k.Poll(); return err },
			func() error {
				l, err := k.Loan(10)
				copy(l.Data(), "in place")
				l.Release()
				return err
			},
			func() error { f, err := k.File(); f.Close(); return err },
		} {
			wg.Go(func() {
				for {
					if err := call(); err != nil {
						if !errors.Is(err, ksock.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		for range 3 {
			if _, err := f.Read(make([]byte, 8)); err != nil {
				t.Error(err)
			}
		}
		k.Close()
		wg.Wait()
		f.Close()
	}
}

// The end of a context ends each wait, with its cause, and leaves the Ksock usable.
func TestCancelling(t *testing.T) {
	s := setStage(t)
	k, full := s.open(), s.listener("$.F", "$.R")
	r := s.replier("$.R")
	full.holds(1)
	full.announce("$.F", "x")
	cause := errors.New("curtain")
	for what, call := range map[string]func(context.Context) error{
		"Next":         func(ctx context.Context) error { _, err := k.Next(ctx); return err },
		"View":         func(ctx context.Context) error { _, err := k.View(ctx); return err },
		"WaitReadable": k.WaitReadable,
		"Send": func(ctx context.Context) error {
			_, err := k.Send(ctx, flagged(say("$.F", "y"), ksock.AllOrWait))
			return err
		},
		"Call": func(ctx context.Context) error { _, err := k.Call(ctx, ask("$.R", "")); return err },
		"Call, sending": func(ctx context.Context) error {
			_, err := k.Call(ctx, flagged(ask("$.R", ""), ksock.AllOrWait))
			return err
		},
	} {
		for _, before := range []bool{true, false} {
			ctx, cancel := context.WithCancelCause(s.ctx)
			if before {
				cancel(cause)
			}
			done := make(chan error)
			go func() { done <- call(ctx) }()
			for !before && (what == "Send" || what == "Call, sending") && !k.Pending() {
				runtime.Gosched()
			}
			for !before && what == "Call" && value(s, r.Unread) == 0 {
				runtime.Gosched()
			}
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("%s: %v", what, err)
			}
			s.want("pending after "+what, k.Pending(), false)
		}
	}
	full.hears("x")
	k.poll(false, true)
	// The Call's Request stands; its answer is dropped.
	r.reply(r.one(), "too late")
	k.hears()
}

// A Send that waits keeps its Ksock; other goroutines' Sends come after it.
func TestSendsWaitInLine(t *testing.T) {
	s := setStage(t)
	k, l := s.open(), s.listener("$.A")
	l.holds(1)
	l.announce("$.A", "x")
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := k.Send(s.ctx, flagged(say("$.A", fmt.Sprint(i)), ksock.AllOrWait)); err != nil {
				t.Error(err)
			}
		})
	}
	seen := map[string]bool{}
	for range n + 1 {
		m, err := l.Next(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(m.Data)] = true
	}
	wg.Wait()
	s.want("different messages", len(seen), n+1)
	l.hears()
}

// What somebody else does to a Send that waits is its outcome.
func TestSendGivenUpByOthers(t *testing.T) {
	s := setStage(t)
	k, r := s.open(), s.replier("$.R")
	r.holds(1)
	k.request("$.R", "x")
	for want, act := range map[error]func(){
		ksock.ErrDiscarded: func() { s.wantErr(k.Discard(), nil) },
		ksock.ErrNoReplyRoom: func() {
			k.holds(1)
			_, err := k.SendAgain()
			s.wantErr(err, ksock.ErrNoReplyRoom)
			k.holds(100)
		},
	} {
		sent := make(chan error)
		go func() {
			_, err := k.Send(s.ctx, flagged(ask("$.R", ""), ksock.AllOrWait))
			sent <- err
		}()
		for !k.Pending() {
			runtime.Gosched()
		}
		act()
		s.wantErr(<-sent, want)
	}
	r.hears("x")
}

// Each message is read by one of the goroutines that wait, and none is lost.
func TestManyReaders(t *testing.T) {
	s := setStage(t)
	k, l := s.open(), s.listener("$.A")
	l.holds(4096)
	const n = 2000
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				var data string
				if i%2 == 0 {
					m, err := l.Next(ctx)
					if err != nil {
						return
					}
					data = string(m.Data)
				} else {
					v, err := l.View(ctx)
					if err != nil {
						return
					}
					data = string(v.Data())
					v.Release()
				}
				mu.Lock()
				seen[data]++
				if len(seen) == n {
					stop()
				}
				mu.Unlock()
			}
		})
	}
	var senders sync.WaitGroup
	for i := range 4 {
		senders.Go(func() {
			for j := range n / 4 {
				if _, err := k.Send(s.ctx, flagged(say("$.A", fmt.Sprint(i, j)), ksock.AllOrWait)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	wg.Wait()
	for data, times := range seen {
		if times != 1 {
			t.Errorf("%s was read %d times", data, times)
		}
	}
	s.want("messages", len(seen), n)
}

// One process may have 256 Ksocks on a bus; they share one mapping of it.
func TestManyKsocks(t *testing.T) {
	s := setStageWith(t, supervisor.Options{Bus: ring.Config{ArenaBytes: 32 << 20, MaxMessageSize: 1 << 16}})
	var all []*actor
	for range 256 {
		all = append(all, s.listener("$.A"))
	}
	_, err := ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.socket})
	if err == nil {
		t.Error("there is room for more than 256 Ksocks")
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	// The supervisor in this process has one, all Ksocks together another.
	s.want("mappings", countRegions(string(maps)), 2)
	all[0].announce("$.A", "hello")
	for _, a := range all {
		a.hears("hello")
		a.Close()
	}
	s.listener("$.A")
}

// As many Ksocks as there can be on a bus: each hears what is said, and the next is
// refused (R3.1).
func TestMostKsocks(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of Ksocks take some seconds")
	}
	const most = 4095
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < 4*most {
		t.Skipf("%d descriptors are too few for both ends of %d Ksocks (%v)", files.Cur, most, err)
	}
	s := setStageWith(t, supervisor.Options{Bus: ring.Config{MaxKsocks: most, ArenaBytes: 32 << 20, MaxMessageSize: 1 << 16}})
	var all []*actor
	for range most {
		all = append(all, s.listener("$.A"))
	}
	_, err := ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.socket})
	if err == nil || !strings.Contains(err.Error(), "4095") {
		t.Errorf("one more Ksock: %v", err)
	}
	all[0].announce("$.A", "hello")
	for _, a := range all {
		a.hears("hello")
	}
	all[7].Close()
	s.listener("$.A").Close()
	for _, a := range all {
		a.Close()
	}
}

func countRegions(maps string) int {
	n := 0
	for line := range strings.Lines(maps) {
		if strings.Contains(line, "/memfd:") && strings.Contains(line, "kbus") {
			n++
		}
	}
	return n
}

// Views and Loans outlive their Ksock, and the mapping stays for them.
func TestInPlaceBeyondClose(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	a.announce("$.A", "still here")
	v, err := l.View(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	loan, err := a.Loan(1000)
	if err != nil {
		t.Fatal(err)
	}
	l.bind("$.R", ksock.Replier)
	b := s.open()
	b.request("$.R", "q")
	l.Close()
	a.Close()
	b.hears(ksock.StatusGoneAway) // R4.8 does not wait for the View
	copy(loan.Data(), "nobody will read this")
	for range 200 { // would reuse the memory if it were free
		b.announce("$.A", "something else")
	}
	s.want("data", string(v.Data()), "still here")
	s.want("name", v.Header().Name, "$.A")
	_, err = a.TrySendLoan(&ksock.Header{Name: "$.A"}, loan)
	s.wantErr(err, ksock.ErrClosed)
	for range 2 { // only the first counts
		loan.Release()
		v.Release()
	}
	s.want("empty", len(v.Data())+len(loan.Data())+len(v.Header().Name), 0)
}

// A View or Loan that is given back twice, or used after that, is nobody else's.
func TestStaleViewsAndLoans(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	a.announce("$.A", "first")
	a.announce("$.A", "second")
	v, err := l.View(s.ctx)
	s.wantErr(err, nil)
	v.Release()
	w, err := l.View(s.ctx)
	s.wantErr(err, nil)
	v.Release()
	s.want("stale", string(v.Data()), "")
	for range 100 {
		a.announce("$.B", "reuses what is free")
	}
	s.want("the next", string(w.Data()), "second")
	w.Release()

	h := &ksock.Header{Name: "$.A"}
	old, err := a.Loan(6)
	s.wantErr(err, nil)
	_, err = l.TrySendLoan(h, old)
	s.wantErr(err, ksock.ErrInvalid) // another Ksock's
	old.Release()
	loan, err := a.Loan(5)
	s.wantErr(err, nil)
	copy(loan.Data(), "third")
	old.Release()
	_, err = a.TrySendLoan(h, old)
	s.wantErr(err, ksock.ErrInvalid)
	_, err = a.TrySendLoan(h, loan)
	s.wantErr(err, nil)
	_, err = a.TrySendLoan(h, loan)
	s.wantErr(err, ksock.ErrInvalid)
	_, err = a.TrySendLoan(h, ksock.Loan{})
	s.wantErr(err, ksock.ErrInvalid)
	l.hears("third")
	ksock.View{}.Release()
}

// The slot of a closed Ksock is free once its Views are released.
func TestSlotsComeBack(t *testing.T) {
	o := supervisor.Options{Bus: small}
	o.Bus.MaxKsocks = 2
	s := setStageWith(t, o)
	a, l := s.open(), s.listener("$.A")
	open := func() error {
		k, err := ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.socket})
		if err == nil {
			k.Close()
		}
		return err
	}
	s.wantErr(open(), unix.EUSERS)
	a.announce("$.A", "x")
	v, err := l.View(s.ctx)
	s.wantErr(err, nil)
	l.Close()
	s.wantErr(open(), unix.EUSERS)
	s.want("data", string(v.Data()), "x")
	v.Release()
	s.wantErr(open(), nil)
}

// R9.1: a message is filled and read in place, any number of readers at once.
func TestInPlace(t *testing.T) {
	s := setStage(t)
	a, l, m := s.open(), s.listener("$.A"), s.listener("$.A")
	for _, size := range []int{0, 1, 63, 64, 4096, 100_000} {
		loan, err := a.Loan(size)
		if err != nil {
			t.Fatal(err)
		}
		s.want("size", len(loan.Data()), size)
		for i := range loan.Data() {
			loan.Data()[i] = byte(i)
		}
		id, err := a.SendLoan(s.ctx, &ksock.Header{Name: "$.A"}, loan)
		if err != nil {
			t.Fatal(err)
		}
		v, err := l.View(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, ok, err := m.TryView()
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		for _, v := range []ksock.View{v, w} {
			s.want("header", v.Header(), ksock.Header{ID: id, From: a.ID(), Name: "$.A"})
			s.want("size", len(v.Data()), size)
			for i, b := range v.Data() {
				if b != byte(i) {
					t.Fatalf("byte %d of %d is %d", i, size, b)
				}
			}
		}
		if size > 0 && &v.Data()[0] != &w.Data()[0] {
			t.Error("two readers do not see the same memory")
		}
		own := v.Message()
		v.Release()
		w.Release()
		s.want("own copy", len(own.Data), size)
	}
	_, ok, err := l.TryView()
	s.want("none", [2]any{ok, err}, [2]any{false, nil})
	// A Reply in place.
	r := s.replier("$.R")
	a.request("$.R", "q")
	v, err := r.View(s.ctx)
	if err != nil || !v.MustReply() {
		t.Fatal(err, v.MustReply())
	}
	loan, err := r.Loan(6)
	if err != nil {
		t.Fatal(err)
	}
	copy(loan.Data(), "answer")
	h := v.Header()
	h = ksock.ReplyHeader(&h)
	if _, err := r.TrySendLoan(&h, loan); err != nil {
		t.Fatal(err)
	}
	v.Release()
	a.hears("answer")
}

// Loops: each message for one turn, and an end with a reason.
func TestLoops(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	for i := range 6 {
		a.announce("$.A", fmt.Sprint(i))
	}
	var got []string
	for m := range l.Messages(s.ctx) {
		if got = append(got, string(m.Data)); len(got) == 3 {
			break
		}
	}
	s.want("Err after break", l.Err(), nil)
	for v := range l.Views(s.ctx) {
		if got = append(got, string(v.Data())); len(got) == 6 {
			break
		}
	}
	s.want("heard", fmt.Sprint(got), "[0 1 2 3 4 5]")
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	for range l.Messages(ctx) {
		t.Error("a message")
	}
	s.wantErr(l.Err(), context.Canceled)
	func() { // a panic gives the View back
		a.announce("$.A", "x")
		defer func() { recover() }()
		for range l.Views(s.ctx) {
			panic("in the loop")
		}
	}()
	l.hears()
}

// What is wrong with the supervisor or the bus is said.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for socket, want := range map[string]error{
		filepath.Join(dir, "missing"): ksock.ErrNoSupervisor,
		dir:                           ksock.ErrNoSupervisor,
	} {
		_, err := ksock.Open(t.Context(), 0, &ksock.Options{Socket: socket})
		if !errors.Is(err, want) || errors.Is(err, ksock.ErrNoBus) {
			t.Errorf("%s: %v", socket, err)
		}
		if _, err := ksock.Stats(t.Context(), socket); !errors.Is(err, want) {
			t.Errorf("%s: %v", socket, err)
		}
		if n, err := ksock.NewBus(t.Context(), socket, nil); !errors.Is(err, want) || n != -1 {
			t.Errorf("%s: %d, %v", socket, n, err)
		}
	}
}

// The tables of a supervisor.
func TestStats(t *testing.T) {
	s := setStage(t)
	a, l, r := s.open(), s.listener("$.A"), s.replier("$.R")
	l.holds(2)
	for range 3 {
		a.announce("$.A", "1234")
	}
	a.request("$.R", "")
	all, err := ksock.Stats(s.ctx, s.socket)
	if err != nil || len(all) != 1 || len(all[0].Ksocks) != 3 || len(all[0].Bindings) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, k := range all[0].Ksocks {
		s.want("pid", int(k.PID), os.Getpid())
		if k.Command == "" {
			t.Error("no command")
		}
		switch k.Ksock {
		case a.ID():
			s.want("sender", [2]uint64{k.Sent, uint64(k.Outstanding)}, [2]uint64{4, 1})
		case l.ID():
			s.want("listener", [3]uint64{uint64(k.Unread), uint64(k.MaxMessages), k.Missed}, [3]uint64{2, 2, 1})
		case r.ID():
			s.want("replier", k.Unread, uint32(1))
		default:
			t.Errorf("unknown Ksock %d", k.Ksock)
		}
	}
	for _, b := range all[0].Bindings {
		if b.Replier != (b.Name == "$.R") || b.Replier != (b.Ksock == r.ID()) {
			t.Errorf("%+v", b)
		}
	}
	_, err = ksock.Stats(s.ctx, s.socket, 7)
	s.wantErr(err, ksock.ErrNoBus)
}
