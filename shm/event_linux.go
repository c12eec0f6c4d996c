package shm

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// An Event is a descriptor that is readable, for select, poll, epoll and Go's
// netpoller, from Signal until Clear. It is a level, not a count: two Signals
// need one Clear. All methods may be called from any goroutine; after Close
// they return an error.
type Event struct {
	file *os.File
	raw  syscall.RawConn
}

// NewEvent returns an Event that is not readable. The caller closes it.
func NewEvent() (*Event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("shm: new event: %w", os.NewSyscallError("eventfd2", err))
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("shm: new event: %w", err)
	}
	return &Event{file: f, raw: raw}, nil
}

// one is what an eventfd takes: a 64-bit 1 in the CPU's byte order.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// Signal makes the descriptor readable. It never blocks.
func (e *Event) Signal() error {
	return e.do("signal", func(fd int) error {
		_, err := unix.Write(fd, one)
		return err
	})
}

// Clear makes the descriptor unreadable. Whoever waits for a state clears
// first and looks at the state then, so that no Signal is lost.
func (e *Event) Clear() error {
	return e.do("clear", func(fd int) error {
		var count [8]byte
		_, err := unix.Read(fd, count[:])
		return err
	})
}

// do calls f for the descriptor. EAGAIN means that the counter is at its end
// already: full and readable for Signal, empty and unreadable for Clear.
func (e *Event) do(op string, f func(fd int) error) error {
	var err error
	if e.raw.Control(func(fd uintptr) {
		for {
			if err = f(int(fd)); err != unix.EINTR {
				return
			}
		}
	}) != nil {
		err = os.ErrClosed // Control fails for nothing else
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("shm: %s event: %w", op, err)
	}
	return nil
}

// File returns the descriptor, to wait on; it stays the Event's. Nobody else
// reads from it or writes to it.
func (e *Event) File() *os.File { return e.file }

// Close closes the descriptor.
func (e *Event) Close() error { return e.file.Close() }
