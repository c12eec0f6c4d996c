package ksock_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

func (a *actor) file() *os.File {
	a.s.Helper()
	f := value(a.s, a.File)
	a.s.Cleanup(func() { f.Close() })
	return f
}

// ready asks poll(2) without waiting.
func (s *stage) ready(f *os.File) bool {
	s.Helper()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		s.Fatal(err)
	}
	return fds[0].Revents&unix.POLLIN != 0
}

// becomes waits by poll(2) until f is readable.
func (s *stage) becomes(f *os.File) {
	s.Helper()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 60_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			s.Fatalf("poll: %d, %v", n, err)
		}
		return
	}
}

// R3.4: the descriptor is readable exactly while the queue is not empty.
func TestFileIsALevel(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	f, g := l.file(), l.file()
	s.want("empty", s.ready(f), false)
	for range 3 {
		a.announce("$.A", "1")
		s.becomes(f)
		s.becomes(g)
		a.announce("$.A", "2")
		l.one()
		s.want("one left", s.ready(f), true)
		l.one()
		s.want("empty", s.ready(f), false)
		s.want("the other", s.ready(g), false)
	}
	// An unbind may empty the queue, and a Call read it.
	a.announce("$.A", "x")
	s.becomes(f)
	l.unbind("$.A", ksock.Listener)
	s.want("unbound", s.ready(f), false)
	l.listen("$.A")
	a.announce("$.A", "kept")
	r := s.replier("$.R")
	go r.answers(s.ctx, echo)
	if _, err := l.Call(s.ctx, ask("$.R", "q")); err != nil {
		t.Fatal(err)
	}
	s.want("kept by a Call", s.ready(f), true)
	l.hears("kept")
	s.want("empty", s.ready(f), false)
	// A first descriptor of a Ksock with messages, and that of a closed one.
	a.listen("$.B")
	a.announce("$.B", "x")
	s.becomes(a.file())
	l.Close()
	s.want("closed", s.ready(f), true)
}

// The descriptor works in epoll beside others, for a loop that takes one message a turn.
func TestFileInEpoll(t *testing.T) {
	s := setStage(t)
	a := s.open()
	ls := []*actor{s.listener("$.A"), s.listener("$.B")}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	for i, l := range ls {
		l.holds(4096)
		e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(l.file().Fd()), &e); err != nil {
			t.Fatal(err)
		}
	}
	const n = 300
	go func() {
		for i := range n {
			for _, name := range []string{"$.A", "$.B"} {
				if _, err := a.Send(s.ctx, say(name, fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	next := make([]int, len(ls))
	events := make([]unix.EpollEvent, 4)
	for next[0]+next[1] < 2*n {
		k, err := unix.EpollWait(ep, events, 60_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			t.Fatalf("epoll_wait: %d, %v after %v", k, err, next)
		}
		for _, e := range events[:k] {
			if m := value(s, ls[e.Fd].TryNext); m != nil {
				s.want("order", string(m.Data), fmt.Sprint(next[e.Fd]))
				next[e.Fd]++
			}
		}
	}
}

// Go's own waiting: many readers of the descriptor, a deadline, an end.
func TestFileInGo(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	l.holds(4096)
	f := l.file()
	f.SetReadDeadline(time.Unix(1, 0))
	if _, err := f.Read(make([]byte, 8)); !os.IsTimeout(err) {
		t.Errorf("with a past deadline: %v", err)
	}
	f.SetReadDeadline(time.Time{})
	const n = 500
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if _, err := a.Send(s.ctx, say("$.A", fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
	})
	for i := 0; i < n; {
		if _, err := f.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		if m := value(s, l.TryNext); m != nil { // only one a turn
			s.want("order", string(m.Data), fmt.Sprint(i))
			i++
		}
	}
	wg.Wait()
	s.want("empty", s.ready(f), false)
	done := make(chan error)
	go func() {
		_, err := f.Read(make([]byte, 8))
		done <- err
	}()
	l.Close()
	if err := <-done; err != nil {
		t.Errorf("read of a closed Ksock's descriptor: %v", err)
	}
}
