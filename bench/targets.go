package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// frame is the data of a video frame of 1920 × 1080 points, as YUV 4:2:0.
const frame = 3 << 20

// A Target is a figure that the bus is to reach, and what it reached.
type Target struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`     // "× NAME OF FLOOR", "ns" or "/s"
	AtLeast bool    `json:"at_least"` // larger is better
	First   float64 `json:"first_target,omitempty"`
	Further float64 `json:"further_target,omitempty"`

	// Result is the median of the rounds that were not disturbed, of all if
	// each was; Low and High are the least and the most of these.
	Result float64 `json:"result"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	// Rounds are the results of all rounds; the Disturbed ones are marked.
	Rounds    []float64 `json:"rounds"`
	Disturbed []bool    `json:"disturbed"`
}

// reached tells whether the result is as good as target.
func (t *Target) reached(target float64) bool {
	if t.AtLeast {
		return t.Result >= target
	}
	return t.Result <= target
}

// Report is the outcome of Targets, with the raw data.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // of one run
	Pin     []int     `json:"pin"`
	Machine Machine   `json:"machine"`
	Targets []Target  `json:"targets"`
	Rounds  []*round  `json:"rounds"`
}

// round is one run of each workload, in this order. Only results of one round
// are divided by each other: minutes later the machine may be another.
type round struct {
	CacheLine *FloorResult `json:"floor_spin"`
	Spin      *RTTResult   `json:"rtt_64_spin"`
	Frame     *RTTResult   `json:"rtt_frame_spin"`
	Futex     *FloorResult `json:"floor_sleep"`
	Asleep    *RTTResult   `json:"rtt_64_sleep"`
	Local     *LocalResult `json:"local_64"`
	Fan1      *FanResult   `json:"fan_64_1"`
	Fan4      *FanResult   `json:"fan_64_4"`
	Fan8      *FanResult   `json:"fan_64_8"`
	Frames1   *FanResult   `json:"fan_frame_1"`
	Frames8   *FanResult   `json:"fan_frame_8"`
	Open      *OpenResult  `json:"open"`
	Bind      *BindResult  `json:"bind"`
}

// targets are what is measured against what, and where each comes from in a round.
var targets = []struct {
	Target
	value func(*round) (value float64, runs []*Run)
}{
	{Target{Name: "Request/Reply 64 B, spinning, p50", Unit: "× cache line", First: 4, Further: 2.2}, func(r *round) (float64, []*Run) {
		return ratio(r.Spin.P50, r.CacheLine.P50), []*Run{&r.Spin.Run, &r.CacheLine.Run}
	}},
	{Target{Name: "the same, p99", Unit: "× its p50", Further: 2}, func(r *round) (float64, []*Run) {
		return ratio(r.Spin.P99, r.Spin.P50), []*Run{&r.Spin.Run}
	}},
	{Target{Name: "Request/Reply 64 B, asleep, p50", Unit: "× futex", First: 1.4, Further: 1.15}, func(r *round) (float64, []*Run) {
		return ratio(r.Asleep.P50, r.Futex.P50), []*Run{&r.Asleep.Run, &r.Futex.Run}
	}},
	{Target{Name: "Request/Reply 3 MiB in place, p50", Unit: "× that of 64 B", First: 1.5, Further: 1.3}, func(r *round) (float64, []*Run) {
		return ratio(r.Frame.P50, r.Spin.P50), []*Run{&r.Frame.Run, &r.Spin.Run}
	}},
	{Target{Name: "send and receive in one process, p50", Unit: "ns", First: 250}, func(r *round) (float64, []*Run) {
		return float64(r.Local.P50), []*Run{&r.Local.Run}
	}},
	fanTarget("announcements 64 B, 1 → 1", 6e6, func(r *round) *FanResult { return r.Fan1 }),
	fanTarget("announcements 64 B, 1 → 4", 2e6, func(r *round) *FanResult { return r.Fan4 }),
	fanTarget("announcements 64 B, 1 → 8", 1e6, func(r *round) *FanResult { return r.Fan8 }),
	fanTarget("frames of 3 MiB in place, 1 → 1", 600e3, func(r *round) *FanResult { return r.Frames1 }),
	fanTarget("frames of 3 MiB in place, 1 → 8", 200e3, func(r *round) *FanResult { return r.Frames8 }),
	{Target{Name: "open, p50", Unit: "ns", Further: 300e3}, func(r *round) (float64, []*Run) {
		return float64(r.Open.P50), []*Run{&r.Open.Run}
	}},
	{Target{Name: "bind, p50", Unit: "ns", Further: 50e3}, func(r *round) (float64, []*Run) {
		return float64(r.Bind.P50), []*Run{&r.Bind.Run}
	}},
	{Target{Name: "unbind, p50", Unit: "ns", Further: 50e3}, func(r *round) (float64, []*Run) {
		return float64(r.Bind.Unbind.P50), []*Run{&r.Bind.Run}
	}},
}

