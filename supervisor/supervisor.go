package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/control"
	"kbus.internal/shm/handoff"
)

// A Supervisor runs the buses of one socket. All methods may be called from any goroutine.
type Supervisor struct {
	o        Options
	log      *slog.Logger
	listener *handoff.Listener
	state    *state
	systemd  *systemd // nil: not under systemd

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup // all goroutines
	busy chan struct{}  // a Ksock came: the ticker wakes up

	creating sync.Mutex // one new bus at a time

	mu        sync.Mutex
	buses     [MaxBuses]*bus
	conns     map[*conn]struct{}
	processes map[holder]*process
	usage     map[uint32]*usage
	closing   bool
	err       error // why it ended by itself

	done chan struct{}
}

// usage is what one user has.
type usage struct{ ksocks, bindings, conns int }

// Start starts a supervisor, which takes over what a killed predecessor at the
// same socket left. When it returns, Ksocks can be opened. The caller closes it.
//
// Errors: EINVAL for impossible options; EADDRINUSE if a supervisor runs there;
// ring's if a region that was taken over is corrupt; those of the system.
func Start(o Options) (*Supervisor, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		o: o, log: o.Logger, busy: make(chan struct{}, 1), done: make(chan struct{}),
		conns: map[*conn]struct{}{}, processes: map[holder]*process{}, usage: map[uint32]*usage{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.start(); err != nil {
		s.stop()
		s.release()
		s.work.Wait()
		s.forget() // the state file stays for the next try
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	return s, nil
}

func (s *Supervisor) start() error {
	var stored map[int]*os.File
	var err error
	if s.o.Systemd {
		if s.systemd, err = newSystemd(); err != nil {
			return err
		}
		stored = s.systemd.regions
		defer s.systemd.closeInherited()
	}
	// First the socket: with it comes the lock that keeps a second supervisor away.
	if err := s.listen(); err != nil {
		return err
	}
	s.state = &state{path: s.o.Socket + ".state", buses: map[int]*busState{}}
	if err := s.takeOver(stored); err != nil {
		return err
	}
	for n := range s.o.Buses {
		if s.buses[n] == nil {
			if err := s.create(n, s.o.Bus); err != nil {
				return err
			}
		}
	}
	s.work.Go(s.accept)
	s.work.Go(s.tick)
	if s.systemd != nil {
		if err := s.systemd.notify("READY=1"); err != nil {
			s.log.Warn("systemd is not told", "err", err)
		}
		s.work.Go(func() { s.systemd.watchdog(s.ctx, s.responds) })
	}
	s.log.Info("supervisor is ready", "socket", s.o.Socket, "pid", os.Getpid())
	return nil
}

func (s *Supervisor) listen() error {
	var err error
	if s.systemd != nil && s.systemd.socket != nil {
		if s.listener, err = handoff.ListenerFromFile(s.systemd.socket); err != nil {
			return err
		}
		s.o.Socket = s.listener.Path()
	} else {
		socket, dir := fs.FileMode(0o600), fs.FileMode(0o700)
		if s.o.open() {
			// Who may come is decided by credentials, for each connection.
			socket, dir = 0o666, 0o711
		}
		if err := os.Mkdir(filepath.Dir(s.o.Socket), dir); err == nil && s.o.open() {
			err = os.Chmod(filepath.Dir(s.o.Socket), dir) // whatever the umask says
			if err != nil {
				return err
			}
		}
		if s.listener, err = handoff.Listen(s.o.Socket, socket); err != nil {
			return err
		}
		if s.o.open() {
			s.warnOfDirectories()
		}
	}
	refusal := control.Answer{Errno: unix.EMFILE, Text: shortage}
	s.listener.Refusal, err = refusal.Append(nil)
	return err
}

// warnOfDirectories says which directory keeps away those who are allowed.
func (s *Supervisor) warnOfDirectories() {
	path, err := filepath.Abs(s.o.Socket)
	for err == nil && path != "/" {
		path = filepath.Dir(path)
		var info fs.FileInfo
		if info, err = os.Stat(path); err == nil && info.Mode()&0o001 == 0 {
			s.log.Warn("others are allowed, but can't reach the socket", "directory", path, "mode", info.Mode().Perm().String())
		}
	}
}

const shortage = "the supervisor has no descriptor left for another Ksock, or no memory for it (its limit of open files: ulimit -n, or LimitNOFILE= under systemd)"

// Socket is the path at which Ksocks find the supervisor.
func (s *Supervisor) Socket() string { return s.o.Socket }

// accept admits newcomers until the end.
func (s *Supervisor) accept() {
	for {
		c, err := s.listener.Accept(s.ctx)
		if err == nil {
			s.work.Go(func() { s.serve(c) })
			continue
		}
		if s.ctx.Err() == nil && !errors.Is(err, os.ErrClosed) {
			s.log.Error("no more Ksocks can come", "err", err)
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
			go s.Close()
		}
		return
	}
}

// Bounds of the ticker's pause: how long an entry may be left open by a stopped
// process before the supervisor finishes it, on a bus in use and on one that was at rest.
const (
	tickLeast = 4 * time.Millisecond
	tickMost  = 64 * time.Millisecond
)

// tick helps what processes that are stopped in the middle of it left open
// (R9.3). Without Ksocks it sleeps.
func (s *Supervisor) tick() {
	pause := tickLeast
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		}
		ksocks, moved := false, false
		for _, b := range s.all() {
			k, m := b.tick()
			ksocks, moved = ksocks || k, moved || m
		}
		switch {
		case moved:
			pause = tickLeast
		case ksocks:
			pause = min(2*pause, tickMost)
		default:
			select {
			case <-s.ctx.Done():
				return
			case <-s.busy:
			}
			pause = tickLeast
		}
		timer.Reset(pause)
	}
}

