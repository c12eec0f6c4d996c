package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

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
	if len(s) > control.MaxCommand {
		s = strings.ToValidUTF8(s[:control.MaxCommand], "") // without a part of a rune at its end
	}
	return s
}

// differs tells whether h and o are two processes for sure: a start that is 0
// could not be read.
func (h holder) differs(o holder) bool {
	return h.PID != o.PID || h.Start != 0 && o.Start != 0 && h.Start != o.Start
}

// openHolder returns the process h; sure tells whether it can be no other one.
// Errors: handoff.ErrGone if it has ended.
func openHolder(h holder) (p *handoff.Process, sure bool, err error) {
	if p, err = handoff.OpenProcess(h.PID); err != nil {
		return nil, false, err
	}
	if h.differs(holder{h.PID, p.StartTime()}) {
		p.Close()
		return nil, false, fmt.Errorf("process %d: %w", h.PID, handoff.ErrGone)
	}
	return p, h.Start != 0 && p.StartTime() != 0, nil
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
// Errors: errNotHeld, EACCES if p may not be looked at. Only a descriptor that is
// gone may be passed by: that p holds the region and it is not found would split the bus.
func borrow(p *handoff.Process, id regionID) (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID())
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		path := dir + "/" + n.Name()
		to, err := os.Readlink(path)
		if err == nil && !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		var st unix.Stat_t
		if err == nil {
			err = os.NewSyscallError("stat "+path, unix.Stat(path, &st))
		}
		if errors.Is(err, fs.ErrNotExist) || err == nil && (regionID{st.Dev, st.Ino}) != id {
			continue
		}
		if err != nil {
			return nil, err
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		// What was opened need not be what was looked at.
		f := os.NewFile(uintptr(fd), "region")
		got, err := idOf(f)
		if err == nil && got == id {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, errNotHeld
}
