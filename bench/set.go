package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// frame is the data of a video frame of 1920 × 1080 points, as YUV 4:2:0.
const frame = 3 << 20

// Report is the outcome of the whole set: targets beside results, and all results.
type Report struct {
	Command []string  `json:"command"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // of one run
	Pin     []int     `json:"pin"`
	Machine Machine   `json:"machine"`
	Targets []Target  `json:"targets,omitempty"`
	// Results are in the order in which they were measured. Only those of one
	// round are divided by each other: minutes later the machine may be another.
	Results []*Result `json:"results"`
	Skipped []Skipped `json:"skipped,omitempty"` // runs that were left out
}

// newReport is one without results.
func newReport(o Options) *Report {
	return &Report{
		Command: append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...),
		Started: time.Now().Round(time.Second), Seconds: o.Duration.Seconds(), Pin: o.Pin, Machine: ThisMachine(),
	}
}

// rounds is how many there were.
func (r *Report) rounds() (n int) {
	for _, x := range r.Results {
		n = max(n, x.Round)
	}
	return n
}

// job is a workload of the set.
type job struct {
	id    string // for targets and measured
	label string // for people
	run   func(context.Context, Options) (*Result, error)
	with  Options // Wait, Size and so on; the rest is that of the set
}

// jobs are the set. One of the two floors also has the copy and the ring that
// belong to the large messages and the many Listeners.
var jobs = []job{
	{"cacheline", "floor, spinning", Floor, Options{Wait: Spin, Size: 64, Listeners: 1}},
	{"spin", "Request/Reply 64 B, spinning", RTT, Options{Wait: Spin, Size: 64}},
	{"frame", "Request/Reply 3 MiB in place, spinning", RTT, Options{Wait: Spin, Size: frame}},
	{"futex", "floor, asleep", Floor, Options{Wait: Sleep, Size: frame, Listeners: 8}},
	{"asleep", "Request/Reply 64 B, asleep", RTT, Options{Wait: Sleep, Size: 64}},
	{"local", "send and receive in one process", Local, Options{Size: 64}},
	{"fan1", "announcements 64 B, 1 → 1", Fan, Options{Size: 64, Listeners: 1}},
	{"fan4", "announcements 64 B, 1 → 4", Fan, Options{Size: 64, Listeners: 4}},
	{"fan8", "announcements 64 B, 1 → 8", Fan, Options{Size: 64, Listeners: 8}},
	{"frames1", "frames of 3 MiB, 1 → 1", Fan, Options{Size: frame, Listeners: 1}},
	{"frames8", "frames of 3 MiB, 1 → 8", Fan, Options{Size: frame, Listeners: 8}},
	{"open", "open and close", Open, Options{}},
	{"bind", "bind and unbind", Bind, Options{}},
	{"limpet64", "a pair of Limpets, 64 B", pairUnpinned, Options{Size: 64}},
	{"limpet4k", "a pair of Limpets, 4 KiB", pairUnpinned, Options{Size: 4 << 10}},
	{"limpet1m", "a pair of Limpets, 1 MiB", pairUnpinned, Options{Size: 1 << 20}},
}

// pairUnpinned is Limpet wherever the scheduler wants it: four processes at once.
func pairUnpinned(ctx context.Context, o Options) (*Result, error) {
	o.Pin = nil
	return Limpet(ctx, o)
}

// options are the job's in a set with options o.
func (j job) options(o Options) Options {
	with := j.with
	with.Command, with.Duration, with.Pin = o.Command, o.Duration, o.Pin
	if with.Listeners > 0 && with.Wait == "" {
		with.Pin = nil // more processes than CPUs: the scheduler knows better
	}
	return with
}

// a round's results, by job.
type round map[string]*Result

// Set runs all floors and workloads in turn, rounds times, and compares them
// with what the bus is to reach. Of o it uses Command, Duration (of one run) and
// Pin. progress is told what is being run.
func Set(ctx context.Context, o Options, rounds int, progress func(text string)) (*Report, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	if rounds < 1 {
		return nil, fmt.Errorf("%w: %d rounds", ErrOptions, rounds)
	}
	report := newReport(o)
	var all []round
	for n := range rounds {
		r := round{}
		for i, j := range jobs {
			progress(fmt.Sprintf("round %d of %d, %d of %d: %s", n+1, rounds, i+1, len(jobs), j.label))
			result, err := j.run(ctx, j.options(o))
			if err != nil {
				return nil, err
			}
			result.Round = n + 1
			r[j.id] = result
			report.Results = append(report.Results, result)
		}
		all = append(all, r)
	}
	report.Targets = compare(all)
	return report, nil
}
