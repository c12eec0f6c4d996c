package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pageText string

// Parsed when it is needed: every start of a program with this package would take half a millisecond longer.
var pageTemplate = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(pageText)) })

// page is what the template shows.
type page struct {
	Headline string
	Tiles    []tile
	First    template.HTML // the picture of the first screen
	Compared bool
	Problems []string
	Sections []section
	Colors   []int
}

type tile struct{ What, Figure, Beside string }

// section is what there is to see of one file.
type section struct {
	Title   string
	Older   bool
	Warning string
	Facts   []fact
	Targets []targetRow
	Tables  []ratioTable
	Charts  []chart
	Skipped []string
	All     []allRow
}

type fact struct {
	Name, Text string
	Code       bool
}

type targetRow struct {
	Name, Result, Range string
	Verdicts            [2]struct{ Text, Class string }
}

type ratioTable struct {
	Title, About string
	Columns      []string
	Rows         []ratioRow
}

type ratioRow struct {
	Name, Class string
	Cells       []struct{ Figure, Ratio string }
}

type chart struct {
	Heading, Title, About string
	Picture               template.HTML
}

type allRow struct {
	Name, Class string
	Cells       []string
}

// WritePage writes one page of HTML about all results in a directory, which
// needs nothing but a browser. Files of another form are named in it.
func WritePage(w io.Writer, dir string) error {
	files, problems, err := readRuns(dir)
	if err != nil {
		return err
	}
	// The first screen is about the newest file that has what it is to show.
	first := files[0]
	if i := slices.IndexFunc(files, (*runFile).peers); i >= 0 {
		first = files[i]
	}
	p := page{Problems: problems, Compared: first.peers(), Colors: []int{0, 1, 2, 3, 4, 5, 6, 7}}
	p.Headline, p.Tiles = first.headline(), first.tiles()
	if i := slices.IndexFunc(files, func(f *runFile) bool { return len(f.Targets) > 0 }); i >= 0 {
		p.Tiles = append(p.Tiles, files[i].targetTile())
	}
	p.First = first.roundTripBars(64)
	latest := files[0].Started.Add(-time.Hour)
	for _, f := range files {
		p.Sections = append(p.Sections, f.section(f != first && f.Started.Before(latest)))
	}
	return pageTemplate().Execute(w, &p)
}

// bus is the bus's series of a workload.
func (f *runFile) bus(workload string, size int, wait Wait, listeners int) *series {
	return f.of(KBUS, workload, size, wait, listeners)
}

func (f *runFile) floor(wait Wait) *series { return f.of(Machinery, "floor", 0, wait, 0) }

// headline is the one thing to remember.
func (f *runFile) headline() string {
	spin, sleep := f.bus("rtt", 64, Spin, 0), f.bus("rtt", 64, Sleep, 0)
	if spin == nil && sleep == nil {
		return "kbus bench: what a bus does on this machine"
	}
	var parts []string
	if spin != nil {
		parts = append(parts, nanos(spin.p50())+" spinning")
	}
	if sleep != nil {
		parts = append(parts, nanos(sleep.p50())+" asleep")
	}
	text := "A Request and its Reply by kbus: " + strings.Join(parts, ", ")
	if other := f.of("unix-go", "rtt", 64, "", 0); other != nil {
		text += "; by a Unix socket in Go: " + nanos(other.p50())
	}
	return text
}

// tiles are the figures of the first screen, as far as they were measured.
func (f *runFile) tiles() (tiles []tile) {
	beside := func(s, floor *series, what string) string {
		if floor.p50() == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f times the floor: %s takes %s", s.p50()/floor.p50(), what, nanos(floor.p50()))
	}
	if s := f.bus("rtt", 64, Spin, 0); s != nil {
		tiles = append(tiles, tile{"Request and Reply, 64 B, spinning", nanos(s.p50()) + tilde(s.runs), beside(s, f.floor(Spin), "a cache line there and back")})
	}
	if s := f.bus("rtt", 64, Sleep, 0); s != nil {
		tiles = append(tiles, tile{"the same, both asleep until woken", nanos(s.p50()) + tilde(s.runs), beside(s, f.floor(Sleep), "waking each other by futex")})
	}
	if s := f.bus("rtt", frame, Spin, 0); s != nil {
		t := tile{"a video frame of 3 MiB, there and back", nanos(s.p50()) + tilde(s.runs), ""}
		if best := quickest(f.all("rtt", frame)); best != nil {
			t.Beside = fmt.Sprintf("quickest that copies: %s, %s", best.label(), nanos(best.p50()))
		} else if copied := f.floor(Sleep); copied != nil && copied.Memcpy != nil && copied.Size == frame {
			t.Beside = "to copy it once takes " + nanos(copied.Memcpy.P50)
		}
		tiles = append(tiles, t)
	}
	if s := f.bus("fan", 64, "", 8); s != nil {
		t := tile{"messages a second, 1 to 8 processes", count(s.rate()) + tilde(s.runs), ""}
		if best := busiest(f.all("fan", 64), 8); best != nil {
			t.Beside = fmt.Sprintf("best of the others: %s, %s", best.System, strings.ReplaceAll(count(best.rate()), " ", "\u00a0"))
		}
		tiles = append(tiles, t)
	}
	return tiles
}

