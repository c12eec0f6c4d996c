package failing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/shm/shmtest"
	"kbus.internal/supervisor"
)

var allPoints = flag.Bool("all", false, "each call fails at each of its uses, not only at the first")

var onlyCalls = flag.String("call", "", "a regular expression: fail only these calls (\"mmap\", \"fcntl.dup\")")

// A point is one use of one call that fails in one way.
type point struct {
	call  kind
	n     int // its nth use
	errno unix.Errno
}

func (p point) String() string {
	if p.call == "" {
		return "nothing fails"
	}
	return fmt.Sprintf("%s fails at use %d with %s", p.call, p.n, unix.ErrnoName(p.errno))
}

// saidIn tells whether text says what failed.
func (p point) saidIn(text string) bool {
	return strings.Contains(text, p.errno.Error()) ||
		slices.ContainsFunc(otherWords[p.call], func(w string) bool { return strings.Contains(text, w) })
}

// A watched is a process whose calls are counted, and of which one fails.
type watched struct {
	*shmtest.Child
	t   testing.TB
	p   point
	w   *shmtest.Watcher
	log bytes.Buffer // its standard error

	rest atomic.Bool // what is done now does not count

	// The watcher's until wait has returned.
	uses  map[kind]int
	fired bool
}

// start starts a child that watches itself, up to where it waits to go on.
func start(t testing.TB, p point, child string, args ...string) *watched {
	t.Helper()
	c := &watched{t: t, p: p, uses: map[kind]int{}}
	cmd := shmtest.Command(t, child, args...)
	cmd.Stderr = &c.log
	c.Child = shmtest.Start(t, cmd)
	var fd int
	line := c.line()
	if _, err := fmt.Sscanf(line, "watch %d", &fd); err != nil {
		c.Kill()
		t.Fatalf("%v: the child says %q, %s", p, line, c.log.String())
	}
	c.w = shmtest.Watch(t, c.Process.Pid, fd, func(call shmtest.Call) unix.Errno {
		k := kindOf(c.Process.Pid, call)
		if c.rest.Load() {
			return 0
		}
		c.uses[k]++
		if c.fired || k != p.call || c.uses[k] != p.n {
			return 0
		}
		c.fired = true
		return p.errno
	})
	fmt.Fprintln(c.In)
	return c
}

// line is the next line of the child's; "" at its end. A child that says nothing for
// too long is killed, with its stacks in the log.
func (c *watched) line() string {
	got := make(chan string, 1)
	go func() {
		s, _ := c.Out.ReadString('\n')
		got <- s
	}()
	hang := time.NewTimer(2 * patience)
	defer hang.Stop()
	select {
	case s := <-got:
		return strings.TrimSuffix(s, "\n")
	case <-hang.C:
		c.t.Errorf("%v: the child hangs", c.p)
		c.Process.Signal(unix.SIGQUIT)
		<-got
		return ""
	}
}

// wait waits for the end of the process, whose input has ended or whose script has.
func (c *watched) wait() error {
	hang := time.AfterFunc(2*patience, func() {
		c.t.Errorf("%v: the child does not end", c.p)
		c.Process.Signal(unix.SIGQUIT)
	})
	defer hang.Stop()
	c.In.Close()
	io.Copy(io.Discard, c.Out)
	err := c.Wait()
	if werr := c.w.Wait(); werr != nil {
		c.t.Errorf("%v: the watcher: %v", c.p, werr)
	}
	return err
}

// socketIn makes a place for a supervisor's socket.
func socketIn(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "failing") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

