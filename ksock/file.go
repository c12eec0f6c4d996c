package ksock

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
	"kbus.internal/shm/handoff"
)

// file is the descriptor of a Ksock that somebody asked for.
type file struct {
	used atomic.Bool // the rest is there

	mu    sync.Mutex
	event *shm.Event
	empty chan struct{} // tells the pump that the queue was seen empty
	stop  context.CancelFunc
	over  bool // the Ksock is closed
}

// File returns a descriptor for select, poll and epoll, and Go's own waiting:
// it is readable while the queue is not empty, and from the Ksock's end on.
// It only tells that: read the messages with [Ksock.TryNext] or
// [Ksock.TryView]. Reading the descriptor waits, too (it takes 8 bytes), and
// after each message taken it is readable again if there are more.
//
// Each File is a new one, the caller's to close; all show the same. The first
// starts a goroutine that waits for messages until the Ksock is closed, and from
// then on each message taken costs a system call.
func (k *Ksock) File() (*os.File, error) {
	f, err := k.openFile()
	return f, k.fail("open a descriptor", "", forOther, err)
}

func (k *Ksock) openFile() (*os.File, error) {
	// Like any wait, the pump may begin only before the end.
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return nil, k.end
	}
	f := &k.file
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.event == nil {
		e, err := shm.NewEvent()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		f.event, f.empty, f.stop = e, make(chan struct{}, 1), cancel
		f.used.Store(true)
		k.waits.Add(1)
		go k.pump(ctx)
		if len(k.kept) > 0 {
			if err := e.Signal(); err != nil {
				return nil, err
			}
		}
	}
	fd, err := unix.FcntlInt(f.event.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	}
	file := os.NewFile(uintptr(fd), "ksock")
	if file.SetDeadline(time.Time{}) != nil { // os.NewFile does not say so
		file.Close()
		return nil, handoff.ErrNoPoller
	}
	return file, nil
}

// pump makes the descriptor readable when a message comes. It sleeps in the bus
// only after the queue was seen empty, so it wakes once for each time that it fills.
func (k *Ksock) pump(ctx context.Context) {
	defer k.waits.Done()
	f := &k.file
	for k.c.WaitReadable(ctx, 0) == nil {
		f.mu.Lock()
		err := f.event.Signal()
		f.mu.Unlock()
		if err != nil {
			k.log.Error("the descriptor does not take a signal", "err", err)
			return
		}
		select {
		case <-f.empty:
		case <-k.life.Done():
			return
		}
	}
}

// refresh brings the descriptor up to date after something was taken or moved.
func (f *file) refresh(k *Ksock) {
	if f.used.Load() {
		f.update(k)
	}
}

func (f *file) update(k *Ksock) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	k.c.Sending.Lock()
	defer k.c.Sending.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || k.end != nil {
		return
	}
	filled := func() bool {
		readable, _, err := k.c.Poll()
		return readable || err != nil || len(k.kept) > 0
	}
	var err error
	if !filled() {
		if err = f.event.Clear(); err == nil && !filled() {
			select {
			case f.empty <- struct{}{}:
			default:
			}
			return
		}
	}
	if err == nil {
		err = f.event.Signal()
	}
	if err != nil {
		k.log.Error("the descriptor is not up to date", "err", err)
	}
}

// close leaves the descriptors of others readable for good. No wait is in progress.
func (f *file) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.event != nil && !f.over {
		f.stop()
		f.event.Signal()
		f.event.Close()
	}
	f.over = true
}
