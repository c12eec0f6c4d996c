package bench

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"kbus.internal/shm/shmtest"
)

func TestSet(t *testing.T) {
	shmtest.CheckFiles(t)
	o := short(Options{})
	o.Duration = 10 * time.Millisecond
	var progress []string
	report, err := Set(t.Context(), o, 2, func(text string) { progress = append(progress, text) })
	if err != nil {
		t.Fatal(err)
	}
	if n := 2 * len(jobs); len(progress) != n || len(report.Results) != n || len(report.Targets) != len(targets) {
		t.Fatalf("%d lines, %d results, %d targets", len(progress), len(report.Results), len(report.Targets))
	}
	for _, g := range report.Targets {
		if g.Result <= 0 && g.Unit != "ns" || g.Low > g.Result || g.High < g.Result || len(g.Rounds) != 2 || len(g.Disturbed) != 2 {
			t.Errorf("%+v", g)
		}
	}
	names := map[string]int{}
	r := round{}
	for i, x := range report.Results {
		j := jobs[i%len(jobs)]
		r[j.id] = x
		names[x.Name]++
		if x.Missed != 0 && x.Workload != "mix" || x.Round != i/len(jobs)+1 || x.Listeners != j.with.Listeners && x.Readers != j.with.Listeners ||
			x.Senders != max(j.with.Senders, 1) && j.with.Senders > 0 || x.Stages != j.with.Stages || x.Rate != j.with.Rate ||
			x.Ksocks != j.with.Ksocks || x.Bindings != j.with.Bindings || x.Depth != j.with.Depth || x.Busy != j.with.Busy ||
			x.Slow != j.with.Slow || x.Stopped != j.with.Stopped ||
			x.Size != j.with.Size || x.Copied != j.with.Copy || j.with.Wait != "" && x.Wait != j.with.Wait {
			t.Errorf("%s was run in another way: %+v", j.id, x)
		}
		if (x.ToFloor > 0) != (j.floor != "") || j.floor != "" && x.Floor != r[j.floor].Name {
			t.Errorf("%s is %v times %q", j.id, x.ToFloor, x.Floor)
		}
	}
	if len(names) != len(jobs) {
		t.Errorf("%d jobs have names %v", len(jobs), names)
	}
	// Each target divides, or shows, what its name says.
	for name, want := range map[string]float64{
		"Request/Reply 64 B, spinning, p50":    float64(r["spin"].P50) / float64(r["cacheline"].P50),
		"Request/Reply 64 B, asleep, p50":      float64(r["asleep"].P50) / float64(r["futex"].P50),
		"Request/Reply 3 MiB in place, p50":    float64(r["frame"].P50) / float64(r["spin"].P50),
		"announcements 64 B, 1 → 4":            r["fan4"].PerSecond,
		"frames of 3 MiB in place, 1 → 8":      r["frames8"].PerSecond,
		"unbind, p50":                          float64(r["bind"].Unbind.P50),
		"send and receive in one process, p50": float64(r["local"].P50),
		"send with 10,000 bindings, p50":       float64(r["send10k"].P50) / float64(r["send10"].P50),
		"send with 256 idle Ksocks, p50":       float64(r["sendk256"].P50) / float64(r["sendk2"].P50),
		"beside a stopped Listener, p99":       float64(r["stopped"].P99) / float64(r["stopped"].Alone.P99),
	} {
		got := -1.0
		for _, g := range report.Targets {
			if g.Name == name {
				got = g.Rounds[1]
			}
		}
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	// What is written can be read.
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if twice, err := json.Marshal(&again); err != nil || string(twice) != string(raw) {
		t.Errorf("%s\nis read as (%v)\n%s", raw, err, twice)
	}
	if _, err := Set(t.Context(), o, 0, nil); !errors.Is(err, ErrOptions) {
		t.Errorf("no rounds: %v", err)
	}
	// A floor is that of what is compared with it.
	for id, want := range map[string]float64{
		"asleep": float64(r["asleep"].P50) / float64(r["futex"].P50),
		"oneway": 2 * float64(r["oneway"].P50) / float64(r["cacheline"].P50),
		"fan8":   r["futex"].Ring / r["fan8"].PerSecond,
		"local":  float64(r["local"].P50) / float64(r["cacheline"].Memcpy.P50),
	} {
		if got := r[id].ToFloor; got != want {
			t.Errorf("%s: %v times its floor, want %v", id, got, want)
		}
	}
	report.Targets[1].Disturbed = []bool{true}
	var b strings.Builder
	if err := report.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"floor/size=64/wait=spin", "readers=8, bare ring", "bind, unbind", "TARGETS", " ~1 ", "~N: N rounds", "missed by Listeners: 0"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// The median is that of the rounds that were not disturbed, if there are any.
func TestConclude(t *testing.T) {
	for _, test := range []struct {
		rounds            []float64
		disturbed         []bool
		result, low, high float64
	}{
		{[]float64{3, 1, 2}, []bool{false, false, false}, 2, 1, 3},
		{[]float64{3, 1, 2, 9}, []bool{false, false, false, true}, 2, 1, 3},
		{[]float64{5, 1}, []bool{true, false}, 1, 1, 1},
		{[]float64{5, 1}, []bool{true, true}, 3, 1, 5},
	} {
		g := Target{Rounds: test.rounds, Disturbed: test.disturbed}
		g.conclude()
		if g.Result != test.result || g.Low != test.low || g.High != test.high {
			t.Errorf("%v, disturbed %v: %v, %v to %v", test.rounds, test.disturbed, g.Result, g.Low, g.High)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		g      Target
		target float64
		want   string
	}{
		{Target{Unit: "× futex", Result: 1.4}, 1.4, "≤ 1.40 reached"},
		{Target{Unit: "× futex", Result: 1.41}, 1.4, "≤ 1.40 just missed"},
		{Target{Unit: "× futex", Result: 2.1}, 1.4, "≤ 1.40 missed by 50 %"},
		{Target{Unit: "ns", Result: 1000}, 250, "≤ 250 ns missed (4.0 times as much)"},
		{Target{Unit: "/s", AtLeast: true, Result: 3e6}, 6e6, "≥ 6 M/s missed by 50 %"},
		{Target{Unit: "/s", AtLeast: true, Result: 7e6}, 6e6, "≥ 6 M/s reached"},
		{Target{Result: 7}, 0, ""},
	} {
		if got := test.g.verdict(test.target); got != test.want {
			t.Errorf("%+v: %q, want %q", test.g, got, test.want)
		}
	}
}

// The load is what the CPUs did beyond the measurement itself.
func TestLoad(t *testing.T) {
	const stat = "cpu  1000 100 200 5000 20 3 4 50 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
	at, err := parseStat([]byte(stat))
	if err != nil || at.busy != 13070*time.Millisecond || at.steal != 500*time.Millisecond {
		t.Errorf("%+v, %v", at, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 4 5 6 7 x\n"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	second := time.Second
	for _, test := range []struct {
		after  cpuTime
		steal  float64
		others float64
		marked bool
	}{
		{cpuTime{busy: second, own: second}, 0, 0, false},
		{cpuTime{busy: second, own: second * 99 / 100}, 0, 0, false}, // below what the counters tell
		{cpuTime{busy: second, own: second / 2}, 0, 0.25, true},
		{cpuTime{busy: second, own: second * 9 / 10}, 0, 0.05, false},
		{cpuTime{busy: second, own: second, steal: second / 10}, 0.05, 0, true},
	} {
		l := loadOf(2*second, cpuTime{}, test.after, "1 2 3")
		if l.Steal != test.steal || l.Others != test.others || l.Disturbed != test.marked {
			t.Errorf("%+v: %+v", test.after, l)
		}
	}
}

func TestTexts(t *testing.T) {
	for want, got := range map[string]string{
		"7 ns": nanos(int64(7)), "1 µs": nanos(1000.0), "1.23 µs": nanos(int64(1234)), "12.3 ms": nanos(12.34e6), "123 s": nanos(123.4e9),
		"0": count(0), "999": count(999), "1.50 M": count(1.5e6), "3 MiB": bytesText(frame), "64 B": bytesText(64),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
