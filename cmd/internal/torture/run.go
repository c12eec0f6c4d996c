package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// Options of a run.
type Options struct {
	Duration time.Duration // of the kills; settling and measuring come on top
	Clients  int           // processes at a time, 1 to 64
	Seed     uint64        // of all that is random here; when things happen is not
	// How many to aim at, a second; negative: none, 0: as the figures to reach
	// want it, and some more (190 clients killed, 25 stopped, 1.6 supervisors killed).
	Kills, Stops, SupervisorKills float64
	Rounds                        int       // of the measurement on the idle machine; negative: none, 0: 300
	Progress                      io.Writer // gets a line now and then
}

// The bus that is tortured.
var busConfig = ring.Config{MaxKsocks: 256, ArenaBytes: 512 << 20}

// Bounds of what is random.
const (
	stopMost    = 20 * time.Millisecond
	hang        = 20 * time.Second // a client that stands still so long does not go on
	settleMost  = 60 * time.Second
	threadsMore = 16 // that a Go program may keep after a busy time; 20000 leaks are more
)

const (
	roleVariable   = "KBUS_TORTURE"
	boardDescr     = 3
	roleSupervisor = "supervisor"
	roleClient     = "client"
	roleVictim     = "victim"
)

// Main is called first in every program that runs tortures: it returns unless
// the process is one of the tortured.
func Main() {
	role := os.Getenv(roleVariable)
	if role == "" {
		return
	}
	os.Unsetenv(roleVariable)
	if err := play(role, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "torture: %s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func play(role string, args []string) error {
	switch {
	case role == roleSupervisor && len(args) == 1:
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
		s, err := supervisor.Start(supervisor.Options{Socket: args[0], Bus: busConfig, Logger: log})
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return s.Wait()
	case role == roleVictim && len(args) == 1:
		return runVictim(args[0])
	case role == roleClient && len(args) == 4:
		place, err1 := strconv.Atoi(args[1])
		places, err2 := strconv.Atoi(args[2])
		seed, err3 := strconv.ParseUint(args[3], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		b, err := openBoard(os.NewFile(boardDescr, "board"), places)
		if err != nil {
			return err
		}
		return runClient(b, place, args[0], seed)
	}
	return fmt.Errorf("a role that nobody plays: %v", args)
}

// A run is one torture.
type run struct {
	o       Options
	rng     *rand.Rand
	dir     string
	socket  string
	exe     string
	board   *board
	books   *books
	places  []*place
	spawner chan func()
	begin   time.Time

	rest string // what is left to do at the end

	report *Report
	super  *exec.Cmd
	ended  chan int // places whose process has ended
}

// A place is where one client at a time runs.
type place struct {
	n          int
	sent, read *journal
	process    *life
	cmd        *exec.Cmd // nil: none
	stopped    time.Time // until when; zero: it is not
	killed     bool
	first      bool // has not been seen to do anything yet
	head       uint64
	beat       uint64
	moved      time.Time
}

// Run tortures a bus, and reports. Its error is one of the machine, or ctx's
// cause; what the bus did wrong is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Clients < 1 || o.Clients > 64 {
		return nil, fmt.Errorf("%d clients: possible are 1 to 64", o.Clients)
	}
	for _, x := range [...]struct {
		rate  *float64
		usual float64
	}{{&o.Kills, 190}, {&o.Stops, 25}, {&o.SupervisorKills, 1.6}} {
		if *x.rate == 0 {
			*x.rate = x.usual
		}
	}
	r := &run{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0)), books: newBooks(), ended: make(chan int, o.Clients), spawner: make(chan func())}
	var err error
	if r.dir, err = os.MkdirTemp("", "kbus-torture-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.dir)
	if r.exe, err = ownProgram(r.dir); err != nil {
		return nil, err
	}
	r.socket = filepath.Join(r.dir, "socket")
	if r.board, err = newBoard(o.Clients); err != nil {
		return nil, err
	}
	defer r.board.mem.Close()
	src := rand.NewPCG(o.Seed, 1)
	for i := 0; i+8 <= len(r.board.pool); i += 8 {
		v := src.Uint64()
		for k := range 8 {
			r.board.pool[i+k] = byte(v >> (8 * k))
		}
	}
	// Children are to die with the thread that started them: it has to stay.
	go func() {
		runtime.LockOSThread()
		for f := range r.spawner {
			f()
		}
	}()
	defer close(r.spawner)
	defer r.clear()
	r.report = newReport(o)
	err = r.all(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it was in the middle of
	}
	r.report.finish(r)
	return r.report, err
}

