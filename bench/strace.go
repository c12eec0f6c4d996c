package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// ErrNoStrace is in the errors for system calls that can't be counted here.
var ErrNoStrace = errors.New("strace can't count system calls here")

// watcher is a strace that counts.
type watcher struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// watch begins to count the system calls of all who entered, if that is asked for:
// of the thread that a role keeps to, else of all threads.
func (s *stage) watch() ([]*watcher, error) {
	if !s.o.Strace {
		return nil, nil
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil, fmt.Errorf("%w: it is not installed: apt-get install strace", ErrNoStrace)
	}
	var all []*watcher
	for _, m := range s.members {
		w, err := watch(s.ctx, strace, m.cmd.Process.Pid, m.thread)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

func watch(ctx context.Context, strace string, pid, thread int) (*watcher, error) {
	args := []string{"-c", "-o", "/dev/stdout", "-p", strconv.Itoa(pid), "-f"}
	if thread > 0 {
		args = []string{"-c", "-o", "/dev/stdout", "-p", strconv.Itoa(thread)}
	}
	w := &watcher{cmd: exec.CommandContext(ctx, strace, args...)}
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
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrNoStrace, strings.TrimSpace(line)), w.cmd.Wait())
	}
	if err != nil || !strings.Contains(line, "attached") {
		return nil, errors.Join(errors.New("strace: "+line), err, w.cmd.Process.Kill())
	}
	go io.Copy(io.Discard, words)
	return w, nil
}

// end ends the counting, and returns the number of calls.
func (w *watcher) end() (calls int64, err error) {
	_ = w.cmd.Process.Signal(os.Interrupt)
	_ = w.cmd.Wait() // it may end by itself, with the process
	table := w.out.String()
	for line := range strings.Lines(table) {
		// 100.00    0.001234           1      1234           total
		if f := strings.Fields(line); len(f) > 3 && f[len(f)-1] == "total" {
			return strconv.ParseInt(f[3], 10, 64)
		}
	}
	if strings.TrimSpace(table) == "" {
		return 0, nil // there were none
	}
	return 0, fmt.Errorf("not a table of strace's: %s", table)
}

// counted takes over the system calls that were counted.
func (p *Process) counted(w *watcher) error {
	calls, err := w.end()
	if err == nil && p.Messages > 0 {
		each := float64(calls) / float64(p.Messages)
		p.SystemCalls = &each
	}
	return err
}
