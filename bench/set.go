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
	id    string // for targets
	label string // for people
	run   func(context.Context, Options) (*Result, error)
	with  Options // Wait, Size and so on; the rest is that of the set
	floor string  // the job to whose result it is compared; "": none
}

// jobs are the set, floors first. Each floor has a round trip, a copy and a ring: of
// the sizes and the readers that some of the others have.
var jobs = []job{
	{"cacheline", "floor, spinning", Floor, Options{Wait: Spin, Size: 64, Listeners: 1}, ""},
	{"futex", "floor, asleep", Floor, Options{Wait: Sleep, Size: frame, Listeners: 8}, ""},
	{"ring2", "floor, ring with 2 readers", Floor, Options{Wait: Spin, Size: 4 << 10, Listeners: 2}, ""},
	{"ring4", "floor, ring with 4 readers", Floor, Options{Wait: Spin, Size: 64 << 10, Listeners: 4}, ""},
	{"ring32", "floor, ring with 32 readers", Floor, Options{Wait: Sleep, Size: 1 << 20, Listeners: 32}, ""},

	{"spin", "Request/Reply 64 B, spinning", RTT, Options{Wait: Spin, Size: 64}, "cacheline"},
	{"frame", "Request/Reply 3 MiB in place, spinning", RTT, Options{Wait: Spin, Size: frame}, "cacheline"},
	{"asleep", "Request/Reply 64 B, asleep", RTT, Options{Wait: Sleep, Size: 64}, "futex"},
	{"adaptive", "Request/Reply 64 B, adaptive", RTT, Options{Wait: Adaptive, Size: 64}, "futex"},
	{"rtt0", "Request/Reply 0 B, spinning", RTT, Options{Wait: Spin}, "cacheline"},
	{"rtt4K", "Request/Reply 4 KiB in place, spinning", RTT, Options{Wait: Spin, Size: 4 << 10}, "cacheline"},
	{"rtt64K", "Request/Reply 64 KiB in place, spinning", RTT, Options{Wait: Spin, Size: 64 << 10}, "cacheline"},
	{"rtt8M", "Request/Reply 8 MiB in place, spinning", RTT, Options{Wait: Spin, Size: 8 << 20}, "cacheline"},
	{"rttcopied", "Request/Reply 64 KiB copied, spinning", RTT, Options{Wait: Spin, Size: 64 << 10, Copy: true}, "cacheline"},
	{"askers", "Request/Reply 64 B, 4 askers", RTT, Options{Size: 64, Senders: 4}, "futex"},
	{"contention", "Request/Reply 64 B, 4 busy processes", RTT, Options{Size: 64, Busy: 4}, "futex"},

	{"oneway", "one way 64 B, spinning", OneWay, Options{Wait: Spin, Size: 64, Rate: 100e3}, "cacheline"},
	{"onewaysleep", "one way 64 B, asleep", OneWay, Options{Wait: Sleep, Size: 64, Rate: 10e3}, "futex"},
	{"pipeline", "pipeline of 4 stages, 3 MiB", OneWay, Options{Size: frame, Stages: 4}, "cacheline"},
	{"pipelinerate", "pipeline of 4 stages, 3 MiB, 1000/s", OneWay, Options{Size: frame, Stages: 4, Rate: 1000}, "futex"},
	{"stopped", "one way beside a stopped Listener", Mix, Options{Wait: Spin, Size: 64, Rate: 50e3, Stopped: 1}, "cacheline"},
	{"slow", "one way beside slow and stopped Listeners", Mix, Options{Size: 64, Rate: 5e3, Stopped: 1, Slow: 1}, "futex"},

	{"fan1", "announcements 64 B, 1 → 1", Fan, Options{Size: 64, Listeners: 1}, "cacheline"},
	{"fan2", "announcements 64 B, 1 → 2", Fan, Options{Size: 64, Listeners: 2}, "ring2"},
	{"fan4", "announcements 64 B, 1 → 4", Fan, Options{Size: 64, Listeners: 4}, "ring4"},
	{"fan8", "announcements 64 B, 1 → 8", Fan, Options{Size: 64, Listeners: 8}, "futex"},
	{"fan32", "announcements 64 B, 1 → 32", Fan, Options{Size: 64, Listeners: 32}, "ring32"},
	{"batch1", "announcements 64 B in batches of 64, 1 → 1", Fan, Options{Size: 64, Listeners: 1, Batch: 64}, "cacheline"},
	{"batch8", "announcements 64 B in batches of 64, 1 → 8", Fan, Options{Size: 64, Listeners: 8, Batch: 64}, "futex"},
	{"senders", "announcements 64 B, 4 → 1", Fan, Options{Size: 64, Senders: 4, Listeners: 1}, "cacheline"},
	{"frames1", "frames of 3 MiB, 1 → 1", Fan, Options{Size: frame, Listeners: 1}, "cacheline"},
	{"frames8", "frames of 3 MiB, 1 → 8", Fan, Options{Size: frame, Listeners: 8}, "futex"},

	{"local", "send and receive in one process", Local, Options{Size: 64}, "cacheline"},
	{"send10", "send with 10 bindings", Send, Options{Size: 64, Bindings: 10}, "cacheline"},
	{"send10k", "send with 10,000 bindings", Send, Options{Size: 64, Bindings: 10_000}, "cacheline"},
	{"sendk2", "send with 2 idle Ksocks", Send, Options{Size: 64, Ksocks: 2}, "cacheline"},
	{"sendk256", "send with 256 idle Ksocks", Send, Options{Size: 64, Ksocks: 256}, "cacheline"},
	{"senddeep", "send 16 parts below a wildcard", Send, Options{Size: 64, Depth: 16}, "cacheline"},
	{"open", "open and close", Open, Options{}, "futex"},
	{"bind", "bind and unbind", Bind, Options{}, "futex"},
	{"rest", "a bus at rest", Rest, Options{}, ""},

	{"limpet64", "a pair of Limpets, 64 B", pairUnpinned, Options{Wait: Sleep, Size: 64}, "futex"},
	{"limpet4k", "a pair of Limpets, 4 KiB", pairUnpinned, Options{Wait: Sleep, Size: 4 << 10}, "futex"},
	{"limpet1m", "a pair of Limpets, 1 MiB", pairUnpinned, Options{Wait: Sleep, Size: 1 << 20}, "futex"},
}

