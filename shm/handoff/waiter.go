package handoff

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter is a descriptor that goroutines wait for without holding a thread,
// each until its context ends.
type waiter struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool

	// A deadline is the only way to end a wait in Go's poller, and there is one
	// for each direction: so one wait at a time in each direction.
	reading, writing chan struct{}
}

// newWaiter takes fd over, and closes it if there is an error.
func newWaiter(fd int, name string) (*waiter, error) { return newWaiterOr(fd, name, func() {}) }

// newWaiterOr is newWaiter; farewell is called before it closes fd.
func newWaiterOr(fd int, name string, farewell func()) (*waiter, error) {
	// os.NewFile leaves it to the poller only when it does not block already.
	if err := unix.SetNonblock(fd, true); err != nil {
		farewell()
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl(O_NONBLOCK)", err)
	}
	f := os.NewFile(uintptr(fd), name)
	raw, err := f.SyscallConn()
	if err == nil && f.SetDeadline(time.Time{}) != nil {
		err = ErrNoPoller // os.NewFile does not say so
	}
	if err != nil {
		farewell()
		f.Close()
		return nil, err
	}
	return &waiter{
		file: f, raw: raw,
		reading: make(chan struct{}, 1), writing: make(chan struct{}, 1),
	}, nil
}

// read calls try, at once and whenever the descriptor has become readable,
// until it returns true.
func (w *waiter) read(ctx context.Context, try func(fd int) bool) error {
	return w.wait(ctx, w.reading, w.file.SetReadDeadline, w.raw.Read, try)
}

// write is read for writing.
func (w *waiter) write(ctx context.Context, try func(fd int) bool) error {
	return w.wait(ctx, w.writing, w.file.SetWriteDeadline, w.raw.Write, try)
}

func (w *waiter) wait(ctx context.Context, turn chan struct{}, deadline func(time.Time) error,
	poll func(func(uintptr) bool) error, try func(fd int) bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-turn }()

	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		deadline(time.Unix(1, 0)) // long ago; an error means closed, which ends the wait as well
		close(ended)
	})
	err := poll(func(fd uintptr) bool { return try(int(fd)) })
	if !stop() {
		<-ended
		deadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case w.closed.Load():
		return os.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	}
	return err
}

// control calls f with the descriptor, which stays open meanwhile.
func (w *waiter) control(f func(fd int) error) error {
	var err error
	if w.raw.Control(func(fd uintptr) { err = f(int(fd)) }) != nil {
		return os.ErrClosed // Control fails for nothing else
	}
	return err
}

func (w *waiter) close() error {
	if w.closed.Swap(true) {
		return os.ErrClosed
	}
	return w.file.Close()
}

// again calls f until no signal interrupts it.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
