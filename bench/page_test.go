package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// fakeResult is a result with a histogram of times around p50.
func fakeResult(t *testing.T, system, workload string, size int, wait Wait, listeners, p50 int) *Result {
	t.Helper()
	h := hdrhistogram.New(1, longest, 3)
	for i := range 1000 {
		if err := h.RecordValue(int64(p50 + (i+1)*p50/1000 - p50/2)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	r := &Result{Workload: workload, System: system, Size: size, Wait: wait, Listeners: listeners, Round: 1, Seconds: 1,
		Processes: []Process{{Role: "a", Messages: 1000, CPUTime: 10, Voluntary: 5}}}
	if workload == "fan" {
		r.PerSecond = 1e9 / float64(p50)
	} else {
		r.Latency = &Latency{P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9),
			P9999: h.ValueAtQuantile(99.99), Max: h.Max(), Count: 1000, Clock: 1, Histogram: string(raw)}
	}
	if workload == "floor" {
		r.Memcpy = r.Latency
	}
	r.conclude()
	return r
}

func fakeReport(t *testing.T) *Report {
	return &Report{
		Command: []string{"kbus", "bench", "peers", "<b>"}, Started: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Seconds: 1, Pin: []int{0, 1},
		Machine: Machine{CPU: "A CPU & more", CPUs: 2, Kernel: "6.18", Go: "go1.26", Governor: "powersave", ClockSource: "tsc", Revision: "abc123"},
		Targets: []Target{
			{Name: "Request/Reply 64 B, spinning, p50", Unit: "× cache line", First: 4, Further: 2.2, Result: 3, Low: 2, High: 5, Rounds: []float64{3}, Disturbed: []bool{true}},
			{Name: "open, p50", Unit: "ns", Further: 300e3, Result: 200e3, Low: 1e5, High: 2e5, Rounds: []float64{2e5}, Disturbed: []bool{false}},
		},
		Results: []*Result{
			fakeResult(t, Machinery, "floor", 64, Spin, 0, 300), fakeResult(t, Machinery, "floor", frame, Sleep, 0, 12_000),
			fakeResult(t, KBUS, "rtt", 64, Spin, 0, 600), fakeResult(t, KBUS, "rtt", 64, Sleep, 0, 13_000), fakeResult(t, KBUS, "rtt", frame, Spin, 0, 700),
			fakeResult(t, KBUS, "oneway", 64, Spin, 0, 400), fakeResult(t, KBUS, "fan", 64, Adaptive, 8, 1000),
			fakeResult(t, "unix-go", "rtt", 64, "", 0, 15_000), fakeResult(t, "pipe", "rtt", frame, Sleep, 0, 2_000_000),
			fakeResult(t, "pipe", "fan", 64, Adaptive, 8, 20_000),
		},
		Skipped: []Skipped{{"zeromq", 0, Unavailable{"libzmq is not installed", "apt-get install libzmq5"}}},
	}
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPage(t *testing.T) {
	dir := t.TempDir()
	report := fakeReport(t)
	report.Results[2].Load.Disturbed = true
	writeJSON(t, filepath.Join(dir, "new.json"), report)
	old := fakeReport(t)
	old.Started = old.Started.AddDate(0, -1, 0)
	for _, r := range old.Results {
		r.Load.Disturbed = true
	}
	writeJSON(t, filepath.Join(dir, "old.json"), old)
	writeJSON(t, filepath.Join(dir, "single.json"), fakeResult(t, KBUS, "rtt", 64, Spin, 0, 650))
	writeJSON(t, filepath.Join(dir, "other.json"), map[string]int{"a": 1})
	var b strings.Builder
	if err := WritePage(&b, dir); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"A Request and its Reply by kbus: 600 ns spinning", "by a Unix socket in Go: 15.0 µs",
		"2.0 times the floor: a cache line there and back takes 300 ns", "best of the others: pipe, 50\u00a0k",
		"1 of 2", "prefers-color-scheme: dark", "<svg ", "600 ns ~1",
		"2 × A CPU &amp; more", "governor powersave", "CPUs [0 1]", "kbus bench peers &lt;b&gt;", "abc123", "30 November 2026",
		"1.2 × kbus", "2 × floor", "≤ 2.20 missed by 36 %", "≤ 4.00 reached", "zeromq: libzmq is not installed: apt-get install libzmq5",
		"The bus: oneway", "1 → 8", "10 of 10 runs were disturbed", "other.json: not results of kbus bench", "<summary>old.json</summary>",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	// It needs nothing from elsewhere, and no scripts.
	for _, not := range []string{"<script", "http://", "https://", "src=", "@import", "url(", "NaN", "Inf"} {
		if strings.Contains(text, not) {
			t.Errorf("has %q", not)
		}
	}
	// Pictures are XML.
	for _, part := range strings.SplitAfter(text, "</svg>") {
		i := strings.Index(part, "<svg ")
		if i < 0 {
			continue
		}
		d := xml.NewDecoder(strings.NewReader(part[i:]))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in %.200s", err, part[i:])
			}
		}
	}
}

func TestPageErrors(t *testing.T) {
	dir := t.TempDir()
	if err := WritePage(io.Discard, dir); err == nil || !strings.Contains(err.Error(), "has no results") {
		t.Error(err)
	}
	if err := WritePage(io.Discard, filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// Runs without anything to compare, or to draw, make a page, too.
	writeJSON(t, filepath.Join(dir, "a.json"), &Result{Name: "rest", Workload: "rest", System: KBUS})
	var b strings.Builder
	if err := WritePage(&b, dir); err != nil || !strings.Contains(b.String(), "No file has anything beside the bus") {
		t.Error(err)
	}
}

// A series' histogram and figures are those of the rounds that count.
func TestSeries(t *testing.T) {
	a, b := fakeResult(t, KBUS, "rtt", 64, Spin, 0, 1000), fakeResult(t, KBUS, "rtt", 64, Spin, 0, 5000)
	b.Load.Disturbed = true
	s := &series{Result: a, runs: []*Result{a, b}}
	if n := s.histogram().TotalCount(); n != 1000 || s.p50() != float64(a.P50) || s.disturbed() != 1 {
		t.Errorf("%d times, p50 %v, %d disturbed", n, s.p50(), s.disturbed())
	}
	a.Load.Disturbed = true
	if n := s.histogram().TotalCount(); n != 2000 {
		t.Errorf("%d times, all disturbed", n)
	}
}

func TestDecades(t *testing.T) {
	for _, test := range []struct {
		values    []float64
		low, high float64
	}{{[]float64{300, 12_000}, 2, 5}, {[]float64{100, 1000}, 2, 3}, {[]float64{5}, 0, 1}, {[]float64{0}, 0, 1}, {[]float64{10}, 1, 2}} {
		if low, high := decades(test.values); low != test.low || high != test.high || math.IsNaN(low) {
			t.Errorf("%v: %v to %v", test.values, low, high)
		}
	}
}

func TestParameters(t *testing.T) {
	for name, want := range map[string]string{"open": "open", "oneway/size=3145728/wait=adaptive/stages=4": "3 MiB, adaptive, 4 stages"} {
		if got := (&series{Result: &Result{Name: name, Workload: "open", Size: frame}}).parameters(); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	for ratio, want := range map[float64]string{0.0352: "0.035", 0.5: "0.50", 1.15: "1.1", 2: "2", 3.64: "3.6", 12.4: "12", 99.9: "100", 2860: "2860"} {
		if got := times(ratio); got != want {
			t.Errorf("%v: %q, want %q", ratio, got, want)
		}
	}
}
