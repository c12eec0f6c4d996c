package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm"
	"kbus.internal/shm/handoff"
	"kbus.internal/shm/shmtest"
)

// R9.2, R4.8: who waits for the answer of a process that is killed gets a
// Status, GoneAway or Ignored.
func TestDeathIsAnswered(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	supervise(t, socket)
	asker := openEnd(t, socket, 0)
	var took []time.Duration
	for i := range 21 {
		c := ksockProcess(t, socket)
		c.ask(t, "open 0")
		c.ask(t, "replier 0 $.R")
		asker.request(t, "$.R")
		want := "$.KBUS.Replier.GoneAway"
		if i%2 == 0 {
			c.ask(t, "next 0")
			want = "$.KBUS.Replier.Ignored"
		}
		begin := time.Now()
		c.signal(t, syscall.SIGKILL)
		if got := asker.mustNext(t); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		took = append(took, time.Since(begin))
		c.Kill()
	}
	slices.Sort(took)
	t.Logf("from SIGKILL to the Status: median %v, longest %v", took[len(took)/2], took[len(took)-1])
}

// R9.4: killed with SIGKILL while messages flow, and started again, time and
// again: no message is lost or doubled, control calls wait, and all Ksocks stay.
func TestKilledUnderLoad(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	sender, reader := ksockProcess(t, socket), ksockProcess(t, socket)
	sender.ask(t, "open 0")
	reader.ask(t, "open 0")
	reader.ask(t, "listen 0 $.Flow")
	const count = 500_000
	sender.tell(t, "flow 0 $.Flow %d", count)
	reader.tell(t, "drain 0 %d", count)
	third := openEnd(t, socket, 0)
	kills := 0 // while messages were on their way
	for {
		if k := ksocks(t, socket, 0); k[1].Received == count {
			break
		} else if k[1].Received > 0 {
			kills++
		}
		sv.Kill()
		name := fmt.Sprintf("$.A.%d", kills)
		bound := make(chan error)
		go func() {
			_, err := third.Call(t.Context(), &control.Request{Op: control.OpBind, Name: name})
			bound <- err
		}()
		sv = supervise(t, socket)
		if err := <-bound; err != nil {
			t.Fatalf("bind while there was no supervisor: %v", err)
		}
		if n := call(t, third.Link, control.Request{Op: control.OpBound, Name: name}); n == 0 {
			t.Error("not bound")
		}
		call(t, third.Link, control.Request{Op: control.OpUnbind, Name: name})
		if n := call(t, third.Link, control.Request{Op: control.OpBound, Name: name}); n != 0 {
			t.Errorf("still bound %d times", n)
		}
	}
	if kills < 3 {
		t.Errorf("killed %d times while messages flowed", kills)
	}
	t.Logf("killed %d times while %d messages flowed", kills, count)
	for _, c := range []*child{sender, reader} {
		if s := c.line(t); s != "ok " {
			t.Error(s)
		}
	}
	k := ksocks(t, socket, 0)
	if len(k) != 3 || k[0].Sent != count || k[1].Received != count || k[1].Missed != 0 || k[0].Ksock != 1 || k[2].Ksock != 3 {
		t.Errorf("%+v", k)
	}
	// The new supervisor watches them as the old one did.
	sender.Kill()
	eventually(t, "the dead sender's Ksock is closed", func() bool { return len(ksocks(t, socket, 0)) == 2 })
	reader.ask(t, "close 0")
	if id := openEnd(t, socket, 0).Ksock(); id != 4 {
		t.Errorf("next Ksock is %d", id)
	}
}