func fanTarget(name string, further float64, of func(*round) *FanResult) struct {
	Target
	value func(*round) (float64, []*Run)
} {
	return struct {
		Target
		value func(*round) (float64, []*Run)
	}{Target{Name: name, Unit: "/s", AtLeast: true, Further: further}, func(r *round) (float64, []*Run) {
		f := of(r)
		return f.PerSecond, []*Run{&f.Run}
	}}
}

func ratio(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }

// workload is one step of a round.
type workload struct {
	name string
	run  func(ctx context.Context, o Options, r *round) error
}

// into makes a step of one workload, whose options are those of all with changes.
func into[R any](name string, measure func(context.Context, Options) (R, error), change Options, to func(*round) *R) workload {
	return workload{name, func(ctx context.Context, o Options, r *round) (err error) {
		o.Wait, o.Size, o.Listeners = change.Wait, change.Size, change.Listeners
		if change.Listeners > 0 && change.Wait == "" {
			o.Pin = nil // more processes than CPUs: the scheduler knows better
		}
		*to(r), err = measure(ctx, o)
		return err
	}}
}

// One of the two floors also has the copy and the ring that belong to the large
// messages and the many Listeners.
var workloads = []workload{
	into("floor, spinning", Floor, Options{Wait: Spin, Size: 64, Listeners: 1}, func(r *round) **FloorResult { return &r.CacheLine }),
	into("Request/Reply 64 B, spinning", RTT, Options{Wait: Spin, Size: 64}, func(r *round) **RTTResult { return &r.Spin }),
	into("Request/Reply 3 MiB, spinning", RTT, Options{Wait: Spin, Size: frame}, func(r *round) **RTTResult { return &r.Frame }),
	into("floor, asleep", Floor, Options{Wait: Sleep, Size: frame, Listeners: 8}, func(r *round) **FloorResult { return &r.Futex }),
	into("Request/Reply 64 B, asleep", RTT, Options{Wait: Sleep, Size: 64}, func(r *round) **RTTResult { return &r.Asleep }),
	into("send and receive in one process", Local, Options{Size: 64}, func(r *round) **LocalResult { return &r.Local }),
	into("announcements 64 B, 1 → 1", Fan, Options{Size: 64, Listeners: 1}, func(r *round) **FanResult { return &r.Fan1 }),
	into("announcements 64 B, 1 → 4", Fan, Options{Size: 64, Listeners: 4}, func(r *round) **FanResult { return &r.Fan4 }),
	into("announcements 64 B, 1 → 8", Fan, Options{Size: 64, Listeners: 8}, func(r *round) **FanResult { return &r.Fan8 }),
	into("frames of 3 MiB, 1 → 1", Fan, Options{Size: frame, Listeners: 1}, func(r *round) **FanResult { return &r.Frames1 }),
	into("frames of 3 MiB, 1 → 8", Fan, Options{Size: frame, Listeners: 8}, func(r *round) **FanResult { return &r.Frames8 }),
	into("open and close", Open, Options{}, func(r *round) **OpenResult { return &r.Open }),
	into("bind and unbind", Bind, Options{}, func(r *round) **BindResult { return &r.Bind }),
}

// Targets runs all floors and workloads in turn, rounds times, and compares them
// with what the bus is to reach. Of o it uses Command, Duration (of one run) and
// Pin. progress is told what is being run.
func Targets(ctx context.Context, o Options, rounds int, progress func(text string)) (*Report, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	if rounds < 1 {
		return nil, fmt.Errorf("%w: %d rounds", ErrOptions, rounds)
	}
	report := &Report{Started: time.Now().Round(time.Second), Seconds: o.Duration.Seconds(), Pin: o.Pin, Machine: ThisMachine()}
	for n := range rounds {
		r := &round{}
		for _, w := range workloads {
			progress(fmt.Sprintf("round %d of %d: %s", n+1, rounds, w.name))
			if err := w.run(ctx, o, r); err != nil {
				return nil, err
			}
		}
		report.Rounds = append(report.Rounds, r)
	}
	for _, t := range targets {
		target := t.Target
		for _, r := range report.Rounds {
			value, runs := t.value(r)
			target.Rounds = append(target.Rounds, value)
			target.Disturbed = append(target.Disturbed, slices.ContainsFunc(runs, func(r *Run) bool { return r.Load.Disturbed }))
		}
		target.conclude()
		report.Targets = append(report.Targets, target)
	}
	return report, nil
}

// conclude finds the median and the spread.
func (t *Target) conclude() {
	var quiet []float64
	for i, v := range t.Rounds {
		if !t.Disturbed[i] {
			quiet = append(quiet, v)
		}
	}
	if quiet == nil {
		quiet = slices.Clone(t.Rounds)
	}
	slices.Sort(quiet)
	t.Result, t.Low, t.High = median(quiet), quiet[0], quiet[len(quiet)-1]
}

