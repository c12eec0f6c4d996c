package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/supervisor"
)

// Rest measures a bus that nobody uses, though a Listener waits for messages: the
// memory of bus and supervisor, and the supervisor's CPU time.
func Rest(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "rest", func(s *stage) (err error) {
		if s.dir, err = os.MkdirTemp("", "kbus-bench-"); err != nil {
			return err
		}
		if err := s.start("supervisor", nil, &s.extras); err != nil {
			return err
		}
		super := s.extras[0]
		if err := s.surround(); err != nil {
			return err
		}
		if err := s.start("idle", nil, &s.extras); err != nil {
			return err
		}
		if err := s.letExtrasGo(); err != nil {
			return err
		}
		if s.result.Memory, err = s.watchRest(super.cmd.Process.Pid); err != nil {
			return err
		}
		return s.dismiss()
	})
}

// resting is a supervisor.
func resting(w *worker) (*report, error) {
	s, err := supervisor.Start(supervisor.Options{Socket: w.Socket})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	<-w.ctx.Done()
	return &report{}, nil
}

// settled is how long a supervisor is given to come to rest.
const settled = 300 * time.Millisecond

// watchRest looks at a supervisor from outside, at the beginning and at the end.
func (s *stage) watchRest(pid int) (*Memory, error) {
	wait := func(d time.Duration) error {
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(settled); err != nil {
		return nil, err
	}
	before, err := usedBy(pid)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := wait(s.o.Duration); err != nil {
		return nil, err
	}
	after, err := usedBy(pid)
	if err != nil {
		return nil, err
	}
	seconds := time.Since(start).Seconds()
	r, err := residentOf(pid)
	if err != nil {
		return nil, err
	}
	m := &Memory{
		Private: r.private, Program: r.file,
		CPUTime: float64(after.cpu-before.cpu) / seconds, Wakes: float64(after.switches-before.switches) / seconds,
	}
	m.Bus, err = regionOf(pid)
	return m, err
}

// resident is the memory that a process has, in bytes.
type resident struct{ private, file, shared int64 }

func residentOf(pid int) (r resident, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, err
	}
	for key, to := range map[string]*int64{"RssAnon": &r.private, "RssFile": &r.file, "RssShmem": &r.shared} {
		n, err := strconv.ParseInt(strings.TrimSuffix(cpuinfo(status, key), " kB"), 10, 64)
		if err != nil {
			return r, fmt.Errorf("%s of process %d: %w", key, pid, err)
		}
		*to = n << 10
	}
	return r, nil
}

// used is what all threads of a process have used.
type used struct {
	cpu      time.Duration
	switches int64
}

func usedBy(pid int) (u used, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return u, fmt.Errorf("threads of process %d: %w", pid, os.ErrNotExist)
	}
	for _, path := range tasks {
		// CPU time, time spent ready, how often it got a CPU.
		f := strings.Fields(line(path))
		if len(f) < 3 {
			return u, fmt.Errorf("%s says %q", path, f)
		}
		var n [3]int64
		for i := range n {
			if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
				return u, fmt.Errorf("%s: %w", path, err)
			}
		}
		u.cpu += time.Duration(n[0])
		u.switches += n[2]
	}
	return u, nil
}

// regionOf is the memory that the region of a supervisor's only bus really has.
func regionOf(pid int) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if to, err := os.Readlink(f); err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		return st.Blocks * 512, nil
	}
	return 0, fmt.Errorf("the region of process %d: %w", pid, syscall.ENOENT)
}