// R9.3, R9.4: a bus is taken over though all who use it are stopped; what
// was in their queues is there when they go on.
func TestTakenOverFromTheStopped(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket, "buses=2")
	a, b := ksockProcess(t, socket), ksockProcess(t, socket)
	a.ask(t, "open 0")
	a.ask(t, "listen 0 $.A")
	b.ask(t, "open 1")
	a.ask(t, "flow 0 $.A 3")
	a.signal(t, syscall.SIGSTOP)
	b.signal(t, syscall.SIGSTOP)
	sv.Kill()
	sv = supervise(t, socket, "buses=2")
	e := openEnd(t, socket, 0)
	if e.Ksock() != 2 {
		t.Errorf("Ksock %d on a bus that has one", e.Ksock())
	}
	if err := e.sendWaiting(t.Context(), "$.A", "4"); err != nil {
		t.Error(err)
	}
	if k := ksocks(t, socket, 1); len(k) != 1 || int(k[0].PID) != b.pid() {
		t.Errorf("%+v", k)
	}
	// And again, with one more.
	sv.Kill()
	supervise(t, socket, "buses=2")
	a.signal(t, syscall.SIGCONT)
	a.ask(t, "drain 0 4")
	a.ask(t, "max 0 7")
	if n := call(t, e.Link, control.Request{Op: control.OpMaxMessages, Value: 9}); n != 9 {
		t.Error(n)
	}
	// One that never goes on is watched all the same.
	b.Kill()
	eventually(t, "the dead one's Ksock is closed", func() bool { return len(ksocks(t, socket, 1)) == 0 })
}

// R4.8, R5.6: who died, or closed, while there was no supervisor is dealt with by the next.
func TestGoneMeanwhile(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	asker := openEnd(t, socket, 0)
	dying, closing := ksockProcess(t, socket), ksockProcess(t, socket)
	for i, c := range []*child{dying, closing} {
		c.ask(t, "open 0")
		c.ask(t, "replier 0 $.R%d", i)
		asker.request(t, fmt.Sprintf("$.R%d", i))
	}
	dying.ask(t, "next 0")
	sv.Kill()
	dying.Kill()
	closing.ask(t, "close 0")
	supervise(t, socket)
	got := []string{asker.mustNext(t), asker.mustNext(t)}
	slices.Sort(got)
	if want := []string{"$.KBUS.Replier.GoneAway", "$.KBUS.Replier.Ignored"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	eventually(t, "two are closed", func() bool { return len(ksocks(t, socket, 0)) == 1 })
}

// R9.2: 256 processes, a Ksock each, all heard by all; then they die at once.
func TestManyProcesses(t *testing.T) {
	const many = 256
	socket := filepath.Join(t.TempDir(), "socket")
	supervise(t, socket, "ksocks="+strconv.Itoa(many+1))
	sender := openEnd(t, socket, 0)
	c := make([]*child, many)
	for i := range c {
		c[i] = ksockProcess(t, socket)
		c[i].ask(t, "open 0")
		c[i].ask(t, "listen 0 $.A")
	}
	if _, err := newEnd(t.Context(), socket, 0); !errors.Is(err, unix.EUSERS) {
		t.Errorf("one too many: %v", err)
	}
	if err := sender.sendWaiting(t.Context(), "$.A", "hello"); err != nil {
		t.Fatal(err)
	}
	for i := range c {
		if s := c[i].ask(t, "next 0"); s != "$.A hello" {
			t.Errorf("%d: %s", i, s)
		}
	}
	for i := range c {
		c[i].signal(t, syscall.SIGKILL)
	}
	eventually(t, "all are closed", func() bool { return len(ksocks(t, socket, 0)) == 1 })
	if id := openEnd(t, socket, 0).Ksock(); id != many+2 {
		t.Errorf("Ksock %d", id)
	}
}

// A bus begins anew when, and only when, nobody is left who holds it.
func TestNobodyHoldsIt(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket, "buses=2")
	c, d := ksockProcess(t, socket), ksockProcess(t, socket)
	for range 2 {
		c.ask(t, "open 0")
	}
	d.ask(t, "open 1")
	sv.Kill()
	c.Kill()
	sv = supervise(t, socket, "buses=2")
	if id := openEnd(t, socket, 0).Ksock(); id != 1 {
		t.Errorf("Ksock %d on a bus that began anew", id)
	}
	if id := openEnd(t, socket, 1).Ksock(); id != 2 {
		t.Errorf("Ksock %d on a bus that goes on", id)
	}
	// What had been asked for beside Buses is there, too.
	if a, err := ask(t, socket, control.Request{Op: control.OpNewBus}); err != nil || a.Value != 2 {
		t.Fatalf("%v %v", a, err)
	}
	e := openEnd(t, socket, 2)
	sv.Kill()
	supervise(t, socket)
	if call(t, e.Link, control.Request{Op: control.OpBind, Name: "$.A"}); e.Ksock() != 1 {
		t.Error(e.Ksock())
	}
}

