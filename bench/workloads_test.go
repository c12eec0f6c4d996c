package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"kbus.internal/shm/shmtest"
)

func TestOneWay(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, o := range []Options{
		{Wait: Spin, Size: 64, Rate: 1000}, {Wait: Sleep, Size: waySize, Rate: 1000}, {Size: 64}, {Size: 4096, Copy: true, Rate: 500},
		{Size: 3 << 20, Stages: 3}, {Size: 64, Stages: 2, Rate: 1000, Depth: 3, Ksocks: 2, Bindings: 5},
	} {
		r, err := OneWay(t.Context(), short(o))
		if err != nil {
			t.Fatal(err)
		}
		roles := append(slices.Repeat([]string{"stage"}, o.Stages), "source", "sink")
		if o.Ksocks > 0 {
			roles = append(roles, "crowd")
		}
		checkRun(t, r, roles...)
		checkLatency(t, r.Name, r.Latency)
		if r.Missed != 0 || r.Sent < 1 || r.PerSecond <= 0 || r.Skew < 1 || r.Stages != o.Stages {
			t.Errorf("%+v", r)
		}
		if a, b := messages(r, "source"), messages(r, "sink"); a != b || messages(r, "stage") != a*int64(o.Stages) {
			t.Errorf("%d sent, %d arrived, %d in between", a, b, messages(r, "stage"))
		}
		if o.Rate == 0 {
			if r.Uncorrected != nil {
				t.Errorf("times are corrected for no rate: %v", r.Uncorrected)
			}
			continue
		}
		checkLatency(t, "since sent", r.Uncorrected)
		if r.Count != r.Uncorrected.Count || r.Max < r.Uncorrected.Max {
			t.Errorf("%v; since sent %v", r.Latency, r.Uncorrected)
		}
	}
}

