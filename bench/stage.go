package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
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
		Ksocks: o.Ksocks, Bindings: o.Bindings, Depth: o.Depth, Busy: o.Busy, Traced: o.Strace,
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
	}
	if s.dir != "" {
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

	address string // where a Limpet listens
	onBus   int    // of the next to start

	members []*member // in the order of entry
	extras  []*member // who are only there
	roles   map[string]int
}

// set sets the stage: a private supervisor, what there is besides, and who play.
func (s *stage) set(roles ...string) error {
	if err := s.bus(); err != nil {
		return err
	}
	if err := s.surround(); err != nil {
		return err
	}
	return s.enter(roles...)
}

// bus starts the private supervisor, if it does not run.
func (s *stage) bus() (err error) {
	if s.super != nil {
		return nil
	}
	if s.dir, err = os.MkdirTemp("", "kbus-bench-"); err != nil {
		return err
	}
	s.super, err = supervisor.Start(supervisor.Options{Socket: s.socket(), Bus: s.config()})
	return err
}

// config is the bus's: the usual one, if all find room there.
func (s *stage) config() ring.Config {
	if n := s.o.Ksocks + 256; s.o.Ksocks > 128 {
		return ring.Config{MaxKsocks: n}
	}
	return ring.Config{}
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
	thread  int // that does the work; 0: any of it
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	in      *json.Encoder
	reports chan *report
	ended   chan struct{}
}

// surround brings in what there is to be besides.
func (s *stage) surround() error {
	roles := slices.Repeat([]string{"busy"}, s.o.Busy)
	roles = append(roles, slices.Repeat([]string{"slow"}, s.o.Slow)...)
	roles = append(roles, slices.Repeat([]string{"stopped"}, s.o.Stopped)...)
	if s.o.Ksocks > 0 || s.o.Bindings > 0 {
		roles = append(roles, "crowd")
	}
	for _, role := range roles {
		if err := s.start(role, nil, &s.extras); err != nil {
			return err
		}
	}
	return nil
}

// enter starts a process for each of the roles, in turn on the CPUs to pin to.
func (s *stage) enter(roles ...string) error {
	for _, role := range roles {
		var cpu *int
		if n := len(s.o.Pin); n > 0 {
			cpu = &s.o.Pin[len(s.members)%n]
		}
		if err := s.start(role, cpu, &s.members); err != nil {
			return err
		}
	}
	return nil
}

// start starts a process for a role, and returns when it is ready to go.
func (s *stage) start(role string, cpu *int, among *[]*member) error {
	if s.roles == nil {
		s.roles = map[string]int{}
	}
	t := task{
		Role: role, Bus: s.onBus, Address: s.address, Memory: s.mem != nil, Workload: s.result.Workload, Index: s.roles[role],
		Peer: s.peer, PeerDir: s.peerDir, Options: s.o,
	}
	if s.dir != "" {
		t.Socket = s.socket()
	}
	s.roles[role]++
	m := &member{role: role, cpu: cpu, reports: make(chan *report, 2), ended: make(chan struct{})}
	if err := m.run(s); err != nil {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		return fmt.Errorf("start %s: %w", role, err)
	}
	*among = append(*among, m)
	m.say(&t)
	r, err := s.await(m)
	if err != nil {
		return err
	}
	m.thread = r.Thread
	if r.Address != "" {
		s.address = r.Address
	}
	return nil
}

// self is this program, even after its file was replaced.
const self = "/proc/self/exe"

// mostWords is how much of what a process says when it dies goes into the error.
const mostWords = 1000

func (m *member) run(s *stage) error {
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

// play lets all processes go, and returns the reports of those that entered, in
// that order. The others are there until these have finished.
func (s *stage) play() ([]*report, error) {
	if err := s.letExtrasGo(); err != nil {
		return nil, err
	}
	calls, err := s.watch()
	if err != nil {
		return nil, err
	}
	for _, m := range s.members {
		m.say(wordGo)
	}
	var reports []*report
	for _, m := range s.members {
		r, err := s.await(m)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
		s.note(m, r)
	}
	for i, w := range calls {
		if err := s.result.Processes[len(s.result.Processes)-len(calls)+i].counted(w); err != nil {
			return nil, err
		}
	}
	return reports, s.dismiss()
}

// letExtrasGo lets those go who are only there, or stops them.
func (s *stage) letExtrasGo() error {
	for _, m := range s.extras {
		m.say(wordGo)
		if m.role == "stopped" {
			if err := m.stop(); err != nil {
				return err
			}
		}
	}
	return nil
}

// dismiss ends those who are only there, the last one first, and waits until all
// have left.
func (s *stage) dismiss() error {
	for _, m := range slices.Backward(s.extras) {
		if m.role == "stopped" {
			_ = m.cmd.Process.Signal(unix.SIGCONT)
		}
		m.say(wordOver)
		r, err := s.await(m)
		if err != nil {
			return err
		}
		s.note(m, r)
	}
	s.leave()
	return nil
}

// say tells the process its task, or a word.
func (m *member) say(word any) {
	if m.in.Encode(word) != nil {
		_ = m.kill() // mostly, it has ended already: how, will be said
	}
}

// stop stops the process by SIGSTOP, and waits until it is.
func (m *member) stop() error {
	if err := m.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		return fmt.Errorf("stop %s: %w", m.role, err)
	}
	for {
		err := unix.Waitid(unix.P_PID, m.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT|unix.WEXITED, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// note takes over what a process did.
func (s *stage) note(m *member, r *report) {
	p := Process{
		Role: m.role, CPU: m.cpu, Messages: r.Messages, Voluntary: r.Voluntary, Forced: r.Forced,
		Resident: r.Resident, Shared: r.Shared,
	}
	if r.Messages > 0 {
		p.CPUTime = float64(r.CPU) / float64(r.Messages)
	}
	s.result.Processes = append(s.result.Processes, p)
}

// leave waits until all processes have ended, for the next ones to enter.
func (s *stage) leave() {
	for _, m := range slices.Concat(s.members, s.extras) {
		m.stdin.Close()
		<-m.ended
	}
	s.members, s.extras, s.roles = nil, nil, nil
	if s.mem != nil {
		s.mem.Close()
		s.mem = nil
	}
}

// clear ends what is left, by force.
func (s *stage) clear() {
	s.end(nil)
	var all sync.WaitGroup
	for _, m := range slices.Concat(s.members, s.extras) {
		all.Go(func() { <-m.ended })
	}
	all.Wait()
	s.leave()
}
