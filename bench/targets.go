package bench

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

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

// targets are what is measured against what, by the jobs of the set.
var targets = []struct {
	Target
	of    []string // the jobs whose results the value is made of
	value func(r []*Result) float64
}{
	{Target{Name: "Request/Reply 64 B, spinning, p50", Unit: "× cache line", First: 4, Further: 2.2}, []string{"spin", "cacheline"}, byMedian},
	{Target{Name: "the same, p99", Unit: "× its p50", Further: 2}, []string{"spin"}, func(r []*Result) float64 { return ratio(r[0].P99, r[0].P50) }},
	{Target{Name: "Request/Reply 64 B, asleep, p50", Unit: "× futex", First: 1.4, Further: 1.15}, []string{"asleep", "futex"}, byMedian},
	{Target{Name: "Request/Reply 3 MiB in place, p50", Unit: "× that of 64 B", First: 1.5, Further: 1.3}, []string{"frame", "spin"}, byMedian},
	{Target{Name: "send and receive in one process, p50", Unit: "ns", First: 250}, []string{"local"}, p50},
	{Target{Name: "announcements 64 B, 1 → 1", Unit: "/s", AtLeast: true, Further: 6e6}, []string{"fan1"}, perSecond},
	{Target{Name: "announcements 64 B, 1 → 4", Unit: "/s", AtLeast: true, Further: 2e6}, []string{"fan4"}, perSecond},
	{Target{Name: "announcements 64 B, 1 → 8", Unit: "/s", AtLeast: true, Further: 1e6}, []string{"fan8"}, perSecond},
	{Target{Name: "announcements 64 B in batches of 64, 1 → 1", Unit: "/s", AtLeast: true, Further: 25e6}, []string{"batch1"}, perSecond},
	{Target{Name: "frames of 3 MiB in place, 1 → 1", Unit: "/s", AtLeast: true, Further: 600e3}, []string{"frames1"}, perSecond},
	{Target{Name: "frames of 3 MiB in place, 1 → 8", Unit: "/s", AtLeast: true, Further: 200e3}, []string{"frames8"}, perSecond},
	{Target{Name: "send with 10,000 bindings, p50", Unit: "× with 10", Further: 1.2}, []string{"send10k", "send10"}, byMedian},
	{Target{Name: "send with 256 idle Ksocks, p50", Unit: "× with 2", Further: 1.2}, []string{"sendk256", "sendk2"}, byMedian},
	{Target{Name: "open, p50", Unit: "ns", Further: 300e3}, []string{"open"}, p50},
	{Target{Name: "bind, p50", Unit: "ns", Further: 50e3}, []string{"bind"}, p50},
	{Target{Name: "unbind, p50", Unit: "ns", Further: 50e3}, []string{"bind"}, func(r []*Result) float64 { return float64(r[0].Unbind.P50) }},
	{Target{Name: "Limpets 64 B, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet64"}, latencyRatio},
	{Target{Name: "Limpets 4 KiB, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet4k"}, latencyRatio},
	{Target{Name: "Limpets 1 MiB, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet1m"}, latencyRatio},
	{Target{Name: "Limpets 1 MiB, stream", Unit: "× the time of TCP", First: 1.2}, []string{"limpet1m"}, func(r []*Result) float64 { return r[0].StreamRatio }},
	{Target{Name: "a bus at rest, resident with the supervisor's data", Unit: "B", Further: 4 << 20}, []string{"rest"}, func(r []*Result) float64 { return float64(r[0].Memory.Bus + r[0].Memory.Private) }},
	// Less than what top shows as 0.1 %.
	{Target{Name: "a bus at rest with a Listener, CPU time a second", Unit: "ns", Further: 500e3}, []string{"rest"}, func(r []*Result) float64 { return r[0].Memory.CPUTime }},
	{Target{Name: "beside a stopped Listener, p99", Unit: "× alone", Further: 1.1}, []string{"stopped"}, func(r []*Result) float64 { return ratio(r[0].P99, r[0].Alone.P99) }},
}

func latencyRatio(r []*Result) float64 { return r[0].LatencyRatio }