// ownProgram is the path of a copy of this program in dir: all children are of one
// build, whatever becomes of the original meanwhile. It is written in one go, which
// lets the kernel keep it in large pages where the file system has them. A process of a
// file that a linker wrote page by page takes up to twice as long to start, and to end.
func ownProgram(dir string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_NOEXEC != 0 {
		return exe, nil // nothing can be started there
	}
	program, err := os.ReadFile("/proc/self/exe") // even if the original is replaced already
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(exe))
	return path, os.WriteFile(path, program, 0o700)
}

// spawn starts a child in a role.
func (r *run) spawn(role string, board *os.File, args ...string) (*exec.Cmd, io.ReadCloser, error) {
	cmd := exec.Command(r.exe, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out io.ReadCloser
	var err error
	if board != nil {
		cmd.ExtraFiles = []*os.File{board}
	} else if out, err = cmd.StdoutPipe(); err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	r.spawner <- func() { err = cmd.Start(); close(done) }
	<-done
	return cmd, out, err
}

// supervise starts a supervisor and waits until it is ready.
func (r *run) supervise(socket string) (*exec.Cmd, error) {
	cmd, out, err := r.spawn(roleSupervisor, nil, socket)
	if err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		cmd.Process.Kill()
		return nil, fmt.Errorf("the supervisor did not start: %w", errors.Join(err, cmd.Wait()))
	}
	return cmd, nil
}

// clear ends whatever is left.
func (r *run) clear() {
	for _, p := range r.places {
		if p.cmd != nil {
			p.cmd.Process.Kill()
		}
	}
	for _, p := range r.places {
		for p.cmd != nil {
			r.bury(r.places[<-r.ended])
		}
	}
	r.killSupervisor()
}

func (r *run) killSupervisor() {
	if r.super != nil {
		r.super.Process.Kill()
		r.super.Wait()
		r.super = nil
	}
}

func (r *run) all(ctx context.Context) error {
	var err error
	if r.super, err = r.supervise(r.socket); err != nil {
		return err
	}
	before, err := r.inventory(ctx)
	if err != nil {
		return err
	}
	// Somebody has to hold the bus while there is no supervisor: by chance all
	// clients may be dead at the same moment, and with them it would end.
	holder, err := ksock.Open(ctx, 0, &ksock.Options{Socket: r.socket})
	if err != nil {
		return err
	}
	defer holder.Close()
	r.begin = time.Now()
	for n := range r.o.Clients {
		r.places = append(r.places, &place{n: n, sent: r.board.sent(n), read: r.board.read(n)})
	}
	if err := r.torture(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := holder.Close(); err != nil {
		return err
	}
	if err := r.compare(ctx, before); err != nil {
		return err
	}
	r.killSupervisor()
	if r.o.Rounds >= 0 {
		return r.measure(ctx)
	}
	return nil
}

// start puts a new client at a place.
func (r *run) start(p *place) error {
	p.process, p.killed, p.first, p.stopped, p.moved = &life{place: p.n}, false, true, time.Time{}, time.Now()
	p.head = r.heads(p)
	cmd, _, err := r.spawn(roleClient, r.board.mem.File(), r.socket, strconv.Itoa(p.n), strconv.Itoa(r.o.Clients),
		strconv.FormatUint(r.rng.Uint64(), 10))
	if err != nil {
		return err
	}
	p.cmd = cmd
	r.books.Clients++
	go func() {
		cmd.Wait()
		r.ended <- p.n
	}()
	return nil
}

func (r *run) heads(p *place) uint64 { return p.sent.head.Load() + p.read.head.Load() }

// audit reads all journals, those of what was read no further than those of what
// was sent.
func (r *run) audit() {
	ends := make([]uint64, len(r.places))
	for i, p := range r.places {
		ends[i] = p.read.head.Load()
	}
	for _, p := range r.places {
		process := p.process
		p.sent.take(p.sent.head.Load(), func(rec *record) { r.books.send(process, rec) })
	}
	r.books.sentAll()
	for i, p := range r.places {
		p.read.take(ends[i], r.books.receive)
	}
}

// torture kills and stops until the time is over.
func (r *run) torture(ctx context.Context) error {
	for _, p := range r.places {
		if err := r.start(p); err != nil {
			return err
		}
	}
	end := r.begin.Add(r.o.Duration)
	warden := newWarden(r, end)
	kills, stops := r.clock(r.o.Kills), r.clock(r.o.Stops)
	lastLook := time.Now()
	progress := newProgress(r)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) {
		select {
		case <-ctx.Done():
			warden.stop()
			return context.Cause(ctx)
		case n := <-r.ended:
			if err := r.again(r.places[n]); err != nil {
				return errors.Join(err, warden.stop())
			}
			continue
		case <-tick.C:
		}
		r.audit()
		now := time.Now()
		for range kills.due(now) {
			for range len(r.places) { // until one can be killed
				if r.kill(r.places[r.rng.IntN(len(r.places))]) {
					break
				}
			}
		}
		for range stops.due(now) {
			r.pause(r.places[r.rng.IntN(len(r.places))])
		}
		r.wakeUp(now)
		if now.Sub(lastLook) > time.Second {
			lastLook = now
			r.books.tidy()
			r.look(now)
			progress.show()
		}
	}
	r.wakeUp(end.Add(time.Hour))
	return warden.stop()
}

