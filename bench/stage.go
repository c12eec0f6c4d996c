package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
	"kbus.internal/supervisor"
)

// measure makes the Result of what f does on a stage.
func measure(ctx context.Context, o Options, workload string, f func(*stage) error) (*Result, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	r := &Result{
		Workload: workload, System: KBUS, Started: time.Now().Round(time.Millisecond), Seconds: o.Duration.Seconds(),
		Pin: o.Pin, Machine: ThisMachine(),
	}
	m, err := startMeter()
	if err != nil {
		return nil, err
	}
	s := &stage{o: o, result: r}
	s.ctx, s.end = context.WithCancelCause(ctx)
	err = f(s)
	s.clear()
	if s.super != nil {
		s.super.Close()
		os.RemoveAll(s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("bench %s: %w", workload, err)
	}
	r.Load, err = m.stop()
	r.conclude()
	return r, err
}

// stage is where a workload plays: its processes, and what they share.
type stage struct {
	o      Options
	result *Result
	ctx    context.Context // ends, with the cause, when a process fails
	end    context.CancelCauseFunc

	dir   string // of the supervisor's socket
	super *supervisor.Supervisor
	mem   *shm.Memory

	peer, peerDir string // if there is one

	onBus   int    // of the next to enter
	address string // where one of them listens

	members []*member
	roles   map[string]int
}

// bus starts the private supervisor.
func (s *stage) bus() (err error) {
	if s.dir, err = os.MkdirTemp("", "kbus-bench-"); err != nil {
		return err
	}
	s.super, err = supervisor.Start(supervisor.Options{Socket: s.socket()})
	if err != nil {
		os.RemoveAll(s.dir)
	}
	return err
}

func (s *stage) socket() string { return filepath.Join(s.dir, "socket") }

// memory makes the region that the processes share.
func (s *stage) memory(size int64) (err error) {
	s.mem, err = shm.Create("kbus-bench", size)
	return err
}

// member is a process, seen from the parent.
type member struct {
	role    string
	cpu     *int
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	in      *json.Encoder
	serves  bool // until the others have ended
	reports chan *report
	ended   chan struct{}
}

// enter starts a process for a role, and returns its first report when it is ready to go.
func (s *stage) enter(role string) (*member, *report, error) {
	if s.roles == nil {
		s.roles = map[string]int{}
	}
	t := task{
		Role: role, Bus: s.onBus, Address: s.address, Memory: s.mem != nil, Wait: s.o.Wait, Size: s.o.Size, Copy: s.o.Copy,
		Duration: s.o.Duration, Listeners: s.o.Listeners, Index: s.roles[role],
		Peer: s.peer, PeerDir: s.peerDir,
	}
	if s.super != nil {
		t.Socket = s.socket()
	}
	s.roles[role]++
	m := &member{role: role, reports: make(chan *report, 2), ended: make(chan struct{})}
	if n := len(s.o.Pin); n > 0 {
		m.cpu = &s.o.Pin[len(s.members)%n]
	}
	if err := m.start(s); err != nil {
		if s.ctx.Err() != nil {
			return nil, nil, context.Cause(s.ctx)
		}
		return nil, nil, fmt.Errorf("start %s: %w", role, err)
	}
	s.members = append(s.members, m)
	if m.in.Encode(&t) != nil {
		_ = m.kill() // mostly, it has ended already: how, will be said
	}
	r, err := s.await(m)
	return m, r, err
}

// self is this program, even after its file was replaced.
const self = "/proc/self/exe"

// mostWords is how much of what a process says when it dies goes into the error.
const mostWords = 1000

func (m *member) start(s *stage) error {
	c := exec.CommandContext(s.ctx, s.o.Command[0], s.o.Command[1:]...)
	m.cmd = c
	if c.Path == self {
		c.Args[0] = os.Args[0]
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the parent
	c.Cancel = m.kill
	if s.mem != nil {
		c.ExtraFiles = []*os.File{s.mem.File()}
	}
	var words bytes.Buffer
	c.Stderr = &words
	stdin, err := c.StdinPipe()
	if err != nil {
		return err
	}
	m.stdin = stdin
	m.in = json.NewEncoder(stdin)
	stdout, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := pinned(m.cpu, c.Start); err != nil {
		return err
	}
	go func() {
		defer close(m.ended)
		done := false
		for out := json.NewDecoder(stdout); ; {
			r := new(report)
			if out.Decode(r) != nil {
				break
			}
			switch {
			case r.Unavailable != nil:
				s.end(r.Unavailable)
			case r.Error != "":
				s.end(fmt.Errorf("%s: %s", m.role, r.Error))
			}
			done = !r.Ready
			m.reports <- r
			if done {
				break
			}
		}
		if _, err := io.Copy(io.Discard, stdout); err != nil {
			s.end(fmt.Errorf("%s: %w", m.role, err))
		}
		err := c.Wait()
		if !done {
			text := strings.TrimSpace(words.String())
			s.end(fmt.Errorf("%s ended too early (%v) %s", m.role, err, text[:min(len(text), mostWords)]))
		}
	}()
	return nil
}

// kill ends the process, and those that it has started.
func (m *member) kill() error { return syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL) }

// pinned calls start, which starts a process, such that the process only ever runs on cpu.
func pinned(cpu *int, start func() error) error {
	if cpu == nil {
		return start()
	}
	result := make(chan error)
	go func() {
		// A process inherits the CPUs of the thread that starts it. The thread is
		// not unlocked: it ends with this goroutine.
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(*cpu)
		err := unix.SchedSetaffinity(0, &set)
		if err != nil {
			err = fmt.Errorf("pin to CPU %d: %w", *cpu, err)
		} else {
			err = start()
		}
		result <- err
	}()
	return <-result
}

// await returns a process's next report.
func (s *stage) await(m *member) (*report, error) {
	select {
	case r := <-m.reports:
		if r.Error == "" {
			return r, nil
		}
		<-s.ctx.Done() // it is the cause
	case <-s.ctx.Done():
	}
	return nil, context.Cause(s.ctx)
}

// play lets all processes go, and returns their reports, in the order of entry.
func (s *stage) play() ([]*report, error) {
	for _, m := range s.members {
		if m.in.Encode(wordGo) != nil {
			_ = m.kill()
		}
	}
	reports := make([]*report, len(s.members))
	for i, m := range s.members {
		if m.serves && m.in.Encode(wordEnd) != nil {
			_ = m.kill()
		}
		r, err := s.await(m)
		if err != nil {
			return nil, err
		}
		reports[i] = r
		p := Process{Role: m.role, CPU: m.cpu, Messages: r.Messages, Voluntary: r.Voluntary, Forced: r.Forced}
		if r.Messages > 0 {
			p.CPUTime = float64(r.CPU) / float64(r.Messages)
		}
		s.result.Processes = append(s.result.Processes, p)
	}
	s.leave()
	return reports, nil
}

// leave waits until all processes have ended, for the next ones to enter.
func (s *stage) leave() {
	for _, m := range s.members {
		m.stdin.Close()
		<-m.ended
	}
	s.members, s.roles = nil, nil
	if s.mem != nil {
		s.mem.Close()
		s.mem = nil
	}
}

// clear ends what is left, by force.
func (s *stage) clear() {
	s.end(nil)
	var all sync.WaitGroup
	for _, m := range s.members {
		all.Go(func() { <-m.ended })
	}
	all.Wait()
	s.leave()
}