// targetTile says how many of the targets were reached.
func (f *runFile) targetTile() tile {
	reached := 0
	for i := range f.Targets {
		t := &f.Targets[i]
		if (t.First == 0 || t.reached(t.First)) && (t.Further == 0 || t.reached(t.Further)) {
			reached++
		}
	}
	return tile{"targets of the project reached", fmt.Sprintf("%d of %d", reached, len(f.Targets)), "see " + f.File}
}

// quickest is the best of the peers between processes that copy messages.
func quickest(of []*series) (best *series) {
	for _, s := range of {
		if s.class() == "peer" && !s.InPlace && (best == nil || s.p50() < best.p50()) {
			best = s
		}
	}
	return best
}

// busiest is the best of the peers between processes.
func busiest(of []*series, listeners int) (best *series) {
	for _, s := range of {
		if s.class() == "peer" && s.System != "channel" && s.Listeners == listeners && (best == nil || s.rate() > best.rate()) {
			best = s
		}
	}
	return best
}

// roundTripBars are all round trips of a size, the floors first.
func (f *runFile) roundTripBars(size int) template.HTML {
	all := f.all("rtt", size)
	if len(all) == 0 {
		return ""
	}
	slices.SortStableFunc(all, bySpeed)
	for _, wait := range []Wait{Sleep, Spin} {
		if s := f.floor(wait); s != nil {
			all = append([]*series{s}, all...)
		}
	}
	var rows []bar
	for _, s := range all {
		rows = append(rows, bar{label: s.label(), value: s.p50(), high: s.p99(), class: s.class(), text: nanos(s.p50()) + tilde(s.runs)})
	}
	return bars("round trips of "+bytesText(float64(size)), rows, func(v float64) string { return nanos(v) })
}

func (f *runFile) section(older bool) section {
	s := section{Title: f.File, Older: older, Facts: f.facts()}
	disturbed := 0
	for _, r := range f.Results {
		if r.Load.Disturbed {
			disturbed++
		}
	}
	if 2*disturbed > len(f.Results) {
		s.Warning = fmt.Sprintf("%d of %d runs were disturbed by other programs or by the hypervisor: these figures mean little.", disturbed, len(f.Results))
	}
	for i := range f.Targets {
		s.Targets = append(s.Targets, f.Targets[i].row())
	}
	if t := f.roundTripTable(); t != nil {
		s.Tables = append(s.Tables, *t)
	}
	s.Charts = append(f.curveCharts(), f.fanCharts()...)
	for i := range f.Skipped {
		s.Skipped = append(s.Skipped, f.Skipped[i].String())
	}
	for _, x := range f.series {
		s.All = append(s.All, x.row())
	}
	return s
}

func (f *runFile) facts() []fact {
	m := f.Machine
	disturbed, steal, others := 0, 0.0, 0.0
	for _, r := range f.Results {
		steal, others = max(steal, r.Load.Steal), max(others, r.Load.Others)
		if r.Load.Disturbed {
			disturbed++
		}
	}
	cpu := m.CPU
	if m.Hypervisor {
		cpu += ", virtual"
	}
	governor := m.Governor
	if governor == "" {
		governor = "none"
	}
	pin := "wherever the scheduler puts them"
	if len(f.Pin) > 0 {
		pin = fmt.Sprintf("round trips to CPUs %v; one to many is not pinned", f.Pin)
	}
	last := f.Results[len(f.Results)-1]
	facts := []fact{
		{"machine", fmt.Sprintf("%d × %s, %s", m.CPUs, cpu, m.Arch), false},
		{"system", fmt.Sprintf("Linux %s, %s, governor %s, clock %s", m.Kernel, m.Go, governor, m.ClockSource), false},
		{"pinned", pin, false},
		{"load", fmt.Sprintf("%s at the end; at most %.1f %% steal and %.1f %% other programs; %d of %d runs disturbed",
			last.Load.Average, 100*steal, 100*others, disturbed, len(f.Results)), false},
		{"when", fmt.Sprintf("%s, %d round(s) of runs of %v s, interleaved", f.Started.UTC().Format("2 January 2006 15:04 UTC"), max(f.rounds(), 1), f.Seconds), false},
	}
	if m.Revision != "" {
		facts = append(facts, fact{"revision", m.Revision, true})
	}
	if len(f.Command) > 0 {
		facts = append(facts, fact{"command", strings.Join(f.Command, " "), true})
	}
	return facts
}

