package limpet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Link carries bytes both ways, in order, to the other Limpet of the pair. One
// goroutine reads it while another writes; Close, by a third, ends both. That is
// all that is asked of a new kind of link: net.Conn has it. A Link that is a
// [Gatherer] or an [Awaiter] besides is quicker.
type Link = io.ReadWriteCloser

// A Gatherer writes many pieces at once, which it may change. What is no Gatherer is
// written to by [net.Buffers], which does so for a net.Conn of the operating system.
type Gatherer interface {
	WriteBuffers(net.Buffers) (int64, error)
}

// An Awaiter can wait until about n bytes are there to be read, or the end: whoever
// reads a megabyte need not wake up for every packet of it.
type Awaiter interface {
	Await(n int) error
}

// A Connector makes links to the other Limpet, one after the other.
type Connector interface {
	// Connect waits for a link until ctx ends. Who listens has no pause to make
	// between two calls that fail; who connects tries once in each.
	Connect(ctx context.Context) (Link, error)
	// String says what it does, as in "connecting to …".
	String() string
}

// Dead and half-open TCP links are noticed by the operating system: after
// idleTime without a byte it asks the other side, and what is not acknowledged
// for deadTime ends the link.
const (
	idleTime = 2 * time.Second
	askTime  = time.Second
	asks     = 4
	deadTime = 6 * time.Second
)

// Network tells what kind of address addr is: "unix" for a path, which contains a
// slash or no colon, else "tcp".
func Network(addr string) string {
	if strings.Contains(addr, "/") || !strings.Contains(addr, ":") {
		return "unix"
	}
	return "tcp"
}

// Dial connects to addr, host:port or the path of a Unix socket; with TLS if t is
// not nil.
func Dial(addr string, t *tls.Config) Connector { return &dialer{addr, t} }

type dialer struct {
	addr string
	tls  *tls.Config
}

func (d *dialer) String() string { return "connecting to " + d.addr }

// connectTime bounds one attempt; a machine that is not there answers nothing.
const connectTime = 5 * time.Second

func (d *dialer) Connect(ctx context.Context) (Link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	nd := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := nd.DialContext(ctx, Network(d.addr), d.addr)
	if err != nil {
		return nil, err
	}
	if err := watch(c); err != nil {
		c.Close()
		return nil, err
	}
	if d.tls == nil {
		return newSocket(c)
	}
	config := d.tls
	if config.ServerName == "" && !config.InsecureSkipVerify {
		config = config.Clone()
		config.ServerName = "localhost"
		if host, _, err := net.SplitHostPort(d.addr); err == nil && Network(d.addr) == "tcp" {
			config.ServerName = host
		}
	}
	return shake(ctx, tls.Client(c, config))
}

// A Listener waits for the other Limpet at an address.
type Listener struct {
	l    net.Listener
	addr string
	tls  *tls.Config
}

// Listen listens at addr, host:port or the path of a Unix socket; with TLS if t is
// not nil. A socket that a dead process has left at the path is replaced. Links are
// accepted one at a time, each when the one before has ended.
func Listen(addr string, t *tls.Config) (*Listener, error) {
	network := Network(addr)
	if network == "unix" {
		if err := removeDead(addr); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(addr, 0o600); err != nil { // whoever may write to it is taken for a Limpet
			l.Close()
			return nil, err
		}
	}
	return &Listener{l, addr, t}, nil
}

// Addr is the address, with the port that was chosen if port 0 was asked for.
func (l *Listener) Addr() string { return l.l.Addr().String() }

// String says where it listens.
func (l *Listener) String() string { return "listening at " + l.Addr() }

// Close ends the listening; links that were accepted stay.
func (l *Listener) Close() error { return l.l.Close() }

// Connect waits for the next connection.
func (l *Listener) Connect(ctx context.Context) (Link, error) {
	type deadliner interface{ SetDeadline(time.Time) error }
	d := l.l.(deadliner) // TCP and Unix listeners are
	if err := d.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { d.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := l.l.Accept()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if err := watch(c); err != nil {
		c.Close()
		return nil, err
	}
	if l.tls == nil {
		return newSocket(c)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return shake(ctx, tls.Server(c, l.tls))
}

func shake(ctx context.Context, c *tls.Conn) (Link, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return c, nil
}

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: idleTime, Interval: askTime, Count: asks}

// watch makes the system end a link whose other side does not take what is sent.
func watch(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadTime.Milliseconds()))
	})
	return errors.Join(err, os.NewSyscallError("setsockopt(TCP_USER_TIMEOUT)", set))
}

// removeDead removes a socket at which nobody listens any more.
func removeDead(path string) error {
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("listen at %s: somebody listens there already", path)
	case errors.Is(err, unix.ECONNREFUSED):
		st, err := os.Lstat(path)
		if err == nil && st.Mode().Type() == os.ModeSocket {
			return os.Remove(path)
		}
		return fmt.Errorf("listen at %s: there is a file that is no socket", path)
	}
	return nil // nothing there, or Listen says what
}