// While the Listener does nothing, the sender soon waits for it. What was to be
// sent meanwhile was late, though it was quick once it was sent.
func TestCoordinatedOmission(t *testing.T) {
	shmtest.CheckFiles(t)
	o := short(Options{Size: MaxSize, Rate: pace, Wait: Sleep})
	o.Duration = time.Second
	var corrected, uncorrected int64
	_, err := measure(t.Context(), o, "oneway", func(s *stage) error {
		if err := s.set("source", "pausing sink"); err != nil {
			return err
		}
		reports, err := s.play()
		if err != nil {
			return err
		}
		for what, n := range map[string]*int64{"due": &corrected, "sent": &uncorrected} {
			h, err := hdrhistogram.Decode([]byte(reports[1].Latencies[what].Histogram))
			if err != nil {
				return err
			}
			for _, bar := range h.Distribution() {
				if bar.From >= int64(late) {
					*n += bar.Count
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if least := int64((pause - late) / (2 * time.Second / pace)); corrected < least || uncorrected >= corrected {
		t.Errorf("%d messages were late, %d of them since they were sent; want %d, and fewer", corrected, uncorrected, least)
	}
}

const (
	pace  = 200
	pause = 500 * time.Millisecond
	late  = 50 * time.Millisecond
)

func init() {
	roles["pausing sink"] = func(w *worker) (*report, error) {
		return w.collect(func(n uint64) {
			if n == pace/4 {
				<-time.After(pause)
			}
		})
	}
}

func TestMix(t *testing.T) {
	shmtest.CheckFiles(t)
	r, err := Mix(t.Context(), short(Options{Size: 64, Rate: 4000, Slow: 1, Stopped: 2}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "beside", r.Latency)
	checkLatency(t, "alone", r.Alone)
	if r.Slow != 1 || r.Stopped != 2 || r.Sent != messages(r, "source") || messages(r, "sink") != r.Sent-r.Missed {
		t.Errorf("%+v", r)
	}
	// A stopped Listener has what found room in its queue, and no more.
	for _, p := range r.Processes {
		if p.Role == "stopped" && p.Messages != 100 {
			t.Errorf("a stopped Listener got %d messages, want 100", p.Messages)
		}
	}
	for _, o := range []Options{{Size: 64, Rate: 1000}, {Size: 64, Stopped: 1}, {Size: 8, Rate: 1000, Slow: 1}} {
		if _, err := Mix(t.Context(), short(o)); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestSenders(t *testing.T) {
	shmtest.CheckFiles(t)
	f, err := Fan(t.Context(), short(Options{Size: 64, Senders: 3, Listeners: 2, Depth: 2}))
	if err != nil {
		t.Fatal(err)
	}
	if f.Listeners != 2 {
		t.Errorf("%d Listeners", f.Listeners)
	}
	checkRun(t, f, "announcer", "announcer", "announcer", "listener", "listener")
	if sent := messages(f, "announcer"); f.Missed != 0 || f.Sent != sent || messages(f, "listener") != 2*sent || f.Senders != 3 {
		t.Errorf("%+v", f)
	}
	r, err := RTT(t.Context(), short(Options{Size: 64, Senders: 3, Busy: 1}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "rtt", r.Latency)
	count := int64(0)
	for _, p := range r.Processes {
		if p.Role == "asker" {
			count += p.Messages
		}
	}
	if n := messages(r, "replier"); n != count || r.Count > n || r.Senders != 3 || r.PerSecond <= 0 {
		t.Errorf("%d answered, %d asked, %+v", n, count, r)
	}
}

// The messages of each sender are in order, and those of another do not matter.
func TestOrder(t *testing.T) {
	var o order
	for _, x := range []struct {
		from uint32
		want uint64
	}{{5, 1}, {5, 2}, {7, 1}, {5, 3}, {7, 2}, {7, 3}, {9, 1}} {
		if got := o.next(x.from); got != x.want {
			t.Errorf("the next of %d is %d, want %d", x.from, got, x.want)
		}
	}
	if o.over(2) || !o.over(2) {
		t.Error("over with another end than the second")
	}
}

func TestSend(t *testing.T) {
	shmtest.CheckFiles(t)
	r, err := Send(t.Context(), short(Options{Size: 64, Bindings: 50, Ksocks: 3, Depth: 4}))
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "send", r.Latency)
	checkLatency(t, "receive", r.Receive)
	if r.Batch != batch || r.Bindings != 50 || r.Ksocks != 3 || r.Depth != 4 || messages(r, "sender") < r.Count {
		t.Errorf("%+v", r)
	}
}

func TestRest(t *testing.T) {
	shmtest.CheckFiles(t)
	r, err := Rest(t.Context(), short(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Memory; m.Bus <= 0 || m.Private <= 0 || m.Program <= 0 || m.CPUTime < 0 || len(r.Processes) != 2 {
		t.Errorf("%+v, %+v", m, r.Processes)
	}
}

func TestOneWayOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"size": {Size: waySize - 1}, "slow": {Size: 64, Slow: 1}, "stages": {Size: 64, Stages: MaxListeners + 1},
		"rate": {Size: 64, Rate: -1}, "depth": {Size: 64, Depth: MaxDepth + 1},
	} {
		if _, err := OneWay(t.Context(), short(o)); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The times of several are those of all.
func TestTogether(t *testing.T) {
	var all []*Latency
	for _, times := range [][]int64{{1000, 2000}, {3000, 4000, 5000}} {
		r := newRecorder(1)
		for _, d := range times {
			r.add(d + r.clock)
		}
		l, err := r.latency()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	l, err := together(all)
	if err != nil {
		t.Fatal(err)
	}
	checkLatency(t, "together", l)
	if l.Count != 5 || l.P50/10 != 300 || l.Max/10 != 500 {
		t.Errorf("%+v", l)
	}
}

func TestBenchstat(t *testing.T) {
	r := &Result{
		Workload: "rtt", System: KBUS, Size: 64, Wait: Spin, PerSecond: 1e6, Machine: ThisMachine(),
		Latency: &Latency{P50: 800, P99: 1600, P999: 2000, Max: 1e6, Count: 12345}, Processes: []Process{{Messages: 10, CPUTime: 5}, {Messages: 20, CPUTime: 1}},
	}
	r.conclude()
	var b bytes.Buffer
	if err := WriteBenchstat(&b, r, r); err != nil {
		t.Fatal(err)
	}
	want := "BenchmarkRtt/size=64/wait=spin\t12345\t800 p50-ns\t1600 p99-ns\t2000 p99.9-ns\t1e+06 max-ns\t1e+06 msgs/s\t7 cpu-ns/msg\n"
	if strings.Count(b.String(), want) != 2 || !strings.HasPrefix(b.String(), "goos: linux\ngoarch: ") {
		t.Errorf("no two of %q in\n%s", want, b.String())
	}
}

// Commands that others call rely on these names.
func TestJSON(t *testing.T) {
	r := &Result{Workload: "rtt", Latency: &Latency{P50: 1}}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"p50_ns", "p99_ns", "p999_ns", "max_ns", "count", "per_second", "missed"} {
		if _, ok := m[key]; !ok {
			t.Errorf("no %s in %s", key, raw)
		}
	}
}
