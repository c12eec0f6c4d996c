package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"

	"golang.org/x/sys/unix"
)

// mqDepth is how many messages a queue holds: what everybody may have.
const mqDepth = 10

// mqLink is two queues, one there and one back. An empty message is the end.
type mqLink struct {
	fdLink
}

// mqAttr is the kernel's struct mq_attr.
type mqAttr struct{ Flags, MaxMessages, MessageSize, Current, _, _, _, _ int }

func mqName(dir string, i int, way string) string {
	return fmt.Sprintf("%s-%d-%s", filepath.Base(dir), i, way)
}

// address is for system calls that no package has: of what p points to, which
// has to be kept alive.
func address[T any](p *T) uintptr { return reflect.ValueOf(p).Pointer() }

func mqOpen(name string, create bool, size int) (int, error) {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	attr := &mqAttr{MaxMessages: mqDepth, MessageSize: max(size, 1)}
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, address(path), uintptr(flags), 0o600, address(attr), 0, 0)
	runtime.KeepAlive(path)
	runtime.KeepAlive(attr)
	switch e {
	case 0:
		return int(fd), nil
	case unix.EINVAL, unix.EMFILE:
		return -1, &Unavailable{Why: fmt.Sprintf("the system refuses message queues for messages of %d bytes (%v)", size, e)}
	case unix.ENOSYS:
		return -1, &Unavailable{Why: "this Linux has no message queues"}
	}
	return -1, os.NewSyscallError("mq_open", e)
}

func mqUnlink(name string) {
	if path, err := unix.BytePtrFromString(name); err == nil {
		_, _, _ = unix.Syscall(unix.SYS_MQ_UNLINK, address(path), 0, 0)
		runtime.KeepAlive(path)
	}
}

// mqClean removes all names that a run can have made.
func mqClean(dir string) {
	for i := range MaxListeners {
		mqUnlink(mqName(dir, i, "there"))
		mqUnlink(mqName(dir, i, "back"))
	}
}

func mqListen(t *PeerTask, i int) (func() (link, error), error) {
	// Root may have larger queues than others, if it asks for them.
	_ = unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	in, err := mqOpen(mqName(t.Dir, i, "there"), true, t.Size)
	if err != nil {
		return nil, err
	}
	out, err := mqOpen(mqName(t.Dir, i, "back"), true, t.Size)
	if err != nil {
		return nil, err
	}
	l, err := newMQLink(t, in, out)
	return func() (link, error) { return l, nil }, err
}

func mqDial(t *PeerTask, i int) (link, error) {
	out, err := mqOpen(mqName(t.Dir, i, "there"), false, t.Size)
	if err != nil {
		return nil, err
	}
	in, err := mqOpen(mqName(t.Dir, i, "back"), false, t.Size)
	if err != nil {
		return nil, err
	}
	return newMQLink(t, in, out)
}

func newMQLink(t *PeerTask, in, out int) (link, error) {
	l, err := newFDLink(in, out, t.Wait, false)
	if err != nil {
		return nil, err
	}
	return &mqLink{*l.(*fdLink)}, nil
}

// transfer makes one of the two system calls until it succeeds.
func (l *mqLink) transfer(call uintptr, fd int, events int16, message []byte) (int, error) {
	message = message[:len(message):max(len(message), 1)]
	for n := 0; ; {
		got, _, e := unix.Syscall6(call, uintptr(fd), address(&message[:1][0]), uintptr(len(message)), 0, 0, 0)
		runtime.KeepAlive(message)
		switch e {
		case 0:
			return int(got), nil
		case unix.EINTR:
		case unix.EAGAIN:
			if err := l.again(fd, events, n); err != nil {
				return 0, err
			}
			n++
		default:
			return 0, e
		}
	}
}

func (l *mqLink) send(message []byte) error {
	_, err := l.transfer(unix.SYS_MQ_TIMEDSEND, l.out, unix.POLLOUT, message)
	return os.NewSyscallError("mq_timedsend", err)
}

func (l *mqLink) receive(message []byte) error {
	n, err := l.transfer(unix.SYS_MQ_TIMEDRECEIVE, l.in, unix.POLLIN, message)
	switch {
	case err != nil:
		return os.NewSyscallError("mq_timedreceive", err)
	case n == 0:
		return io.EOF
	case n != len(message):
		return fmt.Errorf("a message of %d bytes, not %d", n, len(message))
	}
	return nil
}

func (l *mqLink) close() error {
	err := l.send(make([]byte, 0, 1))
	if errors.Is(err, unix.EAGAIN) {
		err = nil
	}
	return errors.Join(err, l.fdLink.close())
}
