package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is how long operations took, in nanoseconds.
type Latency struct {
	P50   int64 `json:"p50_ns"`
	P90   int64 `json:"p90_ns"`
	P99   int64 `json:"p99_ns"`
	P999  int64 `json:"p999_ns"`
	P9999 int64 `json:"p9999_ns"`
	Max   int64 `json:"max_ns"`
	// Count is the number of times recorded; each is the mean of Batch operations
	// that were too short to be timed one by one.
	Count int64 `json:"count"`
	Batch int64 `json:"batch,omitempty"`
	// Clock is what one reading of the clock costs. It was taken off each time.
	Clock int64 `json:"clock_ns"`
	// Histogram is all times, as HdrHistogram writes them in its logs.
	Histogram string `json:"histogram"`
}

func (l *Latency) String() string {
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  p99.99 %s  max %s  (%d times)",
		nanos(l.P50), nanos(l.P90), nanos(l.P99), nanos(l.P999), nanos(l.P9999), nanos(l.Max), l.Count)
}

// nanos writes a time in nanoseconds with three digits, for people.
func nanos[N int64 | float64](n N) string {
	f := float64(n)
	for _, unit := range []string{"ns", "µs", "ms"} {
		if f < 1000 {
			return digits(f) + " " + unit
		}
		f /= 1000
	}
	return digits(f) + " s"
}

// digits writes a number from 0 to 1000 with three digits.
func digits(f float64) string {
	switch {
	case f >= 99.95 || f == float64(int64(f)):
		return fmt.Sprintf("%.0f", f)
	case f >= 9.995:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

var epoch = time.Now()

// now reads the monotonic clock, which takes half as long as time.Now.
func now() int64 { return int64(time.Since(epoch)) }

// clockCost is the median cost of now.
func clockCost() int64 {
	var costs [101]int64
	for i := range costs {
		const n = 100
		begin := now()
		for range n {
			now()
		}
		costs[i] = (now() - begin) / n
	}
	slices.Sort(costs[:])
	return costs[len(costs)/2]
}

// rate is how many there were in a second; a number even if they took no time.
func rate(n int64, d time.Duration) float64 { return float64(n) / max(d, 1).Seconds() }

// longest is the longest time that is told from longer ones.
const longest = int64(100 * time.Second)

// recorder collects times of one process. It allocates nothing after it was made.
type recorder struct {
	h     *hdrhistogram.Histogram
	clock int64
	batch int64
}

func newRecorder(batch int64) *recorder {
	return &recorder{hdrhistogram.New(1, longest, 3), clockCost(), batch}
}

// add records that a batch took d by two readings of the clock.
func (r *recorder) add(d int64) {
	// Only values above longest are refused.
	_ = r.h.RecordValue(min(max((d-r.clock+r.batch/2)/r.batch, 1), longest))
}

func (r *recorder) latency() (*Latency, error) {
	l, err := latencyOf(r.h)
	if err != nil {
		return nil, err
	}
	l.Clock = r.clock
	if r.batch > 1 {
		l.Batch = r.batch
	}
	return l, nil
}

func latencyOf(h *hdrhistogram.Histogram) (*Latency, error) {
	raw, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode the histogram: %w", err)
	}
	return &Latency{
		P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90), P99: h.ValueAtQuantile(99),
		P999: h.ValueAtQuantile(99.9), P9999: h.ValueAtQuantile(99.99), Max: h.Max(),
		Count: h.TotalCount(), Histogram: string(raw),
	}, nil
}

// together is the times of several processes as those of one.
func together(all []*Latency) (*Latency, error) {
	if len(all) == 1 {
		return all[0], nil
	}
	sum := hdrhistogram.New(1, longest, 3)
	for _, l := range all {
		h, err := hdrhistogram.Decode([]byte(l.Histogram))
		if err != nil {
			return nil, fmt.Errorf("decode a histogram: %w", err)
		}
		if n := sum.Merge(h); n > 0 {
			return nil, fmt.Errorf("%d times are too long for one histogram", n)
		}
	}
	l, err := latencyOf(sum)
	if err == nil {
		l.Clock, l.Batch = all[0].Clock, all[0].Batch
	}
	return l, err
}
