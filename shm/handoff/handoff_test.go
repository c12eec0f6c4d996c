package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"kbus.internal/shm"
	"kbus.internal/shm/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, map[string]func() error{
		"join":   joinChild,
		"stay":   stayChild,
		"leave":  leaveChild,
		"listen": listenChild,
	})
}

var errTest = errors.New("the test's cause")

func listening(t testing.TB) *Listener {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "socket"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

// connected returns both ends of a connection: that of Accept, that of Dial.
func connected(t testing.TB) (*Conn, *Conn) {
	t.Helper()
	l := listening(t)
	dialled, err := Dial(t.Context(), l.Path())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		accepted.Close()
		dialled.Close()
	})
	return accepted, dialled
}

func accept(t testing.TB, l *Listener) *Conn {
	t.Helper()
	c, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustSend(t testing.TB, c *Conn, packet string, files ...*os.File) {
	t.Helper()
	if err := c.Send(t.Context(), []byte(packet), files...); err != nil {
		t.Fatal(err)
	}
}

func mustReceive(t testing.TB, c *Conn, want string) []*os.File {
	t.Helper()
	packet, files, err := c.Receive(t.Context(), make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	if string(packet) != want {
		t.Errorf("received %q, want %q", packet, want)
	}
	return files
}

func descriptorOf(c *Conn) int { return int(c.w.file.Fd()) }

// joinChild does what a newcomer to a bus does: it connects, is given a region,
// maps it, and stores in it.
func joinChild() error {
	ctx := context.Background()
	c, err := Dial(ctx, os.Args[1])
	if err != nil {
		return err
	}
	if err := c.Send(ctx, []byte("let me in")); err != nil {
		return err
	}
	packet, files, err := c.Receive(ctx, make([]byte, 100))
	if err != nil {
		return err
	}
	if string(packet) != "welcome" || len(files) != 1 {
		return fmt.Errorf("received %q and %d descriptors", packet, len(files))
	}
	m, err := shm.Map(files[0])
	if err != nil {
		return err
	}
	copy(m.Bytes(), "joined")
	if err := c.Send(ctx, []byte("done")); err != nil {
		return err
	}
	if _, _, err := c.Receive(ctx, make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("at the end: %v, want io.EOF", err)
	}
	return nil
}

func TestRegionIsHandedOver(t *testing.T) {
	shmtest.CheckFiles(t)
	l := listening(t)
	m, err := shm.Create("handed over", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	child := shmtest.Command(t, "join", l.Path())
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	mustReceive(t, c, "let me in")
	mustSend(t, c, "welcome", m.File())
	mustReceive(t, c, "done")
	if got := string(m.Bytes()[:6]); got != "joined" {
		t.Errorf("the region holds %q, want %q", got, "joined")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestPacketsStayWholeAndInOrder(t *testing.T) {
	shmtest.CheckFiles(t)
	a, b := connected(t)
	var files []*os.File
	for range MaxFiles {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		files = append(files, w)
	}
	mustSend(t, a, "one")
	mustSend(t, a, "two", files...)
	mustSend(t, a, "three")
	mustSend(t, b, "back")
	mustReceive(t, a, "back")
	mustReceive(t, b, "one")
	got := mustReceive(t, b, "two")
	mustReceive(t, b, "three")
	if len(got) != MaxFiles {
		t.Fatalf("%d descriptors, want %d", len(got), MaxFiles)
	}
	for i, f := range got {
		sent, err1 := files[i].Stat()
		received, err2 := f.Stat()
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(sent, received) {
			t.Errorf("descriptor %d is another file, error %v", i, err)
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d has the flags %#x, error %v: want close-on-exec", i, flags, err)
		}
		f.Close()
		files[i].Close()
	}
}

func TestSendRefuses(t *testing.T) {
	shmtest.CheckFiles(t)
	a, b := connected(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tooMany := slices.Repeat([]*os.File{null}, MaxFiles+1)
	for _, c := range []struct {
		name   string
		packet []byte
		files  []*os.File
		want   error
		errno  error
	}{
		{"empty", nil, nil, ErrEmpty, unix.EINVAL},
		{"empty with a descriptor", nil, []*os.File{null}, ErrEmpty, unix.EINVAL},
		{"too many descriptors", []byte("x"), tooMany, ErrTooManyFiles, unix.E2BIG},
		{"closed descriptor", []byte("x"), []*os.File{null, closed}, os.ErrClosed, os.ErrClosed},
		{"too long", make([]byte, 64<<20), nil, ErrTooLong, unix.EMSGSIZE},
	} {
		err := a.Send(t.Context(), c.packet, c.files...)
		if !errors.Is(err, c.want) || !errors.Is(err, c.errno) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
	null.Close()
	mustSend(t, a, "still works")
	mustReceive(t, b, "still works")
	b.Close()
	if err := a.Send(t.Context(), []byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("to a closed peer: error %v, want EPIPE", err)
	}
}

// sendRaw sends what Send refuses to.
func sendRaw(t *testing.T, c *Conn, packet string, n int) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var control []byte
	if n > 0 {
		control = unix.UnixRights(slices.Repeat([]int{int(null.Fd())}, n)...)
	}
	if _, err := unix.SendmsgBuffers(descriptorOf(c), [][]byte{[]byte(packet)}, control, nil, 0); err != nil {
		t.Fatal(err)
	}
}

func TestReceiveClosesWhatItCanNotHandOut(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, c := range []struct {
		name   string
		packet string
		files  int
		want   error
		errno  error
	}{
		{"too long", strings.Repeat("x", 101), 0, ErrTooLong, unix.EMSGSIZE},
		{"too long, with descriptors", strings.Repeat("x", 101), MaxFiles, ErrTooLong, unix.EMSGSIZE},
		{"one descriptor too many", "x", MaxFiles + 1, ErrTooManyFiles, unix.E2BIG},
		{"two descriptors too many", "x", MaxFiles + 2, ErrTooManyFiles, unix.E2BIG},
		{"as many as the system takes", "x", 253, ErrTooManyFiles, unix.E2BIG},
		{"empty", "", 0, io.EOF, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := connected(t)
			sendRaw(t, a, c.packet, c.files)
			mustSend(t, a, "next")
			before := len(shmtest.OpenFiles(t))
			packet, files, err := b.Receive(t.Context(), make([]byte, 100))
			if !errors.Is(err, c.want) || !errors.Is(err, c.errno) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if packet != nil || files != nil {
				t.Errorf("there are %d bytes and %d descriptors", len(packet), len(files))
			}
			if now := len(shmtest.OpenFiles(t)); now != before {
				t.Errorf("%d descriptors are open, before it were %d", now, before)
			}
			mustReceive(t, b, "next")
		})
	}
}

// exhaust takes all descriptors of this process but the last free ones, and
// returns what gives them back.
func exhaust(t *testing.T, free int) func() {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fd)
	}
	for range free {
		unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	var given bool
	giveBack := func() {
		if given {
			return
		}
		given = true
		for _, fd := range taken {
			unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(giveBack)
	return giveBack
}

func TestReceiveWithoutDescriptorsLeft(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, free := range []int{0, 1, MaxFiles - 1} {
		a, b := connected(t)
		sendRaw(t, a, "lost", MaxFiles)
		mustSend(t, a, "next")
		giveBack := exhaust(t, free)
		packet, files, err := b.Receive(t.Context(), make([]byte, 100))
		var freed []int
		for range free { // what it took is free again
			fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Errorf("%d free descriptors: one is missing now: %v", free, err)
				break
			}
			freed = append(freed, fd)
		}
		for _, fd := range freed {
			unix.Close(fd)
		}
		giveBack()
		if !errors.Is(err, ErrFilesLost) || !errors.Is(err, unix.EMFILE) || packet != nil || files != nil {
			t.Errorf("%d free descriptors: %q, %d descriptors, error %v, want ErrFilesLost", free, packet, len(files), err)
		}
		mustReceive(t, b, "next")
	}
}

// TestLastWordsAreHeard: a peer that refuses closes without having read what
// was sent to it; its packet arrives all the same.
func TestLastWordsAreHeard(t *testing.T) {
	shmtest.CheckFiles(t)
	a, b := connected(t)
	mustSend(t, b, "not read")
	mustSend(t, a, "go away")
	a.Close()
	mustReceive(t, b, "go away")
	if _, _, err := b.Receive(t.Context(), make([]byte, 1)); err != io.EOF {
		t.Errorf("error %v, want io.EOF", err)
	}
}

func TestCancel(t *testing.T) {
	shmtest.CheckFiles(t)
	l := listening(t)
	a, b := connected(t)
	self, err := OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	waits := map[string]func(context.Context) error{
		"receive": func(ctx context.Context) error {
			_, _, err := a.Receive(ctx, make([]byte, 100))
			return err
		},
		"send": func(ctx context.Context) error {
			for {
				if err := a.Send(ctx, make([]byte, 1000)); err != nil {
					return err
				}
			}
		},
		"accept": func(ctx context.Context) error {
			_, err := l.Accept(ctx)
			return err
		},
		"process": self.Wait,
	}
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			for i := range 20 {
				ctx, cancel := context.WithCancelCause(t.Context())
				var group [2]chan error
				for j := range group {
					group[j] = make(chan error)
					go func() { group[j] <- wait(ctx) }()
				}
				if i%2 == 0 { // otherwise most likely before the waits
					awaitGoroutines(t, "[IO wait]", "handoff.(*waiter).wait")
				}
				cancel(errTest)
				for j := range group {
					if err := <-group[j]; !errors.Is(err, errTest) {
						t.Errorf("error %v, want the context's cause", err)
					}
				}
			}
		})
	}
	// Nothing of a cancelled wait stays.
	mustSend(t, b, "hello")
	mustReceive(t, a, "hello")
	c, err := Dial(t.Context(), l.Path())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	accept(t, l)
}

// awaitGoroutines returns when a goroutine is in the given state with the given
// function on its stack.
func awaitGoroutines(t *testing.T, state, function string) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for {
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, state) && strings.Contains(stack, function) {
				return
			}
		}
		runtime.Gosched()
	}
}

