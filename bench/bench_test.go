package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"kbus.internal/shm/shmtest"
)

func TestMain(m *testing.M) {
	var err error
	switch strings.Join(os.Args[1:], " ") {
	case "child":
		err = Child(os.Stdin, os.Stdout, testPeers...)
	case "parent":
		err = killedParent()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// short is a run that is long enough to do something.
func short(o Options) Options {
	o.Command = []string{self, "child"}
	o.Duration = 50 * time.Millisecond
	return o
}

func checkLatency(t *testing.T, what string, l *Latency) {
	t.Helper()
	order := []int64{1, l.P50, l.P90, l.P99, l.P999, l.P9999, l.Max}
	if !slices.IsSorted(order) || l.Count < 1 || l.Clock < 1 {
		t.Errorf("%s: %v, clock %d", what, l, l.Clock)
	}
	h, err := hdrhistogram.Decode([]byte(l.Histogram))
	if err != nil {
		t.Errorf("%s: histogram: %v", what, err)
	} else if h.TotalCount() != l.Count || h.ValueAtQuantile(50) != l.P50 {
		t.Errorf("%s: histogram has %d times with median %d, want %d and %d", what, h.TotalCount(), h.ValueAtQuantile(50), l.Count, l.P50)
	}
}

func checkRun(t *testing.T, r *Result, roles ...string) {
	t.Helper()
	var got []string
	for _, p := range r.Processes {
		got = append(got, p.Role)
		if p.Resident <= 0 || p.Shared < 0 || p.Role != "crowd" && p.Role != "busy" && (p.Messages < 1 || p.CPUTime <= 0) {
			t.Errorf("%s: %+v", r.Workload, p)
		}
	}
	slices.Sort(got)
	slices.Sort(roles)
	if !slices.Equal(got, roles) {
		t.Errorf("%s: processes %v, want %v", r.Workload, got, roles)
	}
	if m := r.Machine; m.Kernel == "" || m.Go == "" || m.CPUs < 1 || r.Load.Average == "" || r.Started.IsZero() {
		t.Errorf("%s: no word of the machine: %+v", r.Workload, r)
	}
}

// messages are those of all processes in that role.
func messages(r *Result, role string) (n int64) {
	for _, p := range r.Processes {
		if p.Role == role {
			n += p.Messages
		}
	}
	return n
}

func TestFloor(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, wait := range []Wait{Spin, Sleep} {
		f, err := Floor(t.Context(), short(Options{Wait: wait, Size: 64, Listeners: 2}))
		if err != nil {
			t.Fatal(err)
		}
		checkLatency(t, "floor", f.Latency)
		checkLatency(t, "memcpy", f.Memcpy)
		checkRun(t, f, "ping", "pong", "copier", "producer", "reader", "reader")
		if f.Ring <= 0 || f.Readers != 2 || f.Memcpy.Batch < 2 {
			t.Errorf("%+v", f)
		}
		if a, b := messages(f, "ping"), messages(f, "pong"); a != b {
			t.Errorf("%d pings, %d pongs", a, b)
		}
	}
}

func TestRTT(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, o := range []Options{
		{Wait: Spin, Size: 64}, {Wait: Sleep, Size: 64}, {Wait: Adaptive, Size: 0},
		{Wait: Sleep, Size: 3 << 20}, {Wait: Sleep, Size: 4096, Copy: true}, {Size: 3, Pin: []int{firstCPU(t)}},
	} {
		r, err := RTT(t.Context(), short(o))
		if err != nil {
			t.Fatal(err)
		}
		checkLatency(t, "rtt", r.Latency)
		checkRun(t, r, "asker", "replier")
		if a, b := messages(r, "asker"), messages(r, "replier"); a != b || a < r.Count {
			t.Errorf("%d Requests, %d Replies, %d times", a, b, r.Count)
		}
		if r.Size != o.Size || r.InPlace == o.Copy {
			t.Errorf("%+v", r)
		}
	}
}

func firstCPU(t testing.TB) int {
	cpus, err := AllowedCPUs()
	if err != nil || len(cpus) == 0 {
		t.Fatal(cpus, err)
	}
	return cpus[0]
}

// Each process may use its own CPU only; this one may use what it could before.
func TestPin(t *testing.T) {
	shmtest.CheckFiles(t)
	cpus, err := AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	pin := cpus[:min(2, len(cpus))]
	s := &stage{o: short(Options{Pin: pin}), result: &Result{}}
	s.ctx, s.end = context.WithCancelCause(t.Context())
	defer s.clear()
	if err := s.memory(4096); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := s.enter("pong"); err != nil {
			t.Fatal(err)
		}
		m := s.members[i]
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", m.cmd.Process.Pid))
		if err != nil || len(tasks) < 2 {
			t.Fatal(tasks, err)
		}
		want := fmt.Sprintf("\nCpus_allowed_list:\t%d\n", pin[i%len(pin)])
		for _, task := range tasks {
			if status, err := os.ReadFile(task); err != nil || !strings.Contains(string(status), want) {
				t.Errorf("process %d: no %q in %v\n%s", i, want, err, status)
			}
		}
	}
	if after, err := AllowedCPUs(); err != nil || !slices.Equal(after, cpus) {
		t.Errorf("this process had CPUs %v, now %v, %v", cpus, after, err)
	}
}

func TestFan(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, o := range []Options{{Size: 64}, {Size: 64, Listeners: 3}, {Size: 3 << 20, Listeners: 2}, {Size: 8, Copy: true, Wait: Sleep}, {Size: 64, Listeners: 2, Batch: 64}} {
		f, err := Fan(t.Context(), short(o))
		if err != nil {
			t.Fatal(err)
		}
		n := max(o.Listeners, 1)
		checkRun(t, f, append(slices.Repeat([]string{"listener"}, n), "announcer")...)
		if f.Missed != 0 || f.Sent < 1 || f.PerSecond <= 0 || f.Listeners != n || f.BatchSize != o.Batch {
			t.Errorf("%+v", f)
		}
		if got := messages(f, "listener"); got != f.Sent*int64(n) {
			t.Errorf("%d Listeners got %d of %d messages", n, got, f.Sent)
		}
	}
}

// What is missed is counted, and the slowest Listener's rate is the rate.
func TestFanCount(t *testing.T) {
	f := Result{Workload: "fan", Size: 10}
	f.count([]*report{{Messages: 100, Elapsed: time.Second}, {Messages: 97, Elapsed: 2 * time.Second}}, 100)
	f.conclude()
	if f.Missed != 3 || f.PerSecond != 48.5 || f.Bytes != 485 || f.Sent != 100 {
		t.Errorf("%+v", f)
	}
}

func TestOthers(t *testing.T) {
	shmtest.CheckFiles(t)
	l, err := Local(t.Context(), short(Options{Size: 64}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "local", l.Latency)
	checkRun(t, l, "local")
	o, err := Open(t.Context(), short(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "open", o.Latency)
	checkLatency(t, "close", o.Close)
	checkRun(t, o, "opener")
	b, err := Bind(t.Context(), short(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "bind", b.Latency)
	checkLatency(t, "unbind", b.Unbind)
	checkRun(t, b, "binder")
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"wait": {Wait: "doze"}, "duration": {Duration: -1}, "size": {Size: -1}, "large": {Size: MaxSize + 1},
		"CPU": {Pin: []int{100_000}}, "Listeners": {Listeners: MaxListeners + 1},
	} {
		if _, err := RTT(t.Context(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Floor(t.Context(), Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("adaptive floor: %v", err)
	}
}

// A process that fails ends the run with its words; nothing is left behind.
func TestFailures(t *testing.T) {
	shmtest.CheckFiles(t)
	t.Setenv("TMPDIR", t.TempDir())
	for name, test := range map[string]struct{ command, want string }{
		"no words": {"true", "asker ended too early"},
		"words":    {"echo no such thing >&2; exit 3", "exit status 3) no such thing"},
		"a report": {`read task; echo '{"Error":"out of order"}'; cat >/dev/null`, "asker: out of order"},
		"killed":   {`read task; echo '{"Ready":true}'; kill -9 $$`, "ended too early (signal: killed)"},
	} {
		o := short(Options{})
		o.Command = []string{"/bin/sh", "-c", test.command}
		_, err := RTT(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Ctrl-C: the processes end when the context does.
func TestCancel(t *testing.T) {
	shmtest.CheckFiles(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	o := short(Options{Wait: Sleep})
	o.Duration = time.Hour
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	if _, err := RTT(ctx, o); !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
}

// A process ends with its parent, however busy it is: with its standard input.
func TestOrphan(t *testing.T) {
	for _, role := range []string{"pong", "reader"} {
		s := &stage{o: short(Options{Wait: Spin}), result: &Result{}}
		s.ctx, s.end = context.WithCancelCause(t.Context())
		if err := s.memory(ringWords * 8); err != nil {
			t.Fatal(err)
		}
		if err := s.enter(role); err != nil {
			t.Fatal(err)
		}
		m := s.members[0]
		if err := m.in.Encode(wordGo); err != nil {
			t.Fatal(err)
		}
		m.stdin.Close()
		<-m.ended
		if code := m.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s: exit code %d, want 1", role, code)
		}
		s.clear()
	}
}

// The whole program dies of SIGKILL: its processes end, too.
func TestKilledParent(t *testing.T) {
	// Orphans become children of this process, which waits for them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	parent := exec.Command("/proc/self/exe", "parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	parent.Stderr = os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if word, err := bufio.NewReader(out).ReadString('\n'); word != "begun\n" {
		t.Fatal(word, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Error("the parent was not killed")
	}
	for orphans := 0; ; orphans++ {
		var status unix.WaitStatus
		_, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			orphans--
			continue
		}
		if errors.Is(err, unix.ECHILD) {
			if orphans != 2 {
				t.Errorf("%d orphans, want 2", orphans)
			}
			return
		}
		if err != nil || status.ExitStatus() != 1 {
			t.Errorf("an orphan ended with %v, %v", status, err)
		}
	}
}

// killedParent is a program with two processes that spin for an hour.
func killedParent() error {
	o := short(Options{Wait: Spin})
	o.Duration = time.Hour
	s := &stage{o: o, result: &Result{}}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	if err := s.memory(4096); err != nil {
		return err
	}
	for _, role := range []string{"pong", "ping"} {
		if err := s.enter(role); err != nil {
			return err
		}
	}
	for _, m := range s.members {
		if err := m.in.Encode(wordGo); err != nil {
			return err
		}
	}
	fmt.Println("begun")
	<-s.ctx.Done()
	return context.Cause(s.ctx)
}
