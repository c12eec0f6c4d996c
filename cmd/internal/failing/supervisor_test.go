package failing

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/shm/shmtest"
)

// TestSupervisor: a supervisor's system calls fail, from its start to its end:
// while Ksocks come and go, by Close and by death.
func TestSupervisor(t *testing.T) { superviseAll(t, false) }

// TestTakeover: the system calls of a supervisor fail that takes over the bus of
// one that was killed, with a Ksock on it.
func TestTakeover(t *testing.T) { superviseAll(t, true) }

func superviseAll(t *testing.T, takeover bool) {
	uses := map[kind]int{}
	idle := 0
	supervised(t, point{}, takeover, uses, &idle)
	sweep(t, uses, func(t testing.TB, p point) bool {
		// Where it is told that the region is none, or that there is no state file,
		// it is right to give the bus up.
		if takeover && (p.call == "fcntl(get seals)" || p.errno == unix.ENOENT) {
			return false
		}
		return supervised(t, p, takeover, map[kind]int{}, &idle)
	})
}

// supervised runs a supervisor in a process of its own with one failure, and
// judges what comes of it. idle is how many descriptors it has without Ksocks.
func supervised(t testing.TB, p point, takeover bool, uses map[kind]int, idle *int) bool {
	t.Helper()
	socket := socketIn(t)
	dir := filepath.Dir(socket)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	var texts []string // what somebody was told
	note := func(what string, err error) {
		if err != nil {
			texts = append(texts, what+": "+err.Error())
		}
	}
	var old *ksock.Ksock
	if takeover {
		first := start(t, point{}, "supervisor", socket)
		if line := first.line(); line != "ready" {
			t.Fatal(line)
		}
		var err error
		if old, err = ksock.Open(ctx, 0, &ksock.Options{Socket: socket}); err != nil {
			t.Fatal(err)
		}
		defer func() { old.Close() }() // its supervisor may be gone for good: then it is told to nobody
		if err := old.Bind(ctx, "$.Old", ksock.Listener); err != nil {
			t.Fatal(err)
		}
		first.Process.Kill()
		first.wait()
	}

	c := start(t, p, "supervisor", socket)
	started := c.line() == "ready"
	if started {
		if takeover {
			note("the old Ksock", talkTo(ctx, socket, old))
		}
		note("round trip", roundTrip(socket))
		note("a client that is killed", killed(t, socket))
		// What failed once fails no more.
		c.rest.Store(true)
		if err := roundTrip(socket); err != nil {
			t.Errorf("%v: the bus does not live on: %v\n%s", p, err, c.log.String())
		}
		if takeover {
			if err := talkTo(ctx, socket, old); err != nil {
				// Its Ksock may have been the price, but it has to be told.
				note("the old Ksock again", err)
			}
			old.Close()
		}
		if err := emptyBus(socket); err != nil {
			t.Errorf("%v: %v\n%s", p, err, c.log.String())
		}
		if n, what := filesOf(c.Process.Pid, *idle); *idle == 0 {
			*idle = n
		} else if n > *idle {
			t.Errorf("%v: the supervisor has %d descriptors instead of %d: %s\n%s", p, n, *idle, what, c.log.String())
		}
	}
	c.rest.Store(false)
	err := c.wait()
	texts = append(texts, c.log.String())
	switch {
	case started && err != nil:
		t.Errorf("%v: the supervisor ends with %v\n%s", p, err, c.log.String())
	case !started && err == nil:
		t.Errorf("%v: the supervisor ends with success without having started", p)
	case !started && !c.fired:
		t.Errorf("the supervisor does not start:\n%s", c.log.String())
	}
	trouble := !started || len(texts) > 1 || strings.Contains(c.log.String(), "level=ERROR")
	if all := strings.Join(texts, "\n"); trouble && !p.saidIn(all) && c.fired {
		t.Errorf("%v: nobody says so:\n%s", p, all)
	} else if trouble && !c.fired {
		t.Errorf("%v was not reached, all the same:\n%s", p, all)
	}
	if p.call != "" && testing.Verbose() && *onlyCalls != "" {
		t.Logf("%v: fired %v, started %v:\n%s", p, c.fired, started, strings.Join(texts, "\n"))
	}
	gone := p.call == "fstatat" && p.errno == unix.ENOENT // it was told so itself
	if left := filesIn(dir); started && len(left) > 0 && !gone && !strings.Contains(c.log.String(), p.errno.Error()) {
		t.Errorf("%v: left behind without a word: %v", p, left)
	}
	if !started {
		// Another one can start, and finds what there is.
		s := healthy(t, socket)
		if takeover {
			if err := talkTo(ctx, socket, old); err != nil {
				t.Errorf("%v: the old Ksock with the next supervisor: %v", p, err)
			}
			old.Close()
		}
		if err := roundTrip(socket); err != nil {
			t.Errorf("%v: the next supervisor: %v", p, err)
		}
		s.Close()
		if left := filesIn(dir); len(left) > 0 {
			t.Errorf("%v: the next supervisor leaves behind: %v", p, left)
		}
	}
	maps.Copy(uses, c.uses)
	return c.fired
}

// talkTo sends old a message, as Listener of $.Old, by way of a new Ksock.
func talkTo(ctx context.Context, socket string, old *ksock.Ksock) error {
	if err := old.Bind(ctx, "$.Also", ksock.Listener); err != nil {
		return err
	}
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		return err
	}
	defer k.Close()
	if err := old.Unbind(ctx, "$.Also", ksock.Listener); err != nil {
		return err
	}
	if _, err := k.Send(ctx, ksock.Announce("$.Old", []byte("are you there?"))); err != nil {
		return err
	}
	m, err := old.Next(ctx)
	if err == nil && string(m.Data) != "are you there?" {
		err = fmt.Errorf("the old Ksock gets %q", m.Data)
	}
	return err
}

// killed has a process with a Ksock die.
func killed(t testing.TB, socket string) error {
	cmd := shmtest.Command(t, "holder", socket)
	cmd.Stderr = nil
	c := shmtest.Start(t, cmd)
	defer c.Kill()
	if said, _ := c.Out.ReadString('\n'); said != "ready\n" {
		return fmt.Errorf("it says %q", said)
	}
	return nil
}

// filesOf waits until the process has no more descriptors than that, and tells how many and which.
func filesOf(pid, most int) (n int, what string) {
	give := time.NewTimer(5 * time.Second)
	defer give.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last := -1; ; {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			return -1, err.Error()
		}
		n, what = 0, ""
		for _, e := range entries {
			if to, err := os.Readlink(dir + "/" + e.Name()); err == nil && to != shmtest.FailedClose {
				n++
				what += e.Name() + " " + to + "; "
			}
		}
		if most > 0 && n <= most || most == 0 && n == last {
			return n, what
		}
		last = n
		select {
		case <-tick.C:
		case <-give.C:
			return n, what
		}
	}
}

func filesIn(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