// TestCancelWhenItArrives cancels a Receive at the moment when the packet
// arrives: it is received then or by the next Receive, which the cancelling of
// the first one does not touch.
func TestCancelWhenItArrives(t *testing.T) {
	a, b := connected(t)
	for i := range 2000 {
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { mustSend(t, b, "packet") })
		wg.Go(func() { cancel(errTest) })
		packet, _, err := a.Receive(ctx, make([]byte, 100))
		switch {
		case errors.Is(err, errTest):
			mustReceive(t, a, "packet")
		case err != nil || string(packet) != "packet":
			t.Fatalf("turn %d: received %q, error %v", i, packet, err)
		}
		wg.Wait()
		cancel(nil)
	}
}

func TestCloseEndsWaits(t *testing.T) {
	shmtest.CheckFiles(t)
	l := listening(t)
	a, _ := connected(t)
	self, err := OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		wait  func() error
		close func() error
	}{
		"receive": {func() error {
			_, _, err := a.Receive(t.Context(), make([]byte, 100))
			return err
		}, a.Close},
		"accept": {func() error {
			_, err := l.Accept(t.Context())
			return err
		}, l.Close},
		"process": {func() error { return self.Wait(t.Context()) }, self.Close},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error)
			for range 2 {
				go func() { done <- c.wait() }()
			}
			awaitGoroutines(t, "[IO wait]", "handoff.(*waiter).wait")
			if err := c.close(); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := <-done; !errors.Is(err, os.ErrClosed) {
					t.Errorf("error %v, want os.ErrClosed", err)
				}
			}
			if err := c.close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("second Close: %v, want os.ErrClosed", err)
			}
		})
	}
}