// responds returns when each bus has been looked after: never, if one hangs.
func (s *Supervisor) responds() {
	for _, b := range s.all() {
		b.tick()
	}
}

// wakeTicker: a Ksock has come.
func (s *Supervisor) wakeTicker() {
	select {
	case s.busy <- struct{}{}:
	default:
	}
}

// bus is the bus with that number, or nil.
func (s *Supervisor) bus(n int) *bus {
	if n < 0 || n >= MaxBuses {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buses[n]
}

// all is the buses that there are, by number.
func (s *Supervisor) all() (l []*bus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.buses {
		if b != nil {
			l = append(l, b)
		}
	}
	return l
}

// Close ends the supervisor in order: Ksocks are told, the socket and the state
// are removed, and the regions go with their last Ksock. It may be repeated, and
// returns when all is done.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	again := s.closing
	s.closing = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	if again {
		<-s.done
		return nil
	}
	if s.systemd != nil {
		s.systemd.notify("STOPPING=1") // best effort: it sees the end anyway
	}
	var told sync.WaitGroup
	for _, c := range conns {
		told.Go(func() {
			c.lastWord(unix.ESHUTDOWN, "the supervisor is going down")
			c.c.Close()
		})
	}
	told.Wait()
	s.stop()
	s.release()
	s.work.Wait()
	s.forget()
	if s.systemd != nil {
		for _, b := range s.all() {
			s.systemd.forget(b.number)
		}
	}
	if err := os.Remove(s.state.path); err != nil {
		s.log.Warn("the state file stays", "err", err)
	}
	s.log.Info("supervisor has ended", "socket", s.o.Socket)
	close(s.done)
	return nil
}

// release ends what keeps goroutines waiting.
func (s *Supervisor) release() {
	if s.listener != nil {
		if err := s.listener.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			s.log.Warn("the socket or its lock stays", "err", err)
		}
	}
	s.mu.Lock()
	for c := range s.conns {
		c.c.Close()
	}
	for _, p := range s.processes {
		p.p.Close()
	}
	s.mu.Unlock()
}

// forget lets go of all regions, and of the state file.
func (s *Supervisor) forget() {
	if s.state != nil {
		s.state.close()
	}
	for _, b := range s.all() {
		b.release()
	}
}

// Wait waits for the end of the supervisor. Its error is nil after Close, else
// why it could not go on.
func (s *Supervisor) Wait() error {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
