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
	{Target{Name: "frames of 3 MiB in place, 1 → 1", Unit: "/s", AtLeast: true, Further: 600e3}, []string{"frames1"}, perSecond},
	{Target{Name: "frames of 3 MiB in place, 1 → 8", Unit: "/s", AtLeast: true, Further: 200e3}, []string{"frames8"}, perSecond},
	{Target{Name: "open, p50", Unit: "ns", Further: 300e3}, []string{"open"}, p50},
	{Target{Name: "bind, p50", Unit: "ns", Further: 50e3}, []string{"bind"}, p50},
	{Target{Name: "unbind, p50", Unit: "ns", Further: 50e3}, []string{"bind"}, func(r []*Result) float64 { return float64(r[0].Unbind.P50) }},
	{Target{Name: "Limpets 64 B, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet64"}, latencyRatio},
	{Target{Name: "Limpets 4 KiB, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet4k"}, latencyRatio},
	{Target{Name: "Limpets 1 MiB, round trip, p50", Unit: "× (TCP + 2 buses)", First: 1.5}, []string{"limpet1m"}, latencyRatio},
	{Target{Name: "Limpets 1 MiB, stream", Unit: "× the time of TCP", First: 1.2}, []string{"limpet1m"}, func(r []*Result) float64 { return r[0].StreamRatio }},
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
	fmt.Fprintf(t, "MEASURED\tp50\tp99\tp99.9\trate\n")
	for _, name := range names {
		for _, p := range []struct {
			part string
			of   func(*Result) (*Latency, float64)
		}{
			{"", func(x *Result) (*Latency, float64) { return x.Latency, x.PerSecond }},
			{", copy", func(x *Result) (*Latency, float64) { return x.Memcpy, 0 }},
			{", bare ring", func(x *Result) (*Latency, float64) { return nil, x.Ring }},
			{", close", func(x *Result) (*Latency, float64) { return x.Close, 0 }},
			{", unbind", func(x *Result) (*Latency, float64) { return x.Unbind, 0 }},
		} {
			row(t, name+p.part, byName[name], p.of)
		}
	}
	return missed
}

// row writes the medians of one thing, if it was measured.
func row(t io.Writer, name string, results []*Result, of func(*Result) (*Latency, float64)) {
	var p [3][]int64
	var rates []float64
	for _, x := range results {
		l, rate := of(x)
		if l != nil {
			p[0], p[1], p[2] = append(p[0], l.P50), append(p[1], l.P99), append(p[2], l.P999)
		}
		if rate > 0 {
			rates = append(rates, rate)
		}
	}
	if p[0] == nil && rates == nil {
		return
	}
	fmt.Fprint(t, name)
	for _, values := range p {
		fmt.Fprint(t, "\t")
		if values != nil {
			slices.Sort(values)
			fmt.Fprint(t, nanos(median(values)))
		}
	}
	fmt.Fprint(t, "\t")
	if rates != nil {
		slices.Sort(rates)
		fmt.Fprint(t, amount(median(rates), "/s"))
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
	case "/s":
		return strings.TrimSpace(count(v)) + "/s"
	}
	return fmt.Sprintf("%.2f", v)
}
