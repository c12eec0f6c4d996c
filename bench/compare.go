package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Skipped is a run that was left out, and why.
type Skipped struct {
	System string `json:"system"`
	Size   int    `json:"size,omitempty"` // of messages; 0: all of the system's runs
	Unavailable
}

func (s *Skipped) String() string {
	if s.Size == 0 {
		return s.System + ": " + s.Unavailable.Error()
	}
	return fmt.Sprintf("%s, %s: %s", s.System, bytesText(float64(s.Size)), s.Unavailable.Error())
}

// What is compared: sizes of round trips, and of messages to these numbers of Listeners.
var (
	roundTrips = []int{64, 4 << 10, 64 << 10, 1 << 20, frame}
	fanSizes   = []int{64, 64 << 10, frame}
	fanOuts    = []int{1, 4, 8}
)

// Compare runs the floors, a bus and the peers in turn, rounds times: round trips
// of all sizes in each of the ways to wait, and one to many. Of o it uses
// Command, Duration (of one run) and Pin. progress is told what is being run.
func Compare(ctx context.Context, o Options, rounds int, waits []Wait, peers []Peer, progress func(text string)) (*Report, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	if rounds < 1 {
		return nil, fmt.Errorf("%w: %d rounds", ErrOptions, rounds)
	}
	c := &comparison{ctx: ctx, progress: progress, report: newReport(o)}
	for c.round = 1; c.round <= rounds; c.round++ {
		for _, wait := range []Wait{Spin, Sleep} {
			o := o
			o.Wait, o.Size, o.Listeners = wait, frame, 8
			if wait == Spin {
				o.Size, o.Listeners = 64, 1
			}
			c.run(Machinery, "floor", o, Floor)
		}
		c.system(KBUS, o, waits, RTT, Fan)
		for i := range peers {
			p := &peers[i]
			own := waits
			if !p.Waits {
				own = []Wait{Adaptive}
			}
			rtt := func(ctx context.Context, o Options) (*Result, error) { return PeerRTT(ctx, o, p) }
			fan := func(ctx context.Context, o Options) (*Result, error) { return PeerFan(ctx, o, p) }
			if p.Announce == nil {
				fan = nil
			}
			c.system(p.Name, o, own, rtt, fan)
		}
		if c.err != nil {
			return nil, c.err
		}
	}
	return c.report, nil
}

// comparison is one call of Compare.
type comparison struct {
	ctx      context.Context
	progress func(string)
	report   *Report
	round    int
	err      error // the first, which ends it
}

type measurement = func(context.Context, Options) (*Result, error)

// system measures one.
func (c *comparison) system(name string, o Options, waits []Wait, rtt, fan measurement) {
	for _, size := range roundTrips {
		for _, wait := range waits {
			o := o
			o.Size, o.Wait = size, wait
			c.run(name, fmt.Sprintf("round trip of %s, %s", bytesText(float64(size)), wait), o, rtt)
		}
	}
	if fan == nil {
		return
	}
	o.Pin = nil // more processes than CPUs: the scheduler knows better
	for _, size := range fanSizes {
		for _, n := range fanOuts {
			o := o
			o.Size, o.Listeners = size, n
			c.run(name, fmt.Sprintf("%s to %d", bytesText(float64(size)), n), o, fan)
		}
	}
}

func (c *comparison) run(system, what string, o Options, f measurement) {
	skip := func(s Skipped) bool { return s.System == system && (s.Size == o.Size || s.Size == 0) }
	if c.err != nil || slices.ContainsFunc(c.report.Skipped, skip) {
		return
	}
	c.progress(fmt.Sprintf("round %d: %s, %s", c.round, system, what))
	r, err := f(c.ctx, o)
	var no *Unavailable
	switch {
	case errors.As(err, &no):
		s := Skipped{system, o.Size, *no}
		if s.Install != "" {
			s.Size = 0
		}
		c.report.Skipped = append(c.report.Skipped, s)
	case err != nil:
		c.err = fmt.Errorf("%s: %w", system, err)
	default:
		r.Round = c.round
		c.report.Results = append(c.report.Results, r)
	}
}

