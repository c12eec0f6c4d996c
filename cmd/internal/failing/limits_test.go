package failing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/shm/shmtest"
	"kbus.internal/supervisor"
)

// limitedChild does the script under a limit, and again without it: SOCKET
// files|memory N. N is how many descriptors, or bytes of addresses, there may be
// beyond those in use.
func limitedChild() error {
	socket := os.Args[1]
	n, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return err
	}
	script(socket, func(string, error) {}) // warms up
	quiet()
	before := resources()
	which, now := unix.RLIMIT_NOFILE, 0
	if os.Args[2] == "memory" {
		which = unix.RLIMIT_AS
		statm, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			return err
		}
		fmt.Sscan(string(statm), &now)
		now *= os.Getpagesize()
	} else {
		for what, n := range before {
			if what != "goroutines" && what != "mappings of regions" {
				now += n
			}
		}
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(which, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(which, &unix.Rlimit{Cur: uint64(now + n), Max: old.Max}); err != nil {
		return err
	}
	var errs []error
	script(socket, func(step string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step, err))
		}
	})
	quiet()
	if err := unix.Setrlimit(which, &old); err != nil {
		return err
	}
	for _, err := range errs {
		fmt.Println("limited:", err)
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENOMEM) {
			return fmt.Errorf("does not say what is short: %w", err)
		}
	}
	if err := roundTrip(socket); err != nil {
		return fmt.Errorf("without the limit: %w", err)
	}
	if left := leftovers(before); left != "" {
		return errors.New("left over: " + left)
	}
	return nil
}

// limited runs a child under a limit, which must not end in trouble, and tells
// whether it met the limit. The bus lives on.
func limited(t *testing.T, socket string, args ...string) bool {
	t.Helper()
	c := shmtest.Command(t, "limited", append([]string{socket}, args...)...)
	var log strings.Builder
	c.Stderr = &log
	out, err := c.Output()
	if err != nil {
		t.Errorf("%v: %v\n%s%s", args, err, out, log.String())
	}
	if err := errors.Join(roundTrip(socket), emptyBus(socket)); err != nil {
		t.Errorf("%v: the bus does not live on: %v", args, err)
	}
	return strings.Contains(string(out), "limited:")
}

// TestClientFiles: a client has room for 0, 1, 2, ... descriptors more.
func TestClientFiles(t *testing.T) {
	socket := socketIn(t)
	healthy(t, socket)
	n := 0
	for limited(t, socket, "files", strconv.Itoa(n)) {
		if n++; n > 40 {
			t.Fatal("40 descriptors are not enough")
		}
	}
	t.Logf("%d descriptors are enough, %d limits", n, n+1)
	if n == 0 {
		t.Error("the limit had no effect")
	}
}

// TestClientMemory: a client has not addresses enough for the region, for want
// of a page or of much more.
func TestClientMemory(t *testing.T) {
	socket := socketIn(t)
	healthy(t, socket)
	size, err := small.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	page := int64(os.Getpagesize())
	for _, less := range []int64{1, 2, 16, 256} {
		if !limited(t, socket, "memory", strconv.FormatInt(size-less*page, 10)) {
			t.Errorf("%d pages less than a region: the limit had no effect", less)
		}
	}
	if limited(t, socket, "memory", strconv.FormatInt(size+256<<20, 10)) {
		t.Error("more than a region is not enough")
	}
}

// TestSupervisorFiles: a supervisor has room for few descriptors. It says so and
// does not start, or serves those for whom there is room, tells the others, and serves
// them when there is room again.
func TestSupervisorFiles(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	starts, most := 0, 40
	for n := 6; n <= most; n++ {
		socket := socketIn(t)
		cmd := shmtest.Command(t, "few", socket, strconv.Itoa(n))
		var log strings.Builder
		cmd.Stderr = &log
		c := shmtest.Start(t, cmd)
		if said, _ := c.Out.ReadString('\n'); said != "ready\n" {
			c.Wait()
			if !strings.Contains(log.String(), unix.EMFILE.Error()) {
				t.Errorf("%d descriptors: the supervisor does not start, and says %s", n, log.String())
			}
			if left := filesIn(filepath.Dir(socket)); len(left) > 0 {
				t.Errorf("%d descriptors: %v is left", n, left)
			}
			continue
		}
		starts++
		var open []*ksock.Ksock
		for {
			k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
			if err != nil {
				if !errors.Is(err, unix.EMFILE) {
					t.Errorf("%d descriptors, %d Ksocks: %v", n, len(open), err)
				}
				break
			}
			open = append(open, k)
			if len(open) > n {
				t.Fatalf("%d descriptors: the limit has no effect", n)
			}
		}
		if len(open) > 1 { // who is there has what it wants
			if err := open[0].Bind(ctx, "$.Old", ksock.Listener); err != nil {
				t.Error(err)
			}
			if _, err := open[1].Send(ctx, ksock.Announce("$.Old", nil)); err != nil {
				t.Error(err)
			}
			if _, err := open[0].Next(ctx); err != nil {
				t.Error(err)
			}
			open[1].Close()
			k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
			for ; errors.Is(err, unix.EMFILE) && ctx.Err() == nil; k, err = ksock.Open(ctx, 0, &ksock.Options{Socket: socket}) {
				// the supervisor is about to close its end
			}
			if err != nil {
				t.Errorf("%d descriptors, one Ksock less: %v", n, err)
			} else {
				k.Close()
			}
		}
		for _, k := range open {
			k.Close()
		}
		c.In.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("%d descriptors: the supervisor ends with %v\n%s", n, err, log.String())
		}
	}
	t.Logf("limits 6 to %d: %d starts", most, starts)
	if starts == 0 || starts > most-6 {
		t.Errorf("%d supervisors have started", starts)
	}
}

