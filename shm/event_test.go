package shm

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"kbus.internal/shm/shmtest"
)

func readable(t *testing.T, f *os.File) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, 0); err == nil {
			return fds[0].Revents&unix.POLLIN != 0
		} else if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

func TestEvent(t *testing.T) {
	shmtest.CheckFiles(t)
	e, err := NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	step := func(name string, op func() error, want bool) {
		t.Helper()
		if err := op(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := readable(t, e.File()); got != want {
			t.Fatalf("%s: readable %v, want %v", name, got, want)
		}
	}
	step("new", func() error { return nil }, false)
	step("clear when clear", e.Clear, false)
	step("signal", e.Signal, true)
	step("signal again", e.Signal, true)
	step("clear", e.Clear, false)
	step("fill", func() error {
		_, err := unix.Write(int(e.File().Fd()), []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		return err
	}, true)
	step("signal when full", e.Signal, true)
	step("clear when full", e.Clear, false)

	// Go's poller waits for it.
	raw, err := e.File().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 16)
	done := make(chan error)
	go func() {
		done <- raw.Read(func(fd uintptr) bool {
			select {
			case looked <- struct{}{}:
			default:
			}
			return readable(t, e.File())
		})
	}()
	<-looked
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for name, op := range map[string]func() error{"signal": e.Signal, "clear": e.Clear} {
		if err := op(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: %v, want os.ErrClosed", name, err)
		}
	}
}