// WriteComparison writes the results of Compare for people.
func (r *Report) WriteComparison(w io.Writer) error {
	fmt.Fprintf(w, "%v\nrevision %s; pinned to %v; %d rounds of runs of %v s, interleaved: medians\n",
		r.Machine, cmp.Or(r.Machine.Revision, "unknown"), r.Pin, r.rounds(), r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	table := func(title, workload string, columns []string, in func(*Result) int, cell func([]*Result) string) {
		fmt.Fprintf(t, "\n%s\t%s\n", title, strings.Join(columns, "\t"))
		var rows []string
		cells := map[string][][]*Result{}
		for _, x := range r.Results {
			if x.Workload != workload {
				continue
			}
			row := x.System
			if x.Wait != "" && workload == "rtt" {
				row += ", " + string(x.Wait)
			}
			if cells[row] == nil {
				rows = append(rows, row)
				cells[row] = make([][]*Result, len(columns))
			}
			if i := in(x); i >= 0 {
				cells[row][i] = append(cells[row][i], x)
			}
		}
		for _, row := range rows {
			fmt.Fprint(t, row)
			for _, results := range cells[row] {
				fmt.Fprintf(t, "\t%s", cell(results))
			}
			fmt.Fprintln(t)
		}
	}
	var columns []string
	for _, size := range roundTrips {
		columns = append(columns, bytesText(float64(size)))
	}
	table("ROUND TRIP, p50/p99", "rtt", columns, func(x *Result) int { return slices.Index(roundTrips, x.Size) }, func(of []*Result) string {
		if len(of) == 0 {
			return "–"
		}
		return nanos(middle(of, func(x *Result) float64 { return float64(x.P50) })) + "/" +
			nanos(middle(of, func(x *Result) float64 { return float64(x.P99) })) + tilde(of)
	})
	columns = nil
	for _, size := range fanSizes {
		for _, n := range fanOuts {
			columns = append(columns, fmt.Sprintf("%s to %d", bytesText(float64(size)), n))
		}
	}
	table("MESSAGES A SECOND, TO EACH", "fan", columns, func(x *Result) int {
		size, n := slices.Index(fanSizes, x.Size), slices.Index(fanOuts, x.Listeners)
		if size < 0 || n < 0 {
			return -1
		}
		return size*len(fanOuts) + n
	}, func(of []*Result) string {
		if len(of) == 0 {
			return "–"
		}
		return count(middle(of, func(x *Result) float64 { return x.PerSecond })) + tilde(of)
	})
	fmt.Fprintf(t, "\nFLOORS\n")
	for _, wait := range []Wait{Spin, Sleep} {
		var of []*Result
		for _, x := range r.Results {
			if x.Workload == "floor" && x.Wait == wait {
				of = append(of, x)
			}
		}
		if len(of) == 0 {
			continue
		}
		what := map[Wait]string{Spin: "cache line", Sleep: "futex"}[wait]
		fmt.Fprintf(t, "round trip of a %s\t%s%s\n", what, nanos(middle(of, func(x *Result) float64 { return float64(x.P50) })), tilde(of))
		fmt.Fprintf(t, "copy of %s\t%s\n", bytesText(float64(of[0].Size)), nanos(middle(of, func(x *Result) float64 { return float64(x.Memcpy.P50) })))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var err error
	for i, s := range r.Skipped {
		if i == 0 {
			fmt.Fprintf(w, "\nLEFT OUT\n")
		}
		_, err = fmt.Fprintln(w, &s)
	}
	if slices.ContainsFunc(r.Results, func(x *Result) bool { return x.Load.Disturbed }) {
		_, err = fmt.Fprintf(w, "\n~N: N rounds were disturbed by other programs or by the hypervisor (steal), and do not count\nunless all were: then the figure means little.\n")
	}
	return err
}

// middle is the median of the runs that were not disturbed; of all if each was.
func middle(of []*Result, value func(*Result) float64) float64 {
	t := Target{}
	for _, x := range of {
		t.Rounds = append(t.Rounds, value(x))
		t.Disturbed = append(t.Disturbed, x.Load.Disturbed)
	}
	t.conclude()
	return t.Result
}

// tilde says how many of the runs were disturbed.
func tilde(of []*Result) string {
	n := 0
	for _, x := range of {
		if x.Load.Disturbed {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" ~%d", n)
}
