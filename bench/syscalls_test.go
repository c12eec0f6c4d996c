package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// I5: a message costs no system call when nobody sleeps. strace counts those of
// the thread that sends and receives; the other threads are Go's housekeeping.
// The same with a reader that waits by descriptor, which costs one for each message,
// shows that the count counts.
func TestNoSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: apt-get install strace")
	}
	t.Setenv("GODEBUG", "asyncpreemptoff=1") // no signals of Go's own to that thread
	// The thread begins and ends with some: the word to go, and the report.
	const few = lockedMessages / 1000
	if n, table := systemCalls(t, strace, "locked"); n > few {
		t.Errorf("%d system calls for %d messages:\n%s", n, lockedMessages, table)
	}
	if n, table := systemCalls(t, strace, "descriptor"); n < lockedMessages {
		t.Errorf("%d system calls for %d messages and a descriptor:\n%s", n, lockedMessages, table)
	}
}

// systemCalls counts those of the thread that a role sends and receives on,
// while it does so.
func systemCalls(t *testing.T, strace, role string) (calls int, table string) {
	_, err := measure(t.Context(), mustCheck(t, short(Options{Size: 64})), role, func(s *stage) error {
		if err := s.bus(); err != nil {
			return err
		}
		_, ready, err := s.enter(role)
		if err != nil {
			return err
		}
		w, err := watch(s.ctx, strace, ready.Thread)
		if err != nil {
			return err
		}
		_, err = s.play()
		table = w.end()
		return err
	})
	if errors.Is(err, errNoTrace) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(table) {
		// 100.00    0.001234           1      1234           total
		if f := strings.Fields(line); len(f) > 3 && f[len(f)-1] == "total" {
			if calls, err = strconv.Atoi(f[3]); err != nil {
				t.Fatalf("not a table of strace's: %s", table)
			}
		}
	}
	return calls, table
}

func mustCheck(t *testing.T, o Options) Options {
	o, err := o.check()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// lockedMessages is how many messages the roles here send.
const lockedMessages = 100_000

func init() {
	roles["locked"] = func(w *worker) (*report, error) { return locked(w, false) }
	roles["descriptor"] = func(w *worker) (*report, error) { return locked(w, true) }
}

// locked sends and receives on one thread that does nothing else. It does not
// look at a clock.
func locked(w *worker, descriptor bool) (*report, error) {
	runtime.LockOSThread()
	// Without this a debugger has to be an ancestor, where Yama is in force.
	_ = unix.Prctl(unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY, 0, 0, 0)
	p, err := w.openPair()
	if err != nil {
		return nil, err
	}
	defer p.close()
	if descriptor {
		f, err := p.to.k.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
	}
	if err := w.begin(report{Thread: unix.Gettid()}); err != nil {
		return nil, err
	}
	for range lockedMessages {
		if err := p.pass(); err != nil {
			return nil, err
		}
	}
	return &report{Messages: lockedMessages}, nil
}

// watcher is a strace that counts.
type watcher struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

var errNoTrace = errors.New("strace may not watch processes here")

// watch begins to count the system calls of a thread.
func watch(ctx context.Context, strace string, thread int) (*watcher, error) {
	w := &watcher{cmd: exec.CommandContext(ctx, strace, "-c", "-p", strconv.Itoa(thread), "-o", "/dev/stdout")}
	w.cmd.Stdout = &w.out
	said, err := w.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	words := bufio.NewReader(said)
	line, err := words.ReadString('\n')
	if strings.Contains(line, "not permitted") {
		return nil, errors.Join(errNoTrace, w.cmd.Wait())
	}
	if err != nil || !strings.Contains(line, "attached") {
		return nil, errors.Join(errors.New("strace: "+line), err, w.cmd.Process.Kill())
	}
	go io.Copy(io.Discard, words)
	return w, nil
}

// end ends the counting and returns strace's table.
func (w *watcher) end() string {
	_ = w.cmd.Process.Signal(os.Interrupt)
	_ = w.cmd.Wait() // it may end by itself, with the thread
	return w.out.String()
}
