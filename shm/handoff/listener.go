package handoff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// backlog is how many newcomers may wait to be accepted; the system's
// net.core.somaxconn may make it less.
const backlog = 4096

// A Listener accepts connections at a path. All methods may be called from any
// goroutine; accepts go one by one.
type Listener struct {
	// Refusal is the packet that a newcomer receives, before the connection
	// ends, when no descriptor is left for it. Set before the first Accept;
	// without it the connection just ends.
	Refusal []byte

	w    *waiter
	path string

	// Of Listen only: what was made, to be removed by Close.
	lock *os.File
	made os.FileInfo

	// spare is a descriptor to give up for the moment when there is no other
	// one to accept, and refuse, a newcomer with; Accept's, then Close's.
	mu    sync.Mutex
	spare *os.File
}

// Listen listens at path, in a socket of the given mode (0600 lets in the same
// user and root; who connects is the caller's to check, too). A missing
// directory is made, with mode 0700.
//
// A lock beside the socket (path + ".lock") is held as long as the Listener
// lives. A socket that a dead process left is replaced; one that somebody
// listens at, with or without a lock, is not.
//
// Errors: ErrRunning, ErrBadPath, and those of the system.
func Listen(path string, mode fs.FileMode) (*Listener, error) {
	l, err := listen(path, mode)
	if err != nil {
		return nil, fmt.Errorf("handoff: listen at %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, mode fs.FileMode) (_ *Listener, err error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkDirectory(dir); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.Remove(lock.Name())
			lock.Close()
		}
	}()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	fd, err := bind(path, mode)
	if err != nil {
		return nil, err
	}
	made, err := os.Lstat(path)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	l, err := newListener(fd, path)
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	l.lock, l.made = lock, made
	return l, nil
}

// checkPath refuses what is not the path of a socket: one that is too long for
// the kernel, and the abstract ones, which have no permissions.
func checkPath(path string) error {
	const longest = len(unix.RawSockaddrUnix{}.Path) - 1
	switch {
	case path == "":
		return fmt.Errorf("%w: it is empty", ErrBadPath)
	case strings.IndexByte(path, 0) >= 0 || path[0] == '@':
		return fmt.Errorf("%w: it begins with @ or holds a zero byte", ErrBadPath)
	case len(path) > longest:
		return fmt.Errorf("%w: it is %d bytes long, and the system takes %d", ErrBadPath, len(path), longest)
	}
	return nil
}

// checkDirectory refuses a directory in which other users could put their own
// socket in our place.
func checkDirectory(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	me := uint32(os.Geteuid())
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%w: %s is not a directory", ErrBadPath, dir)
	case me != 0 && st.Uid != me && st.Uid != 0:
		return fmt.Errorf("%w: the directory %s belongs to user %d", ErrBadPath, dir, st.Uid)
	case st.Mode&unix.S_IWOTH != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("%w: every user can replace files in %s (mode %04o)", ErrBadPath, dir, st.Mode&0o7777)
	}
	return nil
}

// lockFile opens and locks the file name, and makes sure that it is still the
// one of that name: the last holder removed it, perhaps just now.
func lockFile(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		var lockErr error
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				lockErr = again(func() error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
			})
		}
		if err = errors.Join(err, os.NewSyscallError("flock", lockErr)); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w (it holds %s)", ErrRunning, name)
			}
			return nil, err
		}
		locked, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if named, err := os.Lstat(name); err == nil && os.SameFile(locked, named) {
			return f, nil
		}
		f.Close()
	}
}

// removeStale removes the socket of a dead listener. Anything else at path is
// an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: there is something that is not a socket (%v)", ErrBadPath, info.Mode())
	}
	// Somebody may listen there without our lock, such as systemd.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = again(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	unix.Close(fd)
	switch err {
	case unix.ECONNREFUSED:
		return os.Remove(path)
	case nil, unix.EAGAIN, unix.EPROTOTYPE: // room, no room, another kind of socket
		return ErrRunning
	}
	return os.NewSyscallError("connect", err)
}

// bind returns a descriptor that listens at path.
func bind(path string, mode fs.FileMode) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// The socket's own mode becomes that of the path, so that it is never wider
	// than asked; less the umask, which the second chmod makes up for. Nobody is
	// let in before listen.
	perm := uint32(mode.Perm())
	if err := unix.Fchmod(fd, perm); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	err = os.Chmod(path, mode.Perm())
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		unix.Close(fd)
		os.Remove(path)
		return -1, err
	}
	return fd, nil
}

// newListener takes fd over, and closes it if there is an error.
func newListener(fd int, path string) (*Listener, error) {
	w, err := newWaiter(fd, path)
	if err != nil {
		return nil, err
	}
	l := &Listener{w: w, path: path}
	if l.spare, err = openSpare(); err != nil {
		w.close()
		return nil, err
	}
	return l, nil
}

func openSpare() (*os.File, error) { return os.Open(os.DevNull) }

// ListenerFromFile returns a Listener at a socket that somebody else made, such
// as systemd (ListenSequentialPacket=), and left open in f. It keeps a duplicate; f
// stays the caller's, and Close leaves the path alone.
//
// Errors: ErrNotListener, and those of the system.
func ListenerFromFile(f *os.File) (*Listener, error) {
	l, err := listenerFromFile(f)
	if err != nil {
		return nil, fmt.Errorf("handoff: listen at %s: %w", f.Name(), err)
	}
	return l, nil
}