// fewChild runs a supervisor with few descriptors until its input ends: SOCKET N.
func fewChild() error {
	warmUp()
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
		return err
	}
	return runSupervisor(os.Args[1])
}

// TestThreads: the user of a client may have no more threads. Go's runtime ends
// a program that needs one, and says how to raise the limit; the bus does not mind.
func TestThreads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become a user that has no other threads")
	}
	socket := socketIn(t)
	if err := os.Chmod(filepath.Dir(socket), 0o711); err != nil {
		t.Fatal(err)
	}
	s, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: small, AllowUsers: []uint32{otherUser}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := shmtest.Command(t, "threads", socket)
	var log strings.Builder
	c.Stderr = &log
	out, err := c.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(log.String(), "ulimit -u") {
		t.Errorf("the client ends with %v\n%s%s", err, out, log.String())
	}
	if !strings.Contains(string(out), "open\n") {
		t.Errorf("the client did not come as far as to wait: %s", out)
	}
	if err := errors.Join(roundTrip(socket), emptyBus(socket)); err != nil {
		t.Errorf("the bus does not live on: %v", err)
	}
}

const otherUser = 61234

// threadsChild has a Ksock wait in each of many threads: SOCKET.
func threadsChild() error {
	if err := asOther(unix.RLIMIT_NPROC, 12); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	waits := make(chan error)
	for i := range 20 {
		k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: os.Args[1], Spin: -1})
		if err != nil {
			return err
		}
		if i == 0 {
			fmt.Println("open")
		}
		go func() {
			_, err := k.Next(ctx)
			waits <- err
		}()
	}
	return <-waits
}

// TestDiskFull: there is no room for the state file.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	c := shmtest.Command(t, "full", filepath.Dir(socketIn(t)))
	c.Stderr = nil
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// fullChild starts a supervisor on a file system that is full, and again when it
// is not: DIR. It has mounts of its own.
func fullChild() error {
	dir := os.Args[1]
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 2*os.Getpagesize())); err != nil {
		return err
	}
	filler, socket := filepath.Join(dir, "filler"), filepath.Join(dir, "socket")
	if err := os.WriteFile(filler, make([]byte, 2*os.Getpagesize()), 0o600); err != nil {
		return err
	}
	_, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: small})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "socket.state") {
		return fmt.Errorf("on a full disk: %w", err)
	}
	if left := filesIn(dir); len(left) != 1 {
		return fmt.Errorf("left on a full disk: %v", left)
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	// So many buses that the file reaches the end of its page by additions.
	s, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: small, Buses: 16})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := roundTrip(socket); err != nil {
		return err
	}
	// It fills up again: who comes once nothing can be added is told.
	if err := os.WriteFile(filler, make([]byte, os.Getpagesize()), 0o600); err != nil {
		return err
	}
	err = nil
	for n := 0; err == nil && n < 1000; n++ {
		err = roundTrip(socket)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("on a disk that is full again: %w", err)
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	if err := roundTrip(socket); err != nil {
		return err
	}
	// What was written while it was full is not in the middle.
	state, err := os.Open(socket + ".state")
	if err != nil {
		return err
	}
	defer state.Close()
	var value any
	for d := json.NewDecoder(state); err == nil; err = d.Decode(&value) {
	}
	if err != io.EOF {
		return fmt.Errorf("the state file afterwards: %w", err)
	}
	return nil
}