// stayChild connects and stays until it is killed.
func stayChild() error {
	c, err := Dial(context.Background(), os.Args[1])
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Send(context.Background(), []byte("here")); err != nil {
		return err
	}
	select {}
}

// leaveChild connects and ends.
func leaveChild() error {
	_, err := Dial(context.Background(), os.Args[1])
	return err
}

func TestCredentials(t *testing.T) {
	shmtest.CheckFiles(t)
	l := listening(t)
	child := shmtest.Command(t, "stay", l.Path())
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	want := make([]uint32, len(groups))
	for i, g := range groups {
		want[i] = uint32(g)
	}
	if uid == 0 { // root can give a child more groups than the first try has room for
		want = nil
		for g := range uint32(200) {
			want = append(want, 1000+g)
		}
		child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: want}}
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	got, err := c.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got.Groups)
	if got.PID != child.Process.Pid || got.UID != uid || got.GID != gid || !slices.Equal(got.Groups, want) {
		t.Errorf("credentials %+v, want pid %d, uid %d, gid %d, groups %v", got, child.Process.Pid, uid, gid, want)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
}

// bothWays runs a test with the kernel's SO_PEERPIDFD and with what stands in
// for it.
func bothWays(t *testing.T, test func(t *testing.T, peerPidfd bool)) {
	for _, peerPidfd := range []bool{true, false} {
		t.Run("SO_PEERPIDFD="+strconv.FormatBool(peerPidfd), func(t *testing.T) { test(t, peerPidfd) })
	}
}