// A clock goes off at random moments.
type clock struct {
	rng   *rand.Rand
	every float64 // on the average, in nanoseconds; negative: never
	next  time.Time
}

func (r *run) clock(rate float64) *clock {
	return &clock{r.rng, float64(time.Second) / rate, time.Now()}
}

// due tells how often it has gone off, at most so often that who was asleep for
// long does not make up for it.
func (c *clock) due(now time.Time) (n int) {
	if c.every < 0 {
		return 0
	}
	for ; now.After(c.next); n++ {
		c.next = c.next.Add(time.Duration(c.rng.ExpFloat64() * c.every))
	}
	return min(n, 8)
}

// kill kills whoever is at p, if it has begun to do something, and tells whether.
func (r *run) kill(p *place) bool {
	if p.cmd == nil || p.killed || p.first && r.heads(p) == p.head {
		return false
	}
	p.killed = true
	p.process.killed.Store(r.board.now())
	if p.cmd.Process.Kill() != nil {
		return false // it ended by itself
	}
	r.books.Kills++
	return true
}

func (r *run) pause(p *place) {
	if p.cmd == nil || p.killed || !p.stopped.IsZero() {
		return
	}
	if p.cmd.Process.Signal(syscall.SIGSTOP) == nil {
		p.stopped = time.Now().Add(time.Duration(r.rng.Int64N(int64(stopMost))))
		r.books.Stops++
	}
}

func (r *run) wakeUp(now time.Time) {
	for _, p := range r.places {
		if !p.stopped.IsZero() && now.After(p.stopped) {
			p.stopped, p.moved = time.Time{}, time.Now()
			if p.cmd != nil {
				p.cmd.Process.Signal(syscall.SIGCONT) // it may be dead
			}
		}
	}
}

// again is the end of a client and the beginning of the next.
func (r *run) again(p *place) error {
	r.bury(p)
	return r.start(p)
}

func (r *run) bury(p *place) {
	if s := p.cmd.ProcessState; !p.killed && !s.Success() {
		r.books.violation("the client at place %d, process %d, ended by itself: %v", p.n, s.Pid(), s)
	}
	r.audit()
	r.books.died(p.process, r.board.now())
	p.cmd = nil
}

// look finds clients that stand still.
func (r *run) look(now time.Time) {
	for _, p := range r.places {
		if b := r.board.beat(p.n).Load() + r.heads(p); b != p.beat || !p.stopped.IsZero() {
			p.beat, p.moved = b, now
		}
		if p.cmd != nil && !p.killed && now.Sub(p.moved) > hang {
			r.books.violation("the client at place %d, process %d, has stood still for %v (R9.3, R9.4)", p.n, p.cmd.Process.Pid, hang)
			p.killed = true
			p.cmd.Process.Signal(syscall.SIGQUIT) // where it is goes to standard error
		}
	}
}