// sweep runs one for each point: each call that count tells of, with each
// errno, at its first use, and with -all its second ..., until it is not reached any more.
// one tells whether the point was reached.
func sweep(t *testing.T, uses map[kind]int, one func(t testing.TB, p point) bool) {
	only := regexp.MustCompile(*onlyCalls)
	points := 0
	kinds := make([]kind, 0, len(uses))
	for k := range uses {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		errnos, known := documented[k]
		if !known && leftOut[k] == "" {
			t.Errorf("%s is used %d times, and in none of the tables", k, uses[k])
		}
		if !only.MatchString(string(k)) {
			continue
		}
		of := 0
		for _, e := range errnos {
			for n := 1; n == 1 || *allPoints; n++ {
				if !one(t, point{k, n, e}) {
					break
				}
				of++
				if n > 2*uses[k]+50 {
					t.Errorf("%s is used again and again after %v", k, e)
					break
				}
			}
		}
		points += of
		t.Logf("%-28s %3d uses, %4d points", k, uses[k], of)
	}
	t.Logf("%d points, all points: %v", points, *allPoints)
}

// healthy is a supervisor in this process, and that it stays so.
func healthy(t testing.TB, socket string) *supervisor.Supervisor {
	t.Helper()
	s, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: small})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// roundTrip has two Ksocks of this process exchange a Request and a Reply.
func roundTrip(socket string) error {
	var errs []error
	script(socket, func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// TestClient: a client's system calls fail.
func TestClient(t *testing.T) {
	socket := socketIn(t)
	healthy(t, socket)
	if err := roundTrip(socket); err != nil {
		t.Fatal(err)
	}
	uses := map[kind]int{}
	client(t, socket, point{}, uses)
	sweep(t, uses, func(t testing.TB, p point) bool { return client(t, socket, p, map[kind]int{}) })
}

// client does the script in a process of its own with one failure, and judges
// what comes of it.
func client(t testing.TB, socket string, p point, uses map[kind]int) bool {
	t.Helper()
	c := start(t, p, "client", socket, fmt.Sprint(int(p.errno)))
	var reports []report
	for {
		line := c.line()
		if line == "" {
			break
		}
		var r report
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%v: the client says %q", p, line)
			continue
		}
		reports = append(reports, r)
	}
	err := c.wait()
	if err != nil || len(reports) == 0 || reports[len(reports)-1].Step != "end" {
		t.Errorf("%v: the client ends with %v\n%s", p, err, c.log.String())
	}
	right := false
	for _, r := range reports {
		switch pass, _, _ := strings.Cut(r.Step, ":"); {
		case r.Step == "end":
		case r.Step == "left over" && p.call == "munmap" && r.Text == "mappings of regions: 1, was 0; ": // of course
		case r.Step == "left over":
			t.Errorf("%v: left over: %s", p, r.Text)
		case pass != "watched":
			t.Errorf("%v: %s: %s", p, r.Step, r.Text)
		case r.Hang:
			t.Errorf("%v: hangs: %s: %s", p, r.Step, r.Text)
		case !r.Op:
			t.Errorf("%v: %s: %s: is no error of a Ksock's operation", p, r.Step, r.Text)
		}
		right = right || r.Is || p.saidIn(r.Text)
	}
	if failed := len(reports) > 1; failed && !right {
		t.Errorf("%v: no error says so: %+v", p, reports)
	}
	if p.call != "" && testing.Verbose() && *onlyCalls != "" {
		t.Logf("%v: fired %v: %+v", p, c.fired, reports)
	}
	if err := roundTrip(socket); err != nil {
		t.Errorf("%v: the bus does not live on: %v", p, err)
	}
	if err := emptyBus(socket); err != nil {
		t.Errorf("%v: %v", p, err)
	}
	maps.Copy(uses, c.uses)
	return c.fired
}

// emptyBus waits until the supervisor knows of no Ksock any more.
func emptyBus(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s, err := ksock.Stats(ctx, socket, 0)
		if err != nil {
			return err
		}
		if len(s[0].Ksocks) == 0 && len(s[0].Bindings) == 0 && s[0].ArenaUsed <= atRest {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("left on the bus: %+v", s[0])
		}
	}
}

// atRest is the most memory that a supervisor keeps for what it does next. What
// a client loses would be more after a few points.
const atRest = 64 << 10