// A pid that another process has now is not taken for the old one's.
func TestHolderIsKnownByStartTime(t *testing.T) {
	me, err := handoff.OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer me.Close()
	for _, tc := range []struct {
		start uint64
		want  error
		sure  bool
	}{{me.StartTime(), nil, true}, {me.StartTime() - 1, handoff.ErrGone, false}, {0, nil, false}} {
		p, sure, err := openHolder(holder{os.Getpid(), tc.start})
		if !errors.Is(err, tc.want) || sure != tc.sure {
			t.Errorf("start %d: %v, %v", tc.start, sure, err)
		}
		if err == nil {
			p.Close()
		}
	}
	// The whole way: the Ksock of a slot whose process has another start time is closed.
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	e := openEnd(t, socket, 0)
	sv.Kill()
	st := &state{path: socket + ".state", buses: map[int]*busState{}}
	old, err := st.load()
	if err != nil {
		t.Fatal(err)
	}
	h := old[0].Holders[0]
	st.drop(0, h)
	h.Start--
	if err := st.hold(0, h); err != nil {
		t.Fatal(err)
	}
	st.close()
	supervise(t, socket)
	<-e.Done()
	if err := e.Err(); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a Ksock of an unknown region: %v", err)
	}
}

// Only the Ksock itself gets back what is its own.
func TestReattachIsChecked(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	dial := func() *control.Conn {
		t.Helper()
		c, err := control.Dial(t.Context(), socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, region, err := dial().Call(t.Context(), &control.Request{Op: control.OpOpen}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if err := takeUp(t, region, a); err != nil {
		t.Fatal(err)
	}
	other := ksockProcess(t, socket)
	other.ask(t, "open 0")
	sv.Kill()
	supervise(t, socket)

	foreign, err := shm.Create("kbus-0", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	good := control.Request{Op: control.OpReattach, Slot: a.Slot, Ksock: a.Ksock, Token: a.Token}
	with := func(f func(*control.Request)) control.Request {
		r := good
		f(&r)
		return r
	}
	for name, tc := range map[string]struct {
		r    control.Request
		f    *os.File
		want error
	}{
		"foreign region": {good, foreign.File(), unix.ESTALE},
		"plain file":     {good, plain, unix.ESTALE},
		"token":          {with(func(r *control.Request) { r.Token[3]++ }), region, unix.ESTALE},
		"slot":           {with(func(r *control.Request) { r.Slot++ }), region, unix.ESTALE},
		"absurd slot":    {with(func(r *control.Request) { r.Slot = 1 << 31 }), region, unix.ESTALE},
		"Ksock":          {with(func(r *control.Request) { r.Ksock++ }), region, unix.ESTALE},
		"another's":      {with(func(r *control.Request) { r.Slot, r.Ksock = 2, 2 }), region, unix.ESTALE},
		"bus":            {with(func(r *control.Request) { r.Bus = 9 }), region, unix.ENOENT},
		"nothing":        {good, nil, unix.EPROTO},
	} {
		if _, _, err := dial().Call(t.Context(), &tc.r, tc.f); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := dial()
	if _, _, err := c.Call(t.Context(), &good, region); err != nil {
		t.Fatalf("the right one: %v", err)
	}
	if _, _, err := c.Call(t.Context(), &control.Request{Op: control.OpMaxMessages}, nil); err != nil {
		t.Error(err)
	}
	again := good
	if _, _, err := dial().Call(t.Context(), &again, region); !errors.Is(err, unix.ESTALE) {
		t.Errorf("twice: %v", err)
	}
}

// A supervisor that may not look at the process that holds the bus (another
// user's) does not begin anew, says for whom it waits, and gets the bus back
// from it; or begins anew when it has died.
func TestWaitsForTheHolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	const owner, guest = 64001, 64002
	dir, err := os.MkdirTemp("", "kbus")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, owner, owner)); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	as := func(uid uint32, child string, args ...string) *child {
		cmd := shmtest.Command(t, child, append([]string{socket}, args...)...)
		cmd.Path = "/proc/self/exe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return spawn(t, cmd)
	}
	supervise := func() *child {
		t.Helper()
		c := as(owner, "supervisor", "allow="+strconv.Itoa(guest))
		if s := c.line(t); s != "ready" {
			t.Fatal(s)
		}
		return c
	}
	sv := supervise()
	holder, late := as(guest, "ksocks"), as(guest, "ksocks")
	holder.ask(t, "open 0")
	holder.signal(t, syscall.SIGSTOP)
	sv.Kill()
	sv = supervise()
	if e := late.askErr(t, "open 0"); !strings.HasPrefix(e, "EAGAIN") || !strings.Contains(e, strconv.Itoa(holder.pid())) {
		t.Errorf("open: %s", e)
	}
	holder.signal(t, syscall.SIGCONT)
	holder.ask(t, "max 0 0") // waits until it is back
	if s := late.ask(t, "open 0"); s != "0 2" {
		t.Errorf("open: %s", s)
	}

	for _, c := range []*child{holder, late} {
		c.signal(t, syscall.SIGSTOP)
	}
	sv.Kill()
	supervise()
	last := as(guest, "ksocks")
	holder.Kill()
	if e := last.askErr(t, "open 0"); !strings.HasPrefix(e, "EAGAIN") {
		t.Errorf("open: %s", e)
	}
	late.Kill()
	eventually(t, "the bus begins anew", func() bool {
		last.tell(t, "open 0")
		s := last.line(t)
		return s == "ok 0 1"
	})
}

// A process that was written down as a holder, but has not got the region when the
// supervisor is killed, can't be looked into. It says so itself when it opens a Ksock:
// else it, and all others, would be refused for as long as it lives.
func TestHolderOfNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	const owner, guest = 64001, 64002
	dir, err := os.MkdirTemp("", "kbus")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, owner, owner)); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	as := func(uid uint32, name string, args ...string) *child {
		cmd := shmtest.Command(t, name, append([]string{socket}, args...)...)
		cmd.Path = "/proc/self/exe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return spawn(t, cmd)
	}
	supervise := func() *child {
		t.Helper()
		c := as(owner, "supervisor", "allow="+strconv.Itoa(guest))
		if s := c.line(t); s != "ready" {
			t.Fatal(s)
		}
		return c
	}
	sv := supervise()
	idle, other := as(guest, "ksocks"), as(guest, "ksocks")
	idle.ask(t, "open 0")
	state, err := os.ReadFile(socket + ".state")
	if err != nil {
		t.Fatal(err)
	}
	idle.ask(t, "close 0")
	sv.Kill()
	if err := os.WriteFile(socket+".state", state, 0o600); err != nil {
		t.Fatal(err)
	}
	supervise()
	if e := other.askErr(t, "open 0"); !strings.HasPrefix(e, "EAGAIN") || !strings.Contains(e, strconv.Itoa(idle.pid())) {
		t.Errorf("open: %s", e)
	}
	for _, c := range []*child{idle, other} {
		if s := c.ask(t, "open 0"); !strings.HasSuffix(s, map[*child]string{idle: " 1", other: " 2"}[c]) {
			t.Errorf("open: %s", s)
		}
	}
}