// settle lets all come to rest, and end in order.
func (r *run) settle(ctx context.Context) error {
	r.board.w[bPhase].Store(phaseSettle)
	limit, look := time.Now().Add(settleMost), time.Now()
	for _, p := range r.places {
		p.head, p.beat = r.heads(p), r.board.beat(p.n).Load()
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for calm := false; !calm; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case n := <-r.ended:
			p := r.places[n]
			if !p.killed {
				r.bury(p)
				break
			}
			if err := r.again(p); err != nil { // the last kills
				return err
			}
		case <-tick.C:
		}
		r.audit()
		now := time.Now()
		if now.Sub(look) < 100*time.Millisecond {
			continue
		}
		look = now
		var err error
		if calm, err = r.calm(ctx); err != nil {
			return err
		}
		if now.After(limit) {
			r.books.violation("after %v in which nothing new was begun it is not over%s", settleMost, r.rest)
			break
		}
	}
	r.board.w[bPhase].Store(phaseEnd)
	for _, p := range r.places {
		for p.cmd != nil {
			select {
			case n := <-r.ended:
				r.bury(r.places[n])
			case <-tick.C:
				r.audit()
				r.look(time.Now())
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	r.audit()
	r.audit() // what is judged later
	r.audit()
	return nil
}

// calm tells whether all have been round some times since the last look, nobody
// had anything to do, nothing is unread, and no Request is open.
func (r *run) calm(ctx context.Context) (bool, error) {
	calm := true
	for _, p := range r.places {
		heads, beat := r.heads(p), r.board.beat(p.n).Load()
		if p.cmd != nil && (heads != p.head || beat < p.beat+3) {
			calm = false
		}
		if heads != p.head || beat >= p.beat+3 {
			p.head, p.beat = heads, beat
		}
	}
	if !calm {
		return false, nil
	}
	st, err := ksock.Stats(ctx, r.socket, 0)
	if err != nil {
		return false, err
	}
	r.rest = ""
	for _, k := range st[0].Ksocks {
		if k.Unread+k.Outstanding > 0 {
			r.rest += fmt.Sprintf("; Ksock %d of process %d has %d unread and %d Requests open, is to reply to %d",
				k.Ksock, k.PID, k.Unread, k.Outstanding, k.Unreplied)
		}
	}
	return r.rest == "", nil
}

// An Inventory is what a bus and its supervisor hold.
type Inventory struct {
	ArenaUsed uint64 `json:"arena_bytes_used"`
	Ksocks    int    `json:"ksocks"`
	Files     int    `json:"supervisor_descriptors"`
	Threads   int    `json:"supervisor_threads"`
	Private   int    `json:"supervisor_private_kib"` // memory of its own, not the bus's
}

// inventory counts, with all slots used once and given back.
func (r *run) inventory(whole context.Context) (v Inventory, err error) {
	ctx, cancel := context.WithTimeout(whole, patience)
	defer cancel()
	// What those who ended still had is on its way back.
	for {
		st, err := ksock.Stats(ctx, r.socket, 0)
		if err != nil {
			return v, err
		}
		if v.Ksocks, v.ArenaUsed = len(st[0].Ksocks), st[0].ArenaUsed; v.Ksocks == 0 {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return v, nil
		}
	}
	var all []*ksock.Ksock
	for len(all) < busConfig.MaxKsocks {
		k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: r.socket})
		if err != nil {
			if whole.Err() == nil { // else interrupted
				r.books.violation("only %d of %d slots are free: %v (R9.2)", len(all), busConfig.MaxKsocks, err)
			}
			break
		}
		all = append(all, k)
	}
	for _, k := range all {
		k.Close()
	}
	st, err := ksock.Stats(ctx, r.socket, 0)
	if err != nil {
		return v, err
	}
	v.Ksocks, v.ArenaUsed = len(st[0].Ksocks), st[0].ArenaUsed
	return v, v.look(r.super.Process.Pid)
}

func (v *Inventory) look(pid int) error {
	for _, x := range []struct {
		dir string
		n   *int
	}{{"fd", &v.Files}, {"task", &v.Threads}} {
		l, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, x.dir))
		if err != nil {
			return err
		}
		*x.n = len(l)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	v.Private = rssAnon(text)
	return nil
}

