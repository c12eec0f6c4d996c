package shmtest

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A Call is a system call that a watched process is about to make.
type Call struct {
	Number int // unix.SYS_...
	Args   [6]uint64
}

// BeWatched makes this process, a child of a test, ask the test about each
// system call that its Go code makes from now on, on all threads. It tells the
// test so by a line on standard output, and returns when the test, with Watch,
// has answered by a line on standard input.
//
// Seen is what goes through the one function by which Go's library makes system
// calls for others, told by the address that the call comes from: the calls of
// packages os, syscall and unix, and of what uses them. Not seen are those of
// Go's runtime itself (threads, signals, its own memory, sleeping, the clock),
// most of which it does not survive the failure of; those in except, and those
// that read and write standard input and output.
//
// (strace -e inject can't do this: it counts per thread, while goroutines move,
// and does not tell the runtime's calls from ours.)
func BeWatched(except ...int) error {
	fd, err := watchSelf(except)
	if err != nil {
		return fmt.Errorf("watch the system calls of this process: %w", err)
	}
	fmt.Println("watch", fd)
	if _, err := bufio.NewReaderSize(os.Stdin, 16).ReadString('\n'); err != nil {
		return err
	}
	return unix.Close(fd) // the last call that the test is not told of
}

// EndWatch tells the test that what this process does from now on is no part of
// what is watched: all its calls are made.
func EndWatch() { unix.Close(endOfWatch) }

const endOfWatch = -77 // no descriptor

// watchSelf installs the filter and returns the descriptor at which the calls
// are told.
func watchSelf(except []int) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, os.NewSyscallError("prctl", err)
	}
	// From which address do calls come? From that of this one.
	fd, err := installFilter(nil, unix.SYS_GETPPID, nil)
	if err != nil {
		return -1, err
	}
	from := make(chan uint64, 1)
	go func() {
		n, err := receiveCall(fd)
		if err == nil {
			err = answerCall(fd, n.id, 0)
		}
		if err != nil {
			panic(err)
		}
		from <- n.address
	}()
	unix.Syscall(unix.SYS_GETPPID, 0, 0, 0)
	address := <-from
	unix.Close(fd) // makes room for the other
	return installFilter(&address, 0, except)
}

// A Watcher answers for the calls of a watched process.
type Watcher struct {
	fd     int
	first  int // in the process: the descriptor whose close is the beginning
	spent  int // stands in the place of descriptors whose close is to fail
	decide func(Call) unix.Errno
	done   sync.WaitGroup
	err    error
}

// FailedClose is what descriptors lead to (/proc/PID/fd) whose close was made
// to fail: as with the kernel, what they were before is closed.
const FailedClose = "/memfd:failed close (deleted)"

// Watch answers the child of that pid, which has said "watch FD": decide tells
// the error with which a call ends, 0 to let it be made. It is called by one goroutine. Then
// the caller lets the child go on by a line.
func Watch(t testing.TB, pid, fd int, decide func(Call) unix.Errno) *Watcher {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	w := &Watcher{decide: decide, first: fd}
	if w.fd, err = unix.PidfdGetfd(pidfd, fd, 0); err != nil {
		t.Fatal(err)
	}
	if w.spent, err = unix.MemfdCreate("failed close", unix.MFD_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w.done.Go(w.serve)
	return w
}

// Wait returns when the process has ended.
func (w *Watcher) Wait() error {
	w.done.Wait()
	return w.err
}

func (w *Watcher) serve() {
	defer unix.Close(w.fd)
	defer unix.Close(w.spent)
	begun, over := false, false
	for {
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			w.err = os.NewSyscallError("poll", err)
			return
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return // all have ended
		}
		n, err := receiveCall(w.fd)
		if err == unix.ENOENT || err == unix.EINTR { // killed before it was told
			continue
		}
		if err == nil {
			var errno unix.Errno
			switch of := int(int32(n.call.Args[0])); {
			case over:
			case n.call.Number == unix.SYS_CLOSE && of == w.first && !begun:
				begun = true
			case n.call.Number == unix.SYS_CLOSE && of == endOfWatch:
				over = true
			case begun:
				errno = w.decide(n.call)
			}
			if errno != 0 && n.call.Number == unix.SYS_CLOSE {
				err = replaceFile(w.fd, n.id, w.spent, int(n.call.Args[0]))
			}
			if err == nil {
				err = answerCall(w.fd, n.id, errno)
			}
		}
		if err != nil && err != unix.ENOENT { // ENOENT: killed meanwhile
			w.err = err
			return
		}
	}
}