func listenerFromFile(f *os.File) (*Listener, error) {
	var dup int
	var path string
	err := withDescriptors([]*os.File{f}, nil, func(fds []int) (err error) {
		for _, want := range []struct{ option, value int }{
			{unix.SO_DOMAIN, unix.AF_UNIX}, {unix.SO_TYPE, unix.SOCK_SEQPACKET}, {unix.SO_ACCEPTCONN, 1},
		} {
			got, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, want.option)
			if err != nil && err != unix.ENOTSOCK {
				return os.NewSyscallError("getsockopt", err)
			}
			if err != nil || got != want.value {
				return ErrNotListener
			}
		}
		addr, err := unix.Getsockname(fds[0])
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		path = addr.(*unix.SockaddrUnix).Name
		dup, err = unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	})
	if err != nil {
		return nil, err
	}
	return newListener(dup, path)
}

// Path returns where the Listener listens.
func (l *Listener) Path() string { return l.path }

// Accept waits for a newcomer and returns the connection, which the caller
// closes. A newcomer for which no descriptor is left is refused (Refusal), and
// Accept goes on.
//
// Errors: context.Cause, os.ErrClosed, and those of accept(2) after which no
// other one could succeed.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	c, err := l.acceptConn(ctx)
	if err != nil {
		return nil, fmt.Errorf("handoff: accept at %s: %w", l.path, err)
	}
	return c, nil
}

func (l *Listener) acceptConn(ctx context.Context) (*Conn, error) {
	for {
		fd, refuse, err := l.accept(ctx)
		switch {
		case err != nil:
			return nil, err
		case fd < 0: // not even a refusal was possible: wait for better times
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil, err
			}
		case refuse:
			l.refuse(fd)
			unix.Close(fd)
		default:
			w, err := newWaiterOr(fd, l.path, func() { l.refuse(fd) })
			if err == nil {
				return &Conn{w: w}, nil
			}
			// The system has no room for this one; the next may find some.
		}
	}
}

// refuse says no to a newcomer.
func (l *Listener) refuse(fd int) {
	if len(l.Refusal) > 0 {
		// To an empty socket, so it does not block; if it fails, the peer is gone.
		unix.Sendmsg(fd, l.Refusal, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}
}

// accept waits for a newcomer. If only the spare descriptor was left for it, it
// is to be refused; if not even that helped, or it can't be had at all, fd is -1.
func (l *Listener) accept(ctx context.Context) (fd int, refuse bool, err error) {
	l.mu.Lock()
	if l.spare == nil && !l.w.closed.Load() { // lost in a shortage
		l.spare, _ = openSpare()
	}
	l.mu.Unlock()
	e := l.w.read(ctx, func(listening int) bool {
		refuse = false
		fd, err = acceptOne(listening)
		if short(err) {
			// The kernel says so before it looks whether anybody is there.
			fd, refuse, err = l.acceptWithSpare(listening)
		}
		return err != unix.EAGAIN
	})
	switch {
	case e != nil:
		return -1, false, e
	case err == nil || hopeless(err):
		return fd, refuse, os.NewSyscallError("accept4", err)
	}
	return -1, false, nil
}

func acceptOne(listening int) (fd int, err error) {
	for {
		fd, _, err = unix.Accept4(listening, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != unix.EINTR && err != unix.ECONNABORTED {
			return fd, err
		}
	}
}

// short tells whether err is for want of descriptors or memory: nobody's fault
// here, and over when somebody lets go of some.
func short(err error) bool {
	return err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM
}

// hopeless tells the errors of accept(2) that are about the listening socket.
// All others are about a newcomer (EPERM, EPROTO and whatever else its protocol
// has), or a shortage.
func hopeless(err error) bool {
	return err == unix.EBADF || err == unix.EINVAL || err == unix.ENOTSOCK || err == unix.EOPNOTSUPP || err == unix.EFAULT
}

// acceptWithSpare accepts with the descriptor that was kept for it. The newcomer is
// to be refused unless another spare can be had with the newcomer in.
func (l *Listener) acceptWithSpare(listening int) (fd int, refuse bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare != nil {
		l.spare.Close()
		l.spare = nil
	}
	fd, err = acceptOne(listening)
	if l.w.closed.Load() { // Close was here already
		return fd, true, err
	}
	if l.spare, _ = openSpare(); l.spare != nil || err != nil {
		return fd, false, err
	}
	return fd, true, nil
}

// Close ends Accept and, after Listen, removes the socket and the lock.
// Connections stay.
func (l *Listener) Close() error {
	err := l.w.close()
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.spare != nil {
		err = l.spare.Close()
		l.spare = nil
	}
	l.mu.Unlock()
	if l.lock != nil {
		// Only what is ours: somebody may have put another socket there.
		if now, e := os.Lstat(l.path); e == nil && os.SameFile(now, l.made) {
			err = errors.Join(err, os.Remove(l.path))
		} else if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		// Removed while it is held: lockFile knows.
		err = errors.Join(err, os.Remove(l.lock.Name()), l.lock.Close())
	}
	return err
}
