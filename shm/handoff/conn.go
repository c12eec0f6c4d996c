package handoff

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFiles is the largest number of descriptors in one packet.
const MaxFiles = 4

// A Conn is one end of a connection. All methods may be called from any
// goroutine; sends go out one by one, and so do receives.
type Conn struct {
	w *waiter
}

// newConn takes fd over, and closes it if there is an error.
func newConn(fd int, name string) (*Conn, error) {
	w, err := newWaiter(fd, name)
	if err != nil {
		return nil, err
	}
	return &Conn{w: w}, nil
}

// Dial connects to the listener at path. While the listener has no room for
// more newcomers it tries again until ctx ends.
//
// Errors: those of connect(2), above all ENOENT and ECONNREFUSED (nobody listens
// there) and EACCES; ErrBadPath; context.Cause.
func Dial(ctx context.Context, path string) (*Conn, error) {
	c, err := dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("handoff: connect to %s: %w", path, err)
	}
	return c, nil
}

func dial(ctx context.Context, path string) (*Conn, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := again(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
		if err == nil {
			return newConn(fd, path)
		}
		if err != unix.EAGAIN { // EAGAIN: the backlog is full, and nothing to poll for
			unix.Close(fd)
			return nil, notConnected(path, err)
		}
		if err := pause(ctx, wait); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
}

// notConnected says what there is at path if that is why nobody answers.
func notConnected(path string, err error) error {
	info, failed := os.Stat(path)
	switch {
	case err == unix.EPROTOTYPE:
		return fmt.Errorf("%w: what listens there is not of the kind SOCK_SEQPACKET", ErrBadPath)
	case err == unix.ECONNREFUSED && failed == nil && info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w: there is something that is not a socket (%v)", ErrBadPath, info.Mode())
	}
	return os.NewSyscallError("connect", err)
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Send sends packet, which has at least one byte, and a duplicate of each
// descriptor of files, which stay the caller's. It waits while the peer has
// too much unread. EPIPE after the peer closed; what the peer sent before that can
// still be received.
//
// Errors: ErrEmpty, ErrTooLong, ErrTooManyFiles, context.Cause, os.ErrClosed,
// those of sendmsg(2). In all cases nothing was sent.
func (c *Conn) Send(ctx context.Context, packet []byte, files ...*os.File) error {
	if err := c.send(ctx, packet, files); err != nil {
		return fmt.Errorf("handoff: send %d bytes and %d descriptors: %w", len(packet), len(files), err)
	}
	return nil
}

func (c *Conn) send(ctx context.Context, packet []byte, files []*os.File) error {
	if len(packet) == 0 {
		return ErrEmpty
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("%w (at most %d)", ErrTooManyFiles, MaxFiles)
	}
	return withDescriptors(files, nil, func(fds []int) error {
		var control []byte
		if len(fds) > 0 {
			control = unix.UnixRights(fds...)
		}
		var err error
		if e := c.w.write(ctx, func(fd int) bool {
			err = again(func() error { return unix.Sendmsg(fd, packet, control, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) })
			return err != unix.EAGAIN
		}); e != nil {
			return e
		}
		if err == unix.EMSGSIZE {
			return ErrTooLong
		}
		return os.NewSyscallError("sendmsg", err)
	})
}

// withDescriptors calls f with the descriptors of files, none of which can be
// closed meanwhile. It does without os.File.Fd, which promises neither that nor
// that the descriptor goes on not to block.
func withDescriptors(files []*os.File, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if raw.Control(func(fd uintptr) {
		inner = withDescriptors(files[1:], append(fds, int(fd)), f)
	}) != nil {
		return os.ErrClosed // Control fails for nothing else
	}
	return inner
}

// Receive waits for a packet and returns its bytes, a part of buf, and its
// descriptors (close-on-exec, not polled), which are the caller's to close.
//
// Errors: io.EOF after the peer closed and all that it sent was received (or it
// sent an empty packet, which looks the same);
// ErrTooLong for a packet longer than buf, ErrFilesLost, ErrTooManyFiles (that packet
// is gone, and all its descriptors closed, but the connection can be used
// on); context.Cause (nothing was received), os.ErrClosed, those of recvmsg(2).
func (c *Conn) Receive(ctx context.Context, buf []byte) ([]byte, []*os.File, error) {
	packet, files, err := c.receive(ctx, buf)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("handoff: receive: %w", err)
	}
	return packet, files, err
}

func (c *Conn) receive(ctx context.Context, buf []byte) ([]byte, []*os.File, error) {
	if len(buf) == 0 {
		return nil, nil, ErrEmpty
	}
	// Room for one descriptor more than allowed, to tell too many from lost.
	control := make([]byte, unix.CmsgSpace((MaxFiles+1)*4))
	var n, controlLen, flags int
	var err error
	if e := c.w.read(ctx, func(fd int) bool {
		receive := func() (err error) {
			n, controlLen, flags, _, err = unix.Recvmsg(fd, buf, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			return err
		}
		err = again(receive)
		if err == unix.ECONNRESET {
			// The peer closed without reading all that was sent to it. The
			// kernel says so once, before what the peer itself had sent.
			err = again(receive)
		}
		return err != unix.EAGAIN
	}); e != nil {
		return nil, nil, e
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	fds, err := descriptors(control[:controlLen])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0 && len(fds) <= MaxFiles:
		err = ErrFilesLost
	case len(fds) > MaxFiles:
		err = fmt.Errorf("%w (at most %d)", ErrTooManyFiles, MaxFiles)
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("%w (more than %d bytes)", ErrTooLong, len(buf))
	case n == 0 && len(fds) > 0:
		err = ErrEmpty // with a descriptor, so it is not the end
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, nil, err
	}
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return buf[:n], files, nil
}

// descriptors returns all descriptors in control. Not with unix.ParseUnixRights:
// it panics at a length that is not a whole number of descriptors.
func descriptors(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	var fds []int
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		for data := m.Data; len(data) >= 4; data = data[4:] {
			fds = append(fds, int(int32(binary.NativeEndian.Uint32(data))))
		}
	}
	return fds, err
}

// Close ends the connection: the peer receives what was sent, then io.EOF.
func (c *Conn) Close() error { return c.w.close() }