func (t *Target) row() targetRow {
	r := targetRow{Name: t.Name, Result: amount(t.Result, t.Unit)}
	if t.Low != t.High {
		r.Range = amount(t.Low, t.Unit) + " to " + amount(t.High, t.Unit)
	}
	if strings.HasPrefix(t.Unit, "×") {
		r.Result += " " + t.Unit
	}
	n := 0
	for _, d := range t.Disturbed {
		if d {
			n++
		}
	}
	if n > 0 {
		r.Result += fmt.Sprintf(" ~%d", n)
	}
	for i, target := range []float64{t.First, t.Further} {
		r.Verdicts[i].Text = t.verdict(target)
		switch {
		case target == 0:
		case t.reached(target):
			r.Verdicts[i].Class = "good"
		default:
			r.Verdicts[i].Class = "bad"
		}
	}
	return r
}

// roundTripTable is round trips by size, as times and as ratios to the bus.
func (f *runFile) roundTripTable() *ratioTable {
	var sizes []int
	var rows []*series // one for each row, of any size
	for _, s := range f.series {
		if s.Workload != "rtt" || !s.plain() {
			continue
		}
		if !slices.Contains(sizes, s.Size) {
			sizes = append(sizes, s.Size)
		}
		if !slices.ContainsFunc(rows, func(r *series) bool { return r.label() == s.label() }) {
			rows = append(rows, s)
		}
	}
	if len(sizes) == 0 {
		return nil
	}
	slices.Sort(sizes)
	slices.SortStableFunc(rows, func(a, b *series) int {
		if (a.System == KBUS) != (b.System == KBUS) {
			if a.System == KBUS {
				return -1
			}
			return 1
		}
		return bySpeed(a, b)
	})
	t := &ratioTable{Title: "Round trips by size",
		About: "Median. Below it: how many times as long as the bus takes that waits likewise (spinning; asleep for all that do not spin); for the bus, how many times its floor."}
	for _, size := range sizes {
		t.Columns = append(t.Columns, bytesText(float64(size)))
	}
	for _, r := range rows {
		row := ratioRow{Name: r.label(), Class: r.class()}
		for _, size := range sizes {
			cell := struct{ Figure, Ratio string }{Figure: "–"}
			if s := f.of(r.System, "rtt", size, r.Wait, 0); s != nil {
				cell.Figure = nanos(s.p50()) + tilde(s.runs)
				to, unit := f.bus("rtt", size, s.compareWith(), 0), "× kbus"
				if s.System == KBUS {
					to, unit = f.floor(s.Wait), "× floor"
				}
				if v := to.p50(); v > 0 {
					cell.Ratio = times(s.p50()/v) + " " + unit
				}
			}
			row.Cells = append(row.Cells, cell)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// times writes a ratio.
func times(ratio float64) string {
	if ratio < 100 {
		return strings.TrimSuffix(fmt.Sprintf("%.*f", max(0, 1-int(math.Floor(math.Log10(ratio)))), ratio), ".0")
	}
	return fmt.Sprintf("%.0f", ratio)
}

// curveCharts are latencies by percentile: round trips of small messages and of
// frames by all, then each other workload of the bus.
func (f *runFile) curveCharts() (charts []chart) {
	heading := "Latency curves"
	add := func(title, about string, of []*series) {
		var lines []*curve
		for _, s := range of {
			if s != nil {
				lines = append(lines, s.curve())
			}
		}
		if picture := curves(title, lines); picture != "" {
			charts = append(charts, chart{heading, title, about, picture})
			heading = ""
		}
	}
	for _, size := range []int{64, frame} {
		spinning, asleep := []*series{f.floor(Spin)}, []*series{f.floor(Sleep)}
		if size == frame {
			spinning, asleep = nil, nil
		}
		all := f.all("rtt", size)
		slices.SortStableFunc(all, bySpeed)
		for _, s := range all {
			if s.compareWith() == Spin {
				spinning = append(spinning, s)
			} else {
				asleep = append(asleep, s)
			}
		}
		of := bytesText(float64(size))
		add("Round trip of "+of+", spinning", ": the flatter, the more even. Both scales are logarithmic.", spinning)
		add("Round trip of "+of+", asleep", ", or as a library waits.", asleep)
	}
	for _, workload := range f.workloads() {
		var of []*series
		for _, s := range f.series {
			if s.Workload == workload && s.System == KBUS {
				of = append(of, s)
			}
		}
		const most = 8 // lines that can be told apart
		for i := 0; i < len(of); i += most {
			var lines []*curve
			for _, s := range of[i:min(i+most, len(of))] {
				if c := s.curve(); c != nil {
					c.label, c.class, c.dashed = s.parameters(), "peer", false
					lines = append(lines, c)
				}
			}
			title := "The bus: " + workload
			if picture := curves(title, lines); picture != "" {
				charts = append(charts, chart{heading, title, "", picture})
				heading = ""
			}
		}
	}
	return charts
}

// parameters are those in the series' name, as people write them; the workload if there are none.
func (s *series) parameters() string {
	var parts []string
	for _, part := range strings.Split(s.Name, "/")[1:] {
		switch key, value, _ := strings.Cut(part, "="); key {
		case "size":
			parts = append(parts, bytesText(float64(s.Size)))
		case "wait":
			parts = append(parts, value)
		case "copied":
			parts = append(parts, key)
		default:
			parts = append(parts, value+" "+key)
		}
	}
	if parts == nil {
		return s.Workload
	}
	return strings.Join(parts, ", ")
}

// workloads are those of the bus other than round trips, with latencies.
func (f *runFile) workloads() (names []string) {
	for _, s := range f.series {
		if s.System == KBUS && s.Latency != nil && (s.Workload != "rtt" || !s.plain()) && !slices.Contains(names, s.Workload) {
			names = append(names, s.Workload)
		}
	}
	return names
}

// fanCharts are one to many, by size.
func (f *runFile) fanCharts() (charts []chart) {
	var sizes []int
	for _, s := range f.series {
		if s.Workload == "fan" && s.plain() && !slices.Contains(sizes, s.Size) {
			sizes = append(sizes, s.Size)
		}
	}
	heading := "Throughput, one to many"
	for _, size := range sizes {
		all := f.all("fan", size)
		slices.SortStableFunc(all, func(a, b *series) int {
			if a.Listeners != b.Listeners {
				return a.Listeners - b.Listeners
			}
			if a.rate() > b.rate() {
				return -1
			}
			return 1
		})
		var rows []bar
		for i, s := range all {
			if i == 0 || s.Listeners != all[i-1].Listeners {
				rows = append(rows, bar{head: true, label: fmt.Sprintf("1 → %d", s.Listeners)})
			}
			text := count(s.rate()) + "/s"
			if size >= 4096 {
				text += ", " + bytesText(s.rate()*float64(size)) + "/s"
			}
			rows = append(rows, bar{label: s.System, value: s.rate(), class: s.class(), text: text + tilde(s.runs)})
		}
		title := "Messages of " + bytesText(float64(size))
		charts = append(charts, chart{heading, title, ": how many each of the receivers got in a second, none lost. Longer is better; logarithmic: each step is ten times as many.",
			bars(title, rows, func(v float64) string { return count(v) + "/s" })})
		heading = ""
	}
	return charts
}

// row is all that is known of a series in figures.
func (s *series) row() allRow {
	r := allRow{Name: s.Name, Class: s.class()}
	if s.Latency == nil {
		r.Cells = []string{"", "", "", "", "", ""}
	} else {
		for _, of := range []func(*Latency) int64{
			func(l *Latency) int64 { return l.P50 }, func(l *Latency) int64 { return l.P90 }, func(l *Latency) int64 { return l.P99 },
			func(l *Latency) int64 { return l.P999 }, func(l *Latency) int64 { return l.P9999 }, func(l *Latency) int64 { return l.Max },
		} {
			r.Cells = append(r.Cells, nanos(s.time(of)))
		}
	}
	cell := func(is bool, text string) {
		if !is {
			text = ""
		}
		r.Cells = append(r.Cells, text)
	}
	missed := int64(0)
	for _, x := range s.runs {
		missed += x.Missed
	}
	cell(s.rate() > 0, count(s.rate()))
	cell(s.Workload == "fan" || missed > 0, fmt.Sprint(missed))
	sum := func(of func(*Process) float64) float64 {
		return middle(s.runs, func(x *Result) (all float64) {
			for i := range x.Processes {
				all += of(&x.Processes[i])
			}
			return all
		})
	}
	cell(s.class() != "floor", nanos(sum(func(p *Process) float64 { return p.CPUTime })))
	cell(s.class() != "floor", fmt.Sprintf("%.3g", sum(func(p *Process) float64 {
		return float64(p.Voluntary+p.Forced) / float64(max(p.Messages, 1))
	})))
	r.Cells = append(r.Cells, fmt.Sprintf("%d%s", len(s.runs), tilde(s.runs)))
	return r
}