// A region full of nonsense harms its own bus alone: the supervisor goes on,
// answers with errors, and begins that bus anew when its Ksocks have ended.
func TestCorruptRegion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket, "buses=2")
	other := openEnd(t, socket, 1)
	call(t, other.Link, control.Request{Op: control.OpBind, Name: "$.A"})
	dying, bad := ksockProcess(t, socket), ksockProcess(t, socket)
	for _, c := range []*child{dying, dying, bad} {
		c.ask(t, "open 0")
	}
	bad.ask(t, "spoil 0 %d", seed)
	for _, op := range []control.Op{control.OpKsocks, control.OpBindings, control.OpBuses} {
		ask(t, socket, control.Request{Op: op})
	}
	dying.Kill()
	if err := other.sendWaiting(t.Context(), "$.A", "1"); err != nil {
		t.Fatal(err)
	}
	call(t, other.Link, control.Request{Op: control.OpMaxMessages, Value: 5})
	bad.ask(t, "behead 0")
	sv.Kill()
	supervise(t, socket, "buses=2")
	call(t, other.Link, control.Request{Op: control.OpMaxMessages, Value: 6})
	if s := other.mustNext(t); s != "$.A 1" {
		t.Error(s)
	}
	if _, err := control.Open(t.Context(), socket, 0, false); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "bus 0") {
		t.Errorf("open a broken bus: %v", err)
	}
	if s := bad.ask(t, "done 0"); !strings.Contains(s, "bus 0") {
		t.Errorf("a Ksock of a broken bus: %s", s)
	}
	bad.Kill()
	eventually(t, "the bus begins anew", func() bool {
		e, err := newEnd(t.Context(), socket, 0)
		if err == nil {
			e.Close()
		}
		return err == nil
	})
}

