package failing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/shm/shmtest"
	"kbus.internal/supervisor"
)

// memoryGroup makes a memory cgroup of at most n bytes and returns the file that
// takes its processes; "" and why if this machine lets nobody make one.
func memoryGroup(t *testing.T, n int) (procs, why string) {
	name := fmt.Sprintf("kbus-test-%d", os.Getpid())
	set := func(file, value string) error { // it has to be there: else this is no such group
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	}
	for _, kind := range [][2]string{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		group := filepath.Join(kind[0], name)
		if err := os.Mkdir(group, 0o700); err != nil {
			why += err.Error() + "; "
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		if err := set(filepath.Join(group, kind[1]), strconv.Itoa(n)); err != nil {
			why += err.Error() + "; "
			continue
		}
		// None of the swap, where there is any.
		set(filepath.Join(group, "memory.swap.max"), "0")
		set(filepath.Join(group, "memory.memsw.limit_in_bytes"), strconv.Itoa(n))
		return filepath.Join(group, "cgroup.procs"), ""
	}
	return "", why
}

// TestMemoryGroup: the memory cgroup of a client takes no more of what it fills
// of the arena, so the kernel kills it. To the bus that is a death like any other
// (R9.2): its asker has the Status, and all that it held is back.
func TestMemoryGroup(t *testing.T) {
	procs, why := memoryGroup(t, 48<<20)
	if procs == "" {
		t.Skipf("no memory cgroup can be made here: %s", why)
	}
	socket := socketIn(t)
	s, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: ring.Config{MaxKsocks: 32, ArenaBytes: 256 << 20, MaxMessageSize: 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := shmtest.Start(t, shmtest.Command(t, "greedy", socket, procs))
	if said, err := c.Out.ReadString('\n'); said != "ready\n" {
		t.Fatalf("%q, %v", said, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Call(ctx, ksock.Request("$.Greedy", nil))
	var status *ksock.StatusError
	if !errors.As(err, &status) || status.Name() != ksock.StatusIgnored {
		t.Errorf("who asked it is told %v", err)
	}
	err = c.Wait()
	if state, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || state.Signal() != unix.SIGKILL {
		t.Errorf("it was not killed, but ends with %v", err)
	}
	if err := errors.Join(k.Close(), roundTrip(socket), emptyBus(socket)); err != nil {
		t.Errorf("the bus does not live on: %v", err)
	}
}

// greedyChild reads a Request, and then fills memory of the arena: SOCKET PROCS.
func greedyChild() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := os.WriteFile(os.Args[2], []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: os.Args[1]})
	if err == nil {
		err = k.Bind(ctx, "$.Greedy", ksock.Replier)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := k.Next(ctx); err != nil {
		return err
	}
	for range 200 {
		l, err := k.Loan(1 << 20)
		if err != nil {
			return err
		}
		for data := l.Data(); len(data) > 0; data = data[min(4096, len(data)):] {
			data[0] = 1
		}
	}
	return errors.New("the memory cgroup has no effect")
}

// asOther makes the process one of a user who has no other processes, within a limit.
func asOther(which int, limit uint64) error {
	if err := unix.Setrlimit(which, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(otherUser), syscall.Setuid(otherUser))
}

// othersSocket is a socket's path in a directory of otherUser's.
func othersSocket(t *testing.T) string {
	if os.Geteuid() != 0 {
		t.Skip("only root can become a user that has no other processes")
	}
	socket := socketIn(t)
	if err := os.Chown(filepath.Dir(socket), otherUser, otherUser); err != nil {
		t.Fatal(err)
	}
	return socket
}

// TestLockedMemory: RLIMIT_MEMLOCK is 0, for supervisor and client. Nothing
// of a bus is locked in memory, so nothing is different.
func TestLockedMemory(t *testing.T) {
	c := shmtest.Command(t, "unlocked", othersSocket(t))
	c.Stderr = nil
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func unlockedChild() error {
	if err := asOther(unix.RLIMIT_MEMLOCK, 0); err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if unix.Mlock(page) == nil {
		return errors.New("the limit has no effect")
	}
	s, err := supervisor.Start(supervisor.Options{Socket: os.Args[1], Bus: small})
	if err != nil {
		return err
	}
	return errors.Join(roundTrip(os.Args[1]), s.Close())
}

// TestSupervisorThreads: the supervisor may have few threads. Either it serves all who come, since
// none of them needs a thread there; or Go's runtime ends it and says how to raise the limit, and
// the next supervisor has the bus, with its Ksocks, from them (R9.4).
func TestSupervisorThreads(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	serves, most := 0, 12
	for n := 1; n <= most; n++ {
		socket := othersSocket(t)
		cmd := shmtest.Command(t, "few threads", socket, strconv.Itoa(n))
		var log strings.Builder
		cmd.Stderr = &log
		c := shmtest.Start(t, cmd)
		said, _ := c.Out.ReadString('\n')
		var open []*ksock.Ksock
		for said == "ready\n" && len(open) < 20 {
			k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
			if err != nil {
				said = err.Error()
				break
			}
			open = append(open, k)
		}
		if said == "ready\n" {
			serves++
		}
		c.In.Close()
		if err := c.Wait(); (err != nil || said != "ready\n") && !strings.Contains(log.String(), "ulimit -u") {
			t.Errorf("%d threads: the supervisor ends with %v, after %q\n%s", n, err, said, log.String())
		}
		for _, k := range open {
			k.Close()
		}
		next := shmtest.Command(t, "few threads", socket, "1000")
		next.Stderr = nil
		again := shmtest.Start(t, next)
		if said, err := again.Out.ReadString('\n'); said != "ready\n" {
			t.Errorf("%d threads: the next supervisor says %q, %v", n, said, err)
		}
		err := roundTrip(socket)
		for ; errors.Is(err, unix.EAGAIN) && ctx.Err() == nil; err = roundTrip(socket) {
			// this process is about to give the bus back, with what it closed meanwhile
		}
		if err := errors.Join(err, emptyBus(socket)); err != nil {
			t.Errorf("%d threads: the bus does not live on: %v", n, err)
		}
		again.Kill()
	}
	t.Logf("1 to %d threads: %d serve", most, serves)
	if serves == 0 {
		t.Error("no supervisor has served")
	}
}

// fewThreadsChild runs a supervisor that may have few threads until its input ends: SOCKET N.
func fewThreadsChild() error {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	if err := asOther(unix.RLIMIT_NPROC, uint64(n)); err != nil {
		return err
	}
	return runSupervisor(os.Args[1], 0)
}
