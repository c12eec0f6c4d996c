package supervisor

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, map[string]func() error{
		"supervisor": supervisorChild,
		"ksocks":     ksocksChild,
		"holder":     holderChild,
	})
}

// small is a bus that takes little memory.
var small = ring.Config{MaxKsocks: 64, ArenaBytes: 8 << 20, MaxMessageSize: 1 << 20}

// start starts a supervisor in this process.
func start(t testing.TB, o Options) *Supervisor {
	t.Helper()
	if o.Socket == "" {
		o.Socket = filepath.Join(t.TempDir(), "socket")
	}
	if o.Bus == (ring.Config{}) {
		o.Bus = small
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t testing.TB, socket string, bus int) *control.Link {
	t.Helper()
	l, err := control.Open(t.Context(), socket, bus, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func call(t testing.TB, l *control.Link, r control.Request) uint32 {
	t.Helper()
	a, err := l.Call(t.Context(), &r)
	if err != nil {
		t.Fatalf("%v: %v", r.Op, err)
	}
	return a.Value
}

// ask asks on a connection without a Ksock.
func ask(t testing.TB, socket string, r control.Request) (*control.Answer, error) {
	t.Helper()
	c, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, f, err := c.Call(t.Context(), &r, nil)
	if f != nil {
		f.Close()
	}
	return a, err
}

func ksocks(t testing.TB, socket string, bus uint32) []control.KsockInfo {
	t.Helper()
	a, err := ask(t, socket, control.Request{Op: control.OpKsocks, Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	return a.Ksocks
}

// eventually waits until ok; the test's own deadline is the limit.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}

// child is a process that takes a line and answers with one.
type child struct{ *shmtest.Child }

func spawn(t testing.TB, c *exec.Cmd) *child {
	t.Helper()
	return &child{shmtest.Start(t, c)}
}

func (c *child) pid() int { return c.Process.Pid }

func (c *child) line(t testing.TB) string {
	t.Helper()
	s, err := c.Out.ReadString('\n')
	if err != nil {
		t.Fatalf("the child has ended: %v", errors.Join(err, c.Wait()))
	}
	return strings.TrimSuffix(s, "\n")
}

func (c *child) tell(t testing.TB, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(c.In, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
}

// ask tells a child of ksocksChild something and expects success.
func (c *child) ask(t testing.TB, format string, args ...any) string {
	t.Helper()
	return c.exchange(t, fmt.Sprintf(format, args...), "ok ")
}

// askErr expects an error and returns its text, which begins with the errno's name.
func (c *child) askErr(t testing.TB, format string, args ...any) string {
	t.Helper()
	return c.exchange(t, fmt.Sprintf(format, args...), "error ")
}

func (c *child) exchange(t testing.TB, question, outcome string) string {
	t.Helper()
	c.tell(t, "%s", question)
	line := c.line(t)
	text, ok := strings.CutPrefix(line, outcome)
	if !ok {
		t.Fatalf("%s: %s", question, line)
	}
	return text
}

func (c *child) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if s == syscall.SIGSTOP {
		// Stopped is only who has been seen to be.
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, c.pid(), &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// supervise starts a supervisor as a process.
func supervise(t testing.TB, socket string, args ...string) *child {
	t.Helper()
	c := spawn(t, shmtest.Command(t, "supervisor", append([]string{socket}, args...)...))
	if s := c.line(t); s != "ready" {
		t.Fatal(s)
	}
	return c
}

// supervisorChild runs a supervisor until its input ends: SOCKET [KEY=VALUE...].
func supervisorChild() error {
	o := Options{Socket: os.Args[1], Bus: small}
	for _, arg := range os.Args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "buses":
			o.Buses = n
		case "ksocks":
			o.Bus.MaxKsocks = n
		case "files":
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
				return err
			}
		case "allow":
			o.AllowUsers = append(o.AllowUsers, uint32(n))
		case "systemd":
			o.Systemd = true
			if pid := os.Getenv("TEST_LISTEN_FDS"); pid != "" { // only the child knows its pid
				os.Setenv("LISTEN_FDS", pid)
				os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
			}
		case "log":
			o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
		default:
			return fmt.Errorf("what is %q?", arg)
		}
	}
	s, err := Start(o)
	if err != nil {
		fmt.Println(err)
		return err
	}
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Close()
	}()
	return s.Wait()
}

func ksockProcess(t testing.TB, socket string) *child {
	t.Helper()
	return spawn(t, shmtest.Command(t, "ksocks", socket))
}

// holderChild holds what it has inherited until whoever writes to its standard
// input lets go of that. It reads nothing.
func holderChild() error {
	fmt.Println("ok ")
	p := []unix.PollFd{{Fd: 0}}
	for p[0].Revents&unix.POLLHUP == 0 {
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
	return nil
}

// leaveSockets starts a holder that inherits all of this process's sockets.
func leaveSockets() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "KBUS_TEST_CHILD=holder")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		to, _ := os.Readlink("/proc/self/fd/" + n.Name())
		if !strings.HasPrefix(to, "socket:") {
			continue
		}
		fd, _ := strconv.Atoi(n.Name())
		if fd, err = unix.Dup(fd); err != nil {
			return err
		}
		c.ExtraFiles = append(c.ExtraFiles, os.NewFile(uintptr(fd), "socket"))
	}
	if len(c.ExtraFiles) == 0 {
		return errors.New("no socket is open")
	}
	return c.Start()
}
