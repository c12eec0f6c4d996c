package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"kbus.internal/shm/shmtest"
)

// listenChild listens, says so, and stays until it is killed.
func listenChild() error {
	l, err := Listen(os.Args[1], 0o600)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept(context.Background())
		if err != nil {
			return err
		}
		// Who only looks whether somebody listens is gone already.
		if err := c.Send(context.Background(), []byte("the child")); err != nil && !errors.Is(err, unix.EPIPE) {
			return err
		}
		c.Close()
	}
}

func TestListenModes(t *testing.T) {
	shmtest.CheckFiles(t)
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, umask := range []int{0, 0o77, 0o777} {
		unix.Umask(umask)
		for _, mode := range []os.FileMode{0o600, 0o660, 0o666} {
			dir := t.TempDir()
			if umask == 0o777 { // made before, since nobody could use it
				if err := os.Chmod(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			} else {
				dir = filepath.Join(dir, "made", "for it")
			}
			path := filepath.Join(dir, "socket")
			l, err := Listen(path, mode)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != mode|os.ModeSocket {
				t.Errorf("umask %04o: socket of mode %v, error %v, want %v", umask, info.Mode(), err, mode)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("umask %04o: directory of mode %v, error %v, want 0700", umask, info.Mode(), err)
			}
			if flags, err := unix.FcntlInt(l.w.file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("the listener has the flags %#x, error %v: want close-on-exec", flags, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("after Close the directory holds %v, error %v", left, err)
			}
		}
	}
}

func TestConnectionsCloseOnExec(t *testing.T) {
	a, b := connected(t)
	p, err := a.Process()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, w := range map[string]*waiter{"accepted": a.w, "dialled": b.w, "process": p.w} {
		if flags, err := unix.FcntlInt(w.file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %#x, error %v: want close-on-exec", name, flags, err)
		}
	}
}

func TestListenReplacesTheDeadOnly(t *testing.T) {
	shmtest.CheckFiles(t)
	path := filepath.Join(t.TempDir(), "socket")
	child := shmtest.Start(t, shmtest.Command(t, "listen", path))
	if _, err := child.Out.ReadByte(); err != nil {
		t.Fatal(err)
	}
	for _, lock := range []bool{true, false} {
		if !lock { // as if it had never had one
			if err := os.Remove(path + ".lock"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Listen(path, 0o600); !errors.Is(err, ErrRunning) || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("lock %v: error %v, want ErrRunning", lock, err)
		}
		c, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		mustReceive(t, c, "the child")
		c.Close()
	}
	child.Kill()
	if _, err := Dial(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect to the dead: error %v, want ECONNREFUSED", err)
	}
	l, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l)
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("connect after Close: error %v, want ENOENT", err)
	}
}

// TestOneListenerAtATime: many take turns at one path, coming and going at any
// moment; there are never two.
func TestOneListenerAtATime(t *testing.T) {
	shmtest.CheckFiles(t)
	path := filepath.Join(t.TempDir(), "socket")
	var now, turns atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for turns.Load() < 200 {
				l, err := Listen(path, 0o600)
				if errors.Is(err, ErrRunning) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := now.Add(1); n != 1 {
					t.Errorf("%d listen at once", n)
				}
				turns.Add(1)
				now.Add(-1)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestListenRefusesPaths(t *testing.T) {
	shmtest.CheckFiles(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	stream, err := net.Listen("unix", filepath.Join(dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"empty", "", ErrBadPath},
		{"abstract", "@kbus", ErrBadPath},
		{"abstract, raw", "\x00kbus", ErrBadPath},
		{"too long", filepath.Join(dir, strings.Repeat("x", 108)), ErrBadPath},
		{"a file", file, ErrBadPath},
		{"a directory", dir, ErrBadPath},
		{"in a file", filepath.Join(file, "socket"), unix.ENOTDIR},
		{"in a directory that is open to all", filepath.Join(open, "socket"), ErrBadPath},
		{"another kind of socket", filepath.Join(dir, "stream"), ErrRunning},
	} {
		if l, err := Listen(c.path, 0o600); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
			if err == nil {
				l.Close()
			}
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, error %v", got, err)
	}
	if locks, err := filepath.Glob(filepath.Join(dir, "*.lock")); err != nil || len(locks) != 0 {
		t.Errorf("locks are left: %v, error %v", locks, err)
	}
	for _, path := range []string{"", "@kbus", "\x00kbus", strings.Repeat("x", 108)} {
		if _, err := Dial(t.Context(), path); !errors.Is(err, ErrBadPath) {
			t.Errorf("connect to %q: error %v, want ErrBadPath", path, err)
		}
	}
}

func TestCloseLeavesAnotherSocket(t *testing.T) {
	l := listening(t)
	if err := os.Remove(l.Path()); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unixpacket", l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), l.Path())
	if err != nil {
		t.Fatalf("the other's socket: %v", err)
	}
	c.Close()
}

// socket returns a listening socket as systemd makes it.
func socket(t *testing.T, kind int, backlog int) (*os.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "activation")
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "activation")
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if backlog >= 0 {
		if err := unix.Listen(fd, backlog); err != nil {
			t.Fatal(err)
		}
	}
	return f, path
}

func TestListenerFromFile(t *testing.T) {
	shmtest.CheckFiles(t)
	f, path := socket(t, unix.SOCK_SEQPACKET, 10)
	l, err := ListenerFromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if l.Path() != path {
		t.Errorf("path %q, want %q", l.Path(), path)
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	mustSend(t, accept(t, l), "hello")
	mustReceive(t, c, "hello")
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	// The next one who listens finds the socket, and who came meanwhile.
	c, err = Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if l, err = ListenerFromFile(f); err != nil {
		t.Fatal(err)
	}
	accept(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenerFromFileRefuses(t *testing.T) {
	shmtest.CheckFiles(t)
	stream, _ := socket(t, unix.SOCK_STREAM, 10)
	quiet, _ := socket(t, unix.SOCK_SEQPACKET, -1)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	internet, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer internet.Close()
	tcp, err := internet.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for name, f := range map[string]*os.File{"stream": stream, "not listening": quiet, "device": null, "TCP": tcp} {
		if l, err := ListenerFromFile(f); !errors.Is(err, ErrNotListener) || !errors.Is(err, unix.ENOTSOCK) {
			t.Errorf("%s: error %v, want ErrNotListener", name, err)
			if err == nil {
				l.Close()
			}
		}
	}
}

// TestDialWaitsForRoom connects to a listener whose backlog is full.
func TestDialWaitsForRoom(t *testing.T) {
	shmtest.CheckFiles(t)
	f, path := socket(t, unix.SOCK_SEQPACKET, 0)
	l, err := ListenerFromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Fill it.
	ctx, cancel := context.WithCancelCause(t.Context())
	const many = 10
	var full int
	for full = 0; full < many; full++ {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if full == many {
		t.Fatalf("a backlog of 0 took %d", full)
	}
	done := make(chan error)
	go func() {
		_, err := Dial(ctx, path)
		done <- err
	}()
	cancel(errTest)
	if err := <-done; !errors.Is(err, errTest) {
		t.Errorf("error %v, want the context's cause", err)
	}
	go func() {
		c, err := Dial(t.Context(), path)
		if err == nil {
			err = c.Close()
		}
		done <- err
	}()
	for range full + 1 {
		accept(t, l)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAcceptWithoutDescriptorsLeft: newcomers are refused in words, those who
// are in go on, and later newcomers are let in.
func TestAcceptWithoutDescriptorsLeft(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, lost := range []bool{false, true} { // the spare descriptor, too
		l := listening(t)
		l.Refusal = []byte("no descriptor left")
		old, err := Dial(t.Context(), l.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		in := accept(t, l)
		var newcomers []*Conn
		var fds []int
		for range 5 { // sockets, to be connected when there are no others
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		if lost {
			l.spare.Close()
			l.spare = nil
		}
		giveBack := exhaust(t, 0)
		type result struct {
			c   *Conn
			err error
		}
		accepted := make(chan result)
		go func() {
			c, err := l.Accept(t.Context())
			accepted <- result{c, err}
		}()
		if !lost { // it does not spin while nobody comes
			awaitGoroutines(t, "[IO wait]", "handoff.(*Listener).accept")
		}
		for i, fd := range fds {
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: l.Path()}); err != nil {
				t.Fatal(err)
			}
			c, err := newConn(fd, l.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			newcomers = append(newcomers, c)
			if i%2 == 0 { // some speak first, and are not heard
				if err := c.Send(t.Context(), []byte("let me in")); err != nil && !errors.Is(err, unix.EPIPE) {
					t.Fatal(err)
				}
			}
			if lost {
				continue
			}
			mustReceive(t, c, "no descriptor left")
			if _, _, err := c.Receive(t.Context(), make([]byte, 1)); err != io.EOF {
				t.Errorf("after the refusal: error %v, want io.EOF", err)
			}
		}
		if lost {
			awaitGoroutines(t, "[select]", "handoff.pause")
		}
		mustSend(t, old, "still here")
		mustReceive(t, in, "still here")
		giveBack()
		if !lost {
			c, err := Dial(t.Context(), l.Path())
			if err != nil {
				t.Fatal(err)
			}
			newcomers = append(newcomers[:0], c)
		}
		// Whoever was not refused is let in now.
		for i, c := range newcomers {
			if i > 0 {
				go func() {
					c, err := l.Accept(t.Context())
					accepted <- result{c, err}
				}()
			}
			r := <-accepted
			if r.err != nil {
				t.Fatal(r.err)
			}
			mustSend(t, r.c, "welcome")
			r.c.Close()
			mustReceive(t, c, "welcome")
			c.Close()
		}
		if l.spare == nil {
			t.Errorf("lost %v: there is no spare descriptor", lost)
		}
	}
}
