package ksock_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"kbus.internal/ksock"
	"kbus.internal/supervisor"
)

// R9.4: without its supervisor the bus goes on; control calls wait for the next one.
func TestSupervisorIsStartedAgain(t *testing.T) {
	s := setStageApart(t)
	a, l, r := s.open(), s.listener("$.A"), s.replier("$.R")
	a.announce("$.A", "before")
	s.kill()
	a.announce("$.A", "between")
	a.request("$.R", "q")
	r.reply(r.one(), "answer")
	a.hears("answer")

	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	s.wantErr(l.Bind(ctx, "$.B", ksock.Listener), context.Canceled)
	_, err := ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.socket})
	s.wantErr(err, ksock.ErrNoSupervisor)
	bound := make(chan error)
	go func() { bound <- l.Bind(s.ctx, "$.B", ksock.Listener) }()

	s.start()
	s.wantErr(<-bound, nil)
	a.announce("$.B", "after")
	l.hears("before", "between", "after")
	a.request("$.R", "q")
	r.Close()
	m, err := a.Next(s.ctx) // its Ksock may still be on the way to the supervisor
	s.wantErr(err, nil)
	s.want("Status", m.Name, ksock.StatusGoneAway)
	if id := s.open().ID(); id <= r.ID() {
		t.Errorf("Ksock id %d again", id)
	}
}

// A Ksock that is closed while there is no supervisor is closed at the next one.
func TestCloseWithoutSupervisor(t *testing.T) {
	s := setStageApart(t)
	a, r := s.open(), s.replier("$.R")
	a.request("$.R", "q")
	s.kill()
	r.Close()
	a.hears()
	s.start()
	m, err := a.Next(s.ctx)
	if err != nil || m.Name != ksock.StatusGoneAway {
		t.Errorf("got %v, %v", m, err)
	}
}

// A supervisor that does not know the Ksock ends it, and says so.
func TestGone(t *testing.T) {
	s := setStageApart(t)
	a := s.open()
	waiting := make(chan error)
	go func() {
		_, err := a.Next(s.ctx)
		waiting <- err
	}()
	s.kill()
	s.forget()
	s.start()
	s.wantErr(<-waiting, ksock.ErrGone)
	_, err := a.TrySend(say("$.A", ""))
	s.wantErr(err, ksock.ErrGone)
	s.wantErr(a.Bind(s.ctx, "$.A", ksock.Listener), ksock.ErrGone)
	if errors.Is(err, ksock.ErrClosed) {
		t.Errorf("%v is ErrClosed, too", err)
	}
	s.open().announce("$.A", "")
}

// Neither goroutines nor descriptors nor memory stay behind.
func TestNothingStaysBehind(t *testing.T) {
	s := setStage(t)
	use := func() {
		a := s.listener("$.A")
		f := value(s, a.File)
		a.announce("$.A", "x")
		s.becomes(f)
		v, err := a.View(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Next(s.ctx)
		}()
		a.Close()
		<-done
		v.Release()
		f.Close()
	}
	use()
	goroutines, files, maps := runtime.NumGoroutine(), countFiles(t), mappings(t)
	for range 20 {
		use()
	}
	// The last ones are on their way out.
	for runtime.NumGoroutine() > goroutines || countFiles(t) > files {
		if s.ctx.Err() != nil {
			buf := make([]byte, 1<<20)
			t.Fatalf("goroutines: %d, were %d; descriptors: %d, were %d\n%s",
				runtime.NumGoroutine(), goroutines, countFiles(t), files, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
	s.want("mappings", mappings(t), maps)
}

func countFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/memfd:")
}

// A supervisor that is ended in order ends its Ksocks.
func TestSupervisorGoesDown(t *testing.T) {
	s := emptyStage(t)
	sv, err := supervisor.Start(supervisor.Options{Socket: s.socket, Bus: small})
	if err != nil {
		t.Fatal(err)
	}
	a := s.open()
	waiting := make(chan error)
	go func() {
		_, err := a.Next(s.ctx)
		waiting <- err
	}()
	if err := sv.Close(); err != nil {
		t.Error(err)
	}
	err = <-waiting
	s.wantErr(err, ksock.ErrGone)
	if !strings.Contains(err.Error(), "going down") {
		t.Errorf("%v does not say why", err)
	}
	s.wantErr(a.asks(), ksock.ErrGone)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	_, err = a.TryNext()
	s.wantErr(err, ksock.ErrGone)
}

func (a *actor) asks() error {
	_, err := a.SetOnlyOnce(a.s.ctx, ksock.AskOnly)
	return err
}