// compare looks for what was lost.
func (r *run) compare(ctx context.Context, before Inventory) error {
	after, err := r.inventory(ctx)
	if err != nil {
		return err
	}
	// The last connections of those who ended are being closed.
	for limit := time.Now().Add(patience); after.Files > before.Files && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
		if err := after.look(r.super.Process.Pid); err != nil {
			return err
		}
	}
	r.report.Before, r.report.After = before, after
	// Nobody is there: it has nothing to do.
	const while = 300 * time.Millisecond
	busy, err := r.cpuTime()
	if err != nil {
		return err
	}
	time.Sleep(while)
	later, err := r.cpuTime()
	if err != nil {
		return err
	}
	if busy = later - busy; busy > while/2 {
		r.books.violation("the supervisor has used %v of CPU time in %v, and there was nothing to do", busy, while)
	}
	switch {
	case after.Ksocks != 0:
		r.books.violation("%d Ksocks are left on the bus though all processes have ended (R9.2)", after.Ksocks)
	case after.ArenaUsed != before.ArenaUsed:
		r.books.violation("%d bytes of the arena are in use, %d were at the beginning (R9.2)", after.ArenaUsed, before.ArenaUsed)
	case after.Files > before.Files:
		r.books.violation("the supervisor has %d descriptors, a new one had %d (R9.2)", after.Files, before.Files)
	case after.Threads > before.Threads+threadsMore:
		r.books.violation("the supervisor has %d threads, a new one had %d (R9.2)", after.Threads, before.Threads)
	}
	return nil
}

// cpuTime is what the supervisor has used so far.
func (r *run) cpuTime() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.super.Process.Pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat says %q", text)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// A warden kills the supervisor now and then, and starts the next.
type warden struct {
	r      *run
	cancel context.CancelFunc
	done   chan error
	kills  int
	served []time.Duration
}

func newWarden(r *run, end time.Time) *warden {
	ctx, cancel := context.WithCancel(context.Background())
	w := &warden{r: r, cancel: cancel, done: make(chan error, 1)}
	// The last one lives for a while, so that what it lost would show.
	until := end.Add(-r.o.Duration / 8)
	every := float64(time.Second) / r.o.SupervisorKills * 7 / 8
	rng := rand.New(rand.NewPCG(r.o.Seed, 2))
	if every < 0 {
		until = time.Time{}
	}
	go func() { w.done <- w.work(ctx, until, every, rng) }()
	return w
}

func (w *warden) stop() error {
	w.cancel()
	err := <-w.done
	w.r.books.SupervisorKills = w.kills
	w.r.report.Served = percentiles(w.served)
	return err
}

func (w *warden) work(ctx context.Context, until time.Time, every float64, rng *rand.Rand) error {
	r := w.r
	next := time.Now()
	for {
		next = next.Add(time.Duration(every * (0.5 + rng.Float64())))
		if next.After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(next)):
		}
		begin := time.Now()
		r.killSupervisor()
		w.kills++
		if rng.IntN(4) == 0 { // and once more while it takes over
			cmd, _, err := r.spawn(roleSupervisor, nil, r.socket)
			if err != nil {
				return err
			}
			time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
			w.kills++
			begin = time.Now()
		}
		super, err := r.supervise(r.socket)
		if err != nil {
			return err
		}
		r.super = super
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: r.socket})
		cancel()
		if err != nil {
			return fmt.Errorf("the new supervisor serves nobody: %w", err)
		}
		w.served = append(w.served, time.Since(begin))
		if err := k.Close(); err != nil {
			return err
		}
	}
}

// runVictim is a Replier that owes: it reads a Request, says so, and waits to be
// killed.
func runVictim(socket string) error {
	ctx := context.Background()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		return err
	}
	if err := k.Bind(ctx, victimName, ksock.Replier); err != nil {
		return err
	}
	fmt.Println("bound")
	if _, err := k.Next(ctx); err != nil {
		return err
	}
	fmt.Println("read")
	var none unix.Timespec
	for {
		none.Sec = 3600
		unix.Nanosleep(&none, nil)
	}
}
