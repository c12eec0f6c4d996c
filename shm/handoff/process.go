package handoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Process is a process that was met and can not be mistaken for another one
// later: a pidfd. All methods may be called from any goroutine.
type Process struct {
	pid       int
	startTime uint64
	w         *waiter
}

// Process returns the peer's process. The caller closes it.
//
// Before Linux 6.5 it is found by its number, with pidfd_open (Linux 5.3), and
// believed if the connection is still open then: the process that connected, or
// one that it left the connection to, was alive all the time.
//
// Errors: ErrGone if it has ended already; EMFILE and the like.
func (c *Conn) Process() (*Process, error) {
	p, err := c.process(true)
	if err != nil {
		return nil, fmt.Errorf("handoff: process of the peer: %w", err)
	}
	return p, nil
}

// process asks for the peer's pidfd if peerPidfd is set and the kernel has that.
func (c *Conn) process(peerPidfd bool) (*Process, error) {
	var pidfd, pid int
	err := c.w.control(func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt(SO_PEERCRED)", err)
		}
		pid = int(cred.Pid)
		if peerPidfd {
			pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
			// Some kernels refuse a peer that was reaped already; others, from
			// about 6.16, give its pidfd, which newProcess looks at.
			if err == unix.ESRCH || err == unix.EINVAL {
				return ErrGone
			}
			if err != unix.ENOPROTOOPT { // Linux 6.5 has it
				return os.NewSyscallError("getsockopt(SO_PEERPIDFD)", err)
			}
		}
		if pid == 0 {
			return errors.New("it is in another pid namespace, and the kernel is older than 6.5")
		}
		if pidfd, err = pidfdOpen(pid); err != nil {
			return err
		}
		if hungUp, err := polled(fd, unix.POLLHUP|unix.POLLRDHUP); hungUp || err != nil {
			unix.Close(pidfd)
			return errors.Join(err, ErrGone)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return newProcess(pidfd, pid)
}

// OpenProcess returns the process that has the number pid now. The caller
// compares StartTime to know whether it is the one it means, and closes it.
//
// Errors: ErrGone if there is none; EMFILE and the like.
func OpenProcess(pid int) (*Process, error) {
	fd, err := pidfdOpen(pid)
	if err != nil {
		return nil, fmt.Errorf("handoff: process %d: %w", pid, err)
	}
	p, err := newProcess(fd, pid)
	if err != nil {
		return nil, fmt.Errorf("handoff: process %d: %w", pid, err)
	}
	return p, nil
}

func pidfdOpen(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return -1, ErrGone
	}
	return fd, os.NewSyscallError("pidfd_open", err)
}

// newProcess takes pidfd over, and closes it if there is an error.
func newProcess(pidfd, pid int) (*Process, error) {
	w, err := newWaiter(pidfd, "pidfd of "+strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	p := &Process{pid: pid, w: w}
	started, statErr := startTime(pid)
	// Now the pidfd tells whether it lived, and the number was its own, when
	// the time was read.
	ended, err := p.Ended()
	switch {
	case err != nil:
	case ended:
		err = ErrGone
	case errors.Is(statErr, unix.EMFILE), errors.Is(statErr, unix.ENFILE), errors.Is(statErr, unix.ENOMEM):
		err = statErr
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	p.startTime = started
	return p, nil
}

// startTime returns field 22 of /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// Field 2 is the command in parentheses, and may hold any of " ()".
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const wanted = 22 - 3 // the first one here is field 3
	if len(fields) <= wanted {
		return 0, fmt.Errorf("/proc/%d/stat has no start time", pid)
	}
	return strconv.ParseUint(string(fields[wanted]), 10, 64)
}

// PID returns the process's number in this pid namespace, for display and for
// the books: after the process's end another one may get it. 0 if the process is
// not visible here.
func (p *Process) PID() int { return p.pid }

// StartTime returns when the process started, in clock ticks (1/100 s) since
// boot: with PID it names a process for as long as the system runs. 0 if
// /proc does not tell (another pid namespace, hidepid).
func (p *Process) StartTime() uint64 { return p.startTime }

// Ended tells whether the process has ended, all its threads, whether or not
// its parent has noticed.
func (p *Process) Ended() (bool, error) {
	var ended bool
	err := p.w.control(func(fd int) (err error) {
		ended, err = polled(fd, unix.POLLIN)
		return err
	})
	return ended, err
}

// Wait waits until the process has ended, all its threads; it does not reap it.
// Nil then; else context.Cause or os.ErrClosed. A waiting goroutine holds no
// thread.
func (p *Process) Wait(ctx context.Context) error {
	var err error
	e := p.w.read(ctx, func(fd int) bool {
		var ended bool
		ended, err = polled(fd, unix.POLLIN)
		return ended || err != nil
	})
	if err = errors.Join(e, err); err != nil {
		return fmt.Errorf("handoff: wait for process %d: %w", p.pid, err)
	}
	return nil
}

// Close lets go of the process, and ends Wait.
func (p *Process) Close() error { return p.w.close() }

// polled tells whether one of events is there now.
func polled(fd int, events int16) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	err := again(func() error {
		_, err := unix.Poll(fds, 0)
		return err
	})
	return fds[0].Revents&events != 0, os.NewSyscallError("poll", err)
}