func p50(r []*Result) float64       { return float64(r[0].P50) }
func perSecond(r []*Result) float64 { return r[0].PerSecond }
func byMedian(r []*Result) float64  { return ratio(r[0].P50, r[1].P50) }

func ratio(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }

// compare finds what became of the targets.
func compare(rounds []round) []Target {
	var all []Target
	for _, t := range targets {
		target := t.Target
		for _, r := range rounds {
			var of []*Result
			disturbed := false
			for _, id := range t.of {
				of = append(of, r[id])
				disturbed = disturbed || r[id].Load.Disturbed
			}
			target.Rounds = append(target.Rounds, t.value(of))
			target.Disturbed = append(target.Disturbed, disturbed)
		}
		target.conclude()
		all = append(all, target)
	}
	return all
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
		r.Machine, cmp.Or(r.Machine.Revision, "unknown"), r.Pin, r.rounds(), r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	missed := r.measured(t)
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
	fmt.Fprintf(w, "\n× floor: of a round trip, of half of one for each step of a way, of a copy for what one process does, of a bare ring for rates.\n")
	_, err := fmt.Fprintf(w, "\nMessages missed by Listeners: %d.\n", missed)
	return err
}

// measured writes the medians of all results, and tells how many messages Listeners missed.
func (r *Report) measured(t io.Writer) (missed int64) {
	var names []string
	byName := map[string][]*Result{}
	for _, x := range r.Results {
		if byName[x.Name] == nil {
			names = append(names, x.Name)
		}
		byName[x.Name] = append(byName[x.Name], x)
		missed += x.Missed
	}
	fmt.Fprintf(t, "MEASURED\tp50\tp99\tp99.9\trate\t× floor\tCPU\n")
	for _, name := range names {
		for _, p := range []struct {
			part string
			of   func(*Result) figures
		}{
			{"", func(x *Result) figures { return figures{x.Latency, x.PerSecond, x.ToFloor, x.cpu()} }},
			{", copy", func(x *Result) figures { return figures{l: x.Memcpy} }},
			{", bare ring", func(x *Result) figures { return figures{rate: x.Ring} }},
			{", receive", func(x *Result) figures { return figures{l: x.Receive} }},
			{", since sent", func(x *Result) figures { return figures{l: x.Uncorrected} }},
			{", alone", func(x *Result) figures { return figures{l: x.Alone} }},
			{", close", func(x *Result) figures { return figures{l: x.Close} }},
			{", unbind", func(x *Result) figures { return figures{l: x.Unbind} }},
		} {
			row(t, name+p.part, byName[name], p.of)
		}
	}
	return missed
}

// figures are what a row shows; what is zero was not measured.
type figures struct {
	l                    *Latency
	rate, toFloor, cpuNs float64
}

// row writes the medians of one thing, if it was measured.
func row(t io.Writer, name string, results []*Result, of func(*Result) figures) {
	columns := []struct {
		text   func(float64) string
		values []float64
	}{
		{text: nanos[float64]}, {text: nanos[float64]}, {text: nanos[float64]},
		{text: func(v float64) string { return amount(v, "/s") }}, {text: func(v float64) string { return fmt.Sprintf("%.2f", v) }}, {text: nanos[float64]},
	}
	some := false
	for _, x := range results {
		f := of(x)
		values := []float64{0, 0, 0, f.rate, f.toFloor, f.cpuNs}
		if f.l != nil {
			copy(values, []float64{float64(f.l.P50), float64(f.l.P99), float64(f.l.P999)})
		}
		for i, v := range values {
			if v > 0 {
				columns[i].values = append(columns[i].values, v)
				some = some || i < 4
			}
		}
	}
	if !some {
		return
	}
	fmt.Fprint(t, name)
	for _, c := range columns {
		fmt.Fprint(t, "\t")
		if c.values != nil {
			slices.Sort(c.values)
			fmt.Fprint(t, c.text(median(c.values)))
		}
	}
	fmt.Fprintln(t)
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
	case "B":
		return bytesText(v)
	case "/s":
		return strings.TrimSpace(count(v)) + "/s"
	}
	return fmt.Sprintf("%.2f", v)
}