// median of sorted values.
func median[N int64 | float64](sorted []N) N {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%v\nrevision %s; pinned to %v; %d rounds of runs of %v s, interleaved: median (lowest to highest)\n\n",
		r.Machine, cmp.Or(r.Machine.Revision, "unknown"), r.Pin, len(r.Rounds), r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "MEASURED\tp50\tp99\tp99.9\n")
	for _, m := range measured {
		var p [3][]int64
		for _, round := range r.Rounds {
			l := m.of(round)
			p[0], p[1], p[2] = append(p[0], l.P50), append(p[1], l.P99), append(p[2], l.P999)
		}
		fmt.Fprintf(t, "%s", m.name)
		for _, values := range p {
			slices.Sort(values)
			fmt.Fprintf(t, "\t%s", nanos(median(values)))
		}
		fmt.Fprintln(t)
	}
	for _, m := range []struct {
		name string
		of   func(*round) float64
	}{
		{"bare ring 64 B, 1 → 1", func(r *round) float64 { return r.CacheLine.Ring }},
		{"bare ring 64 B, 1 → 8", func(r *round) float64 { return r.Futex.Ring }},
	} {
		var values []float64
		for _, round := range r.Rounds {
			values = append(values, m.of(round))
		}
		slices.Sort(values)
		fmt.Fprintf(t, "%s\t%s\n", m.name, amount(median(values), "/s"))
	}
	fmt.Fprintf(t, "\nTARGETS\tresult\tfirst target\tfurther target\n")
	disturbed := false
	for i := range r.Targets {
		g := &r.Targets[i]
		result := amount(g.Result, g.Unit)
		if len(g.Rounds) > 1 {
			result += fmt.Sprintf(" (%s to %s)", amount(g.Low, g.Unit), amount(g.High, g.Unit))
		}
		if n := len(slices.DeleteFunc(slices.Clone(g.Disturbed), func(d bool) bool { return !d })); n > 0 {
			disturbed = true
			result += fmt.Sprintf(" ~%d", n)
		}
		name := g.Name
		if strings.HasPrefix(g.Unit, "×") {
			name += ", " + g.Unit
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", name, result, g.verdict(g.First), g.verdict(g.Further))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if disturbed {
		fmt.Fprintf(w, "\n~N: N rounds were disturbed by other programs or by the hypervisor (steal), and do not count\nunless all were: then the figure means little.\n")
	}
	missed := int64(0)
	for _, round := range r.Rounds {
		for _, f := range []*FanResult{round.Fan1, round.Fan4, round.Fan8, round.Frames1, round.Frames8} {
			missed += f.Missed
		}
	}
	_, err := fmt.Fprintf(w, "\nMessages missed by Listeners: %d.\n", missed)
	return err
}

// measured are the latencies that the table shows as such.
var measured = []struct {
	name string
	of   func(*round) *Latency
}{
	{"floor: cache line, two processes", func(r *round) *Latency { return &r.CacheLine.Latency }},
	{"floor: futex, two processes", func(r *round) *Latency { return &r.Futex.Latency }},
	{"floor: copy of 64 B", func(r *round) *Latency { return r.CacheLine.Memcpy }},
	{"floor: copy of 3 MiB", func(r *round) *Latency { return r.Futex.Memcpy }},
	{"Request/Reply 64 B, spinning", func(r *round) *Latency { return &r.Spin.Latency }},
	{"Request/Reply 3 MiB in place, spinning", func(r *round) *Latency { return &r.Frame.Latency }},
	{"Request/Reply 64 B, asleep", func(r *round) *Latency { return &r.Asleep.Latency }},
	{"send and receive in one process", func(r *round) *Latency { return &r.Local.Latency }},
	{"open", func(r *round) *Latency { return &r.Open.Latency }},
	{"close", func(r *round) *Latency { return r.Open.Close }},
	{"bind", func(r *round) *Latency { return &r.Bind.Latency }},
	{"unbind", func(r *round) *Latency { return r.Bind.Unbind }},
}

// verdict says how the result compares with a target; nothing if there is none.
func (t *Target) verdict(target float64) string {
	if target == 0 {
		return ""
	}
	sign := "≤"
	if t.AtLeast {
		sign = "≥"
	}
	text := fmt.Sprintf("%s %s ", sign, amount(target, t.Unit))
	if t.reached(target) {
		return text + "reached"
	}
	switch part := math.Abs(t.Result-target) / target; {
	case part < 0.01:
		return text + "just missed"
	case part >= 2:
		return text + fmt.Sprintf("missed (%.1f times as much)", t.Result/target)
	default:
		return text + fmt.Sprintf("missed by %.0f %%", 100*part)
	}
}

func amount(v float64, unit string) string {
	switch unit {
	case "ns":
		return nanos(v)
	case "/s":
		return strings.TrimSpace(count(v)) + "/s"
	}
	return fmt.Sprintf("%.2f", v)
}
