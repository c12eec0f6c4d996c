package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Peers are those that need nothing but Linux and Go. The others are in a module
// of their own, kbus.internal/bench/peers.
func Peers() []Peer {
	return []Peer{
		linker{fifoListen, fifoDial}.peer(Peer{Name: "pipe", Waits: true,
			About: "two pipes, by system calls"}),
		linker{unixListen(unix.SOCK_STREAM), unixDial(unix.SOCK_STREAM)}.peer(Peer{Name: "unix-stream", Waits: true,
			About: "Unix stream socket, by system calls"}),
		linker{unixListen(unix.SOCK_SEQPACKET), unixDial(unix.SOCK_SEQPACKET)}.peer(Peer{Name: "unix-seqpacket", Waits: true,
			About: "Unix socket that keeps messages apart, by system calls"}),
		linker{netListen, netDial}.peer(Peer{Name: "unix-go",
			About: "Unix stream socket, by Go's package net"}),
		linker{mqListen, mqDial}.peer(Peer{Name: "mqueue", Waits: true, clean: mqClean,
			About: "POSIX message queues"}),
		channelPeer(Peer{Name: "channel", Waits: true, OneProcess: true, InPlace: true,
			About: "Go channels between goroutines of one process, which pass references"}),
	}
}

// socketBuffer is what a socket's or a pipe's buffer is to hold, where the
// system allows it: the largest that an unprivileged pipe may have.
const socketBuffer = 1 << 20

// looks is how often Adaptive looks before it sleeps; with system calls this
// takes about as long as the looks that a Ksock takes by default.
const looks = 100

// fdLink is a pair of descriptors.
type fdLink struct {
	in, out int
	wait    Wait
	stream  bool // does not keep messages apart
}

// newFDLink sets the descriptors to how they wait.
func newFDLink(in, out int, wait Wait, stream bool) (link, error) {
	l := &fdLink{in, out, wait, stream}
	for _, fd := range []int{in, out} {
		if err := unix.SetNonblock(fd, wait != Sleep); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// again waits until it makes sense to look again, which is the nth time.
func (l *fdLink) again(fd int, for_ int16, n int) error {
	switch {
	case l.wait == Spin:
		relax(n)
	case l.wait == Adaptive && n >= looks:
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: for_}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

func (l *fdLink) receive(message []byte) error {
	for n := 0; ; {
		got, err := unix.Read(l.in, message)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := l.again(l.in, unix.POLLIN, n); err != nil {
				return err
			}
			n++
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("read", err)
		case got == 0:
			return io.EOF
		case got == len(message):
			return nil
		case !l.stream:
			return fmt.Errorf("a message of %d bytes, not %d", got, len(message))
		default:
			message, n = message[got:], 0
		}
	}
}

func (l *fdLink) send(message []byte) error {
	size := len(message)
	for n := 0; ; {
		put, err := unix.Write(l.out, message)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := l.again(l.out, unix.POLLOUT, n); err != nil {
				return err
			}
			n++
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS):
			return &Unavailable{Why: fmt.Sprintf("the system refuses messages of %d bytes (%v)", size, err)}
		case err != nil:
			return os.NewSyscallError("write", err)
		case put == len(message):
			return nil
		default:
			message, n = message[put:], 0
		}
	}
}

func (l *fdLink) close() error {
	err := unix.Close(l.out)
	if l.in != l.out {
		err = errors.Join(err, unix.Close(l.in))
	}
	return err
}

// A FIFO is a pipe with a name: one there, which ends when the other side closes
// it, and one back. Both sides open the one back for reading and writing: neither
// has to wait for the other then, nor sees an end before there was a beginning.

func fifoListen(t *PeerTask, i int) (func() (link, error), error) {
	for _, path := range []string{t.Path(i) + "there", t.Path(i) + "back"} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, os.NewSyscallError("mkfifo", err)
		}
	}
	l, err := fifoLink(t, t.Path(i)+"there", unix.O_RDONLY, t.Path(i)+"back", unix.O_RDWR)
	return func() (link, error) { return l, nil }, err
}

func fifoDial(t *PeerTask, i int) (link, error) {
	return fifoLink(t, t.Path(i)+"back", unix.O_RDWR, t.Path(i)+"there", unix.O_WRONLY)
}

func fifoLink(t *PeerTask, in string, inMode int, out string, outMode int) (link, error) {
	var fds [2]int
	for i, end := range []struct {
		path string
		mode int
	}{{in, inMode}, {out, outMode}} {
		fd, err := unix.Open(end.path, end.mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("open", err)
		}
		fds[i] = fd
	}
	if t.Size > unix.Getpagesize() {
		_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, socketBuffer)
	}
	return newFDLink(fds[0], fds[1], t.Wait, true)
}

func unixSocket(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

// unixLink is a connection with room for large messages.
func unixLink(t *PeerTask, fd, kind int) (link, error) {
	if t.Size > unix.Getpagesize() {
		// Not all may have more than the system's limit; it is then the limit.
		if buffer := max(socketBuffer, 2*t.Size); unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer)
		}
	}
	return newFDLink(fd, fd, t.Wait, kind == unix.SOCK_STREAM)
}

func unixListen(kind int) func(*PeerTask, int) (func() (link, error), error) {
	return func(t *PeerTask, i int) (func() (link, error), error) {
		fd, err := unixSocket(kind)
		if err != nil {
			return nil, err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: t.Path(i)}); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			return nil, os.NewSyscallError("listen", err)
		}
		return func() (link, error) {
			defer unix.Close(fd)
			for {
				in, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err == nil {
					return unixLink(t, in, kind)
				}
				if !errors.Is(err, unix.EINTR) {
					return nil, os.NewSyscallError("accept", err)
				}
			}
		}, nil
	}
}

func unixDial(kind int) func(*PeerTask, int) (link, error) {
	return func(t *PeerTask, i int) (link, error) {
		fd, err := unixSocket(kind)
		if err != nil {
			return nil, err
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: t.Path(i)}); err != nil {
			return nil, os.NewSyscallError("connect", err)
		}
		return unixLink(t, fd, kind)
	}
}

// netLink is a connection as Go programs use them.
type netLink struct{ net.Conn }

func netListen(t *PeerTask, i int) (func() (link, error), error) {
	l, err := net.Listen("unix", t.Path(i))
	if err != nil {
		return nil, err
	}
	return func() (link, error) {
		defer l.Close()
		c, err := l.Accept()
		return netLink{c}, err
	}, nil
}

func netDial(t *PeerTask, i int) (link, error) {
	c, err := net.Dial("unix", t.Path(i))
	return netLink{c}, err
}

func (l netLink) send(message []byte) error {
	_, err := l.Write(message)
	return err
}

func (l netLink) receive(message []byte) error {
	_, err := io.ReadFull(l, message)
	return err
}

func (l netLink) close() error { return l.Close() }