// TestOpenWithoutAnswer: a supervisor is killed after it has opened a Ksock and
// before its process knows of that. The Ksock's slot is free again while the process
// lives; those that processes know of stay (R9.4).
func TestOpenWithoutAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	known := openEnd(t, socket, 0)
	c, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// That the answer comes is as good as that it does not: nobody acts on it.
	a, region, err := c.Call(t.Context(), &control.Request{Op: control.OpOpen}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if n := len(ksocks(t, socket, 0)); n != 2 {
		t.Fatalf("%d Ksocks are open", n)
	}
	sv.Kill()
	supervise(t, socket)
	if l := ksocks(t, socket, 0); len(l) != 1 || l[0].Ksock != known.Ksock() {
		t.Errorf("open are %+v, to be open is Ksock %d", l, known.Ksock())
	}
	// Whoever comes late with the answer is told.
	if err := takeUp(t, region, a); err != unix.ESTALE {
		t.Errorf("the Ksock without answer: %v", err)
	}
}

// takeUp does what a program does with the answer to OpOpen.
func takeUp(t *testing.T, region *os.File, a *control.Answer) error {
	mem, err := shm.Map(region)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	b, err := ring.Attach(mem)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Client(int(a.Slot), a.Ksock, ring.ReadWrite)
	return err
}

// TestDeathWhileTakenOver: a process dies while its Ksock, adopted, is one of a bus
// that is being taken over. The supervisor ends the Ksock when it has the bus, not
// beside (two writers of one ring.Admin).
func TestDeathWhileTakenOver(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	sv := supervise(t, socket)
	lives, dead := ksockProcess(t, socket), ksockProcess(t, socket)
	lives.ask(t, "open")
	dead.ask(t, "open")
	sv.Kill()
	dead.Kill()

	var taken, beside atomic.Bool
	logged := logFunc(func(r slog.Record) {
		if r.Message != "Ksock has ended" {
			return
		}
		if taken.Swap(true) {
			beside.Store(true)
			return
		}
		// In the middle of it: the first Ksock is adopted, the second found dead.
		lives.Kill()
		buf := make([]byte, 1<<20)
		eventually(t, "nobody has noticed the death", func() bool {
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				if strings.Contains(g, "(*bus).end(") && strings.Contains(g, "sync.(*Mutex).Lock") {
					return true
				}
			}
			return beside.Load()
		})
		if beside.Load() {
			t.Error("a Ksock is ended while its bus is being taken over")
		}
	})
	start(t, Options{Socket: socket, Logger: slog.New(logged)})
	if !taken.Load() {
		t.Fatal("no Ksock was found dead")
	}
	eventually(t, "Ksocks stay", func() bool { return len(ksocks(t, socket, 0)) == 0 })
}

// A logFunc is told of each record.
type logFunc func(slog.Record)

func (f logFunc) Enabled(context.Context, slog.Level) bool { return true }

func (f logFunc) Handle(_ context.Context, r slog.Record) error {
	f(r)
	return nil
}

func (f logFunc) WithAttrs([]slog.Attr) slog.Handler { return f }

func (f logFunc) WithGroup(string) slog.Handler { return f }
