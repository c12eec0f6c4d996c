package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/control"
	"kbus.internal/shm/handoff"
)

// holder is a process for good: its pid may be used again, with its start time it is not.
type holder struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// owner reads whose process it is.
func owner(pid int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return 0, err
	}
	return st.Uid, nil
}

// command reads the command line of the process, for people to read; "" if there is none to read.
func command(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || pid == 0 {
		return ""
	}
	s := strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
	if len(s) <= control.MaxCommand {
		return s
	}
	s = s[:control.MaxCommand]
	for i := 1; i < utf8.UTFMax && !utf8.RuneStart(s[len(s)-1]); i++ {
		s = s[:len(s)-1]
	}
	return s
}

// openHolder returns the process h. Errors: handoff.ErrGone if it has ended.
func openHolder(h holder) (*handoff.Process, error) {
	p, err := handoff.OpenProcess(h.PID)
	if err != nil {
		return nil, err
	}
	if p.StartTime() != h.Start {
		p.Close()
		return nil, fmt.Errorf("process %d: %w", h.PID, handoff.ErrGone)
	}
	return p, nil
}

// regionID tells regions apart: the identity of the memory file, which the
// kernel gives and nobody can forge.
type regionID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

var errNotHeld = errors.New("the process does not hold the region")

func idOf(f *os.File) (regionID, error) {
	info, err := f.Stat()
	if err != nil {
		return regionID{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return regionID{Dev: st.Dev, Ino: st.Ino}, nil
}

// borrow gets the region id from the descriptors of p, which may be stopped.
// Errors: errNotHeld, EACCES if p may not be looked at.
func borrow(p *handoff.Process, id regionID) (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID())
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		path := dir + "/" + n.Name()
		if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || (regionID{st.Dev, st.Ino}) != id {
			continue
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		// What was opened need not be what was looked at.
		f := os.NewFile(uintptr(fd), "region")
		if got, err := idOf(f); err == nil && got == id {
			return f, nil
		}
		f.Close()
	}
	return nil, errNotHeld
}
