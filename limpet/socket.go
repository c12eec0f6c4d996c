package limpet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is a Link by a connection of the system whose reads and writes block in
// the kernel. A net.Conn reads in vain first, then waits for the runtime's poller,
// then reads: three calls and a change of threads for what is one call here.
type socket struct {
	mu    sync.RWMutex // held for reading while fd is in use
	fd    int          // -1: closed
	close sync.Once
}

// newSocket takes c over, a connection of the operating system.
func newSocket(c net.Conn) (Link, error) {
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{fd: -1}
	var failed error
	err = raw.Control(func(fd uintptr) {
		s.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, failed); err == nil {
		err = unix.SetNonblock(s.fd, false)
	}
	if err != nil {
		s.Close()
		return nil, os.NewSyscallError("take over a connection", err)
	}
	return s, nil
}

// use calls f with the descriptor, again if a signal came first.
func (s *socket) use(call string, f func(fd int) (int, error)) (n int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return 0, net.ErrClosed
	}
	for {
		n, err = f(s.fd)
		if err != unix.EINTR {
			return max(n, 0), os.NewSyscallError(call, err)
		}
	}
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.use("read", func(fd int) (int, error) { return unix.Read(fd, b) })
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	n, err := s.WriteBuffers(net.Buffers{b})
	return int(n), err
}

// mostPieces is how many pieces the system takes at once (UIO_MAXIOV).
const mostPieces = 1024

// WriteBuffers makes it a [Gatherer].
func (s *socket) WriteBuffers(v net.Buffers) (written int64, err error) {
	for len(v) > 0 {
		n, err := s.use("write", func(fd int) (int, error) { return unix.Writev(fd, v[:min(len(v), mostPieces)]) })
		written += int64(n)
		if err != nil {
			return written, err
		}
		for len(v) > 0 && n >= len(v[0]) {
			n -= len(v[0])
			v = v[1:]
		}
		if n > 0 {
			v[0] = v[0][n:]
		}
	}
	return written, nil
}

// Await makes it an [Awaiter]. The read itself must not wait for n bytes: of those
// that it has taken already the kernel does not think when it is to wake it.
func (s *socket) Await(n int) error {
	_, err := s.use("poll", func(fd int) (_ int, err error) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n); err != nil {
			return 0, err
		}
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err == unix.EINTR {
			return 0, err
		}
		return 0, errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1))
	})
	return err
}

// Close ends all reads and writes at once.
func (s *socket) Close() (err error) {
	s.close.Do(func() {
		s.mu.RLock()
		if s.fd >= 0 {
			_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // fails if the other side has ended it
		}
		s.mu.RUnlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fd >= 0 {
			err = os.NewSyscallError("close", unix.Close(s.fd))
		}
		s.fd = -1
	})
	return err
}