// pairUnpinned is Limpet wherever the scheduler wants it: four processes at once. Its
// asker and Replier sleep, since in a spinning round trip within one bus nobody is
// woken, while each message that crosses wakes four.
func pairUnpinned(ctx context.Context, o Options) (*Result, error) {
	o.Pin = nil
	return Limpet(ctx, o)
}

// compareTo says how many times its floor a result is.
func (r *Result) compareTo(floor *Result) {
	r.Floor = floor.Name
	switch {
	case r.Workload == "oneway" && r.Rate > 0, r.Workload == "mix": // half a round trip for each step of the way
		r.ToFloor = 2 * ratio(r.P50, floor.P50) / float64(r.Stages+1)
	case r.Workload == "fan", r.Workload == "oneway":
		r.ToFloor = floor.Ring / max(r.PerSecond, 1)
	case r.Workload == "local", r.Workload == "send":
		r.ToFloor = ratio(r.P50, floor.Memcpy.P50)
	default:
		r.ToFloor = ratio(r.P50, floor.P50)
	}
}

// options are the job's in a set with options o.
func (j job) options(o Options) Options {
	with := j.with
	with.Command, with.Duration, with.Pin = o.Command, o.Duration, o.Pin
	if with.Wait == "" && (with.Listeners > 0 || with.Senders > 0 || with.Stages > 0 || with.Busy > 0 || with.Slow > 0) {
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
			if j.floor != "" {
				result.compareTo(r[j.floor])
			}
			report.Results = append(report.Results, result)
		}
		all = append(all, r)
	}
	report.Targets = compare(all)
	return report, nil
}