func TestProcess(t *testing.T) {
	shmtest.CheckFiles(t)
	bothWays(t, func(t *testing.T, peerPidfd bool) {
		l := listening(t)
		child := shmtest.Command(t, "stay", l.Path())
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		c := accept(t, l)
		mustReceive(t, c, "here")
		p, err := c.process(peerPidfd)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.PID() != child.Process.Pid {
			t.Errorf("pid %d, want %d", p.PID(), child.Process.Pid)
		}
		same, err := OpenProcess(child.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		defer same.Close()
		self, err := OpenProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		defer self.Close()
		if same.StartTime() != p.StartTime() || self.StartTime() > p.StartTime() || self.StartTime() == 0 {
			t.Errorf("start times: %d and %d, this process's %d", p.StartTime(), same.StartTime(), self.StartTime())
		}
		if ended, err := p.Ended(); ended || err != nil {
			t.Errorf("ended %v, error %v, while it lives", ended, err)
		}
		done := make(chan error)
		go func() { done <- p.Wait(t.Context()) }()
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		// Nobody has reaped it.
		if err := <-done; err != nil {
			t.Error(err)
		}
		if ended, err := p.Ended(); !ended || err != nil {
			t.Errorf("ended %v, error %v, after its end", ended, err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Errorf("wait after its end: %v", err)
		}
		child.Wait()
	})
}

// TestProcessThatIsGone meets a peer that has ended, before and after its
// parent noticed.
func TestProcessThatIsGone(t *testing.T) {
	shmtest.CheckFiles(t)
	bothWays(t, func(t *testing.T, peerPidfd bool) {
		for _, reaped := range []bool{false, true} {
			l := listening(t)
			child := shmtest.Command(t, "leave", l.Path())
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			p, err := OpenProcess(child.Process.Pid)
			if err != nil && !errors.Is(err, ErrGone) {
				t.Fatal(err)
			}
			if err == nil {
				if err := p.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.Close()
			}
			if reaped {
				if err := child.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			c := accept(t, l)
			if p, err := c.process(peerPidfd); !errors.Is(err, ErrGone) || !errors.Is(err, unix.ESRCH) {
				t.Errorf("reaped %v: error %v, want ErrGone", reaped, err)
				if err == nil {
					p.Close()
				}
			}
			if !reaped {
				if err := child.Wait(); err != nil {
					t.Fatal(err)
				}
			} else if _, err := OpenProcess(child.Process.Pid); !errors.Is(err, ErrGone) {
				t.Errorf("open it by number: error %v, want ErrGone", err)
			}
		}
	})
}

// TestNumberIsNotBelieved: found by its number, a living process is not the
// peer when the peer's connection has ended: it may have got the number since.
func TestNumberIsNotBelieved(t *testing.T) {
	shmtest.CheckFiles(t)
	a, b := connected(t)
	p, err := a.process(false)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	b.Close()
	if p, err := a.process(false); !errors.Is(err, ErrGone) {
		t.Errorf("error %v, want ErrGone", err)
		if err == nil {
			p.Close()
		}
	}
}

func TestStartTimeOfStrangeCommand(t *testing.T) {
	// The command in /proc/PID/stat is the main thread's name, which may hold
	// whatever one likes.
	const comm = "/proc/self/comm"
	old, err := os.ReadFile(comm)
	if err != nil {
		t.Fatal(err)
	}
	before, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(comm, old, 0)
	if err := os.WriteFile(comm, []byte(") R 1 (2) 3"), 0); err != nil {
		t.Fatal(err)
	}
	after, err := startTime(os.Getpid())
	if err != nil || before != after || before == 0 {
		t.Errorf("start time %d, then %d, error %v", before, after, err)
	}
}

// FuzzControl: whatever control data holds, nothing but the descriptors in it
// comes out of it.
func FuzzControl(f *testing.F) {
	f.Add(unix.UnixRights(1, 2, 3))
	f.Add(unix.UnixRights())
	f.Add(append(unix.UnixRights(7), unix.UnixRights(8)...))
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 127, 1, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, control []byte) {
		fds, _ := descriptors(control)
		if len(fds)*4 > len(control) {
			t.Errorf("%d descriptors in %d bytes", len(fds), len(control))
		}
	})
}
