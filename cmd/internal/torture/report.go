package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"kbus.internal/bench"
	"kbus.internal/ksock"
)

// Percentiles of some durations, in milliseconds.
type Percentiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

func percentiles(l []time.Duration) (p Percentiles) {
	if p.Count = len(l); p.Count == 0 {
		return p
	}
	l = slices.Sorted(slices.Values(l))
	at := func(q float64) float64 {
		return float64(l[min(len(l)-1, int(q*float64(len(l))))]) / float64(time.Millisecond)
	}
	p.P50, p.P90, p.P99, p.Max = at(.5), at(.9), at(.99), at(1)
	return p
}

func (p Percentiles) String() string {
	if p.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %.3f ms, p90 %.3f ms, p99 %.3f ms, at most %.3f ms (%d times)", p.P50, p.P90, p.P99, p.Max, p.Count)
}

// A Report is what came of a run.
type Report struct {
	Seed     uint64        `json:"seed"`
	Clients  int           `json:"clients"`
	Seconds  float64       `json:"seconds"` // of kills
	Machine  bench.Machine `json:"machine"`
	Counts                 // embedded
	Loaded   Percentiles   `json:"death_to_status_under_load"`
	Idle     Percentiles   `json:"death_to_status_idle"`
	Served   Percentiles   `json:"supervisor_death_to_service"`
	Before   Inventory     `json:"before"`
	After    Inventory     `json:"after"`
	Found    []string      `json:"found,omitempty"` // violations, the first ones
	duration time.Duration
}

func newReport(o Options) *Report {
	return &Report{Seed: o.Seed, Clients: o.Clients, Machine: bench.ThisMachine(), duration: o.Duration}
}

func (r *Report) finish(run *run) {
	r.Counts, r.Found = run.books.Counts, run.books.found
	r.Seconds = min(time.Since(run.begin), r.duration).Seconds()
	r.Loaded = percentiles(run.books.statuses)
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	b := bufio.NewWriter(w)
	p := func(what, format string, args ...any) {
		fmt.Fprintf(b, "%-28s %s\n", what, fmt.Sprintf(format, args...))
	}
	p("machine", "%v", r.Machine)
	p("seed", "%d", r.Seed)
	p("time", "%.1f s with %d clients at a time", r.Seconds, r.Clients)
	p("clients killed", "%d of %d started", r.Kills, r.Counts.Clients)
	p("clients stopped", "%d", r.Stops)
	p("supervisors killed", "%d", r.SupervisorKills)
	p("Ksocks opened", "%d", r.Ksocks)
	p("messages sent", "%d, many of them in %d batches; refused %d, waited %d, cut off by a kill %d, no memory %d", r.Sent, r.Batches, r.Refused, r.Waited, r.CutOff, r.NoMemory)
	p("messages delivered", "%d", r.Delivered)
	p("chain links compared", "%d", r.Chained)
	p("Requests", "%d, answered by %d Replies and %d Statuses", r.Requests, r.Replies, r.Statuses)
	p("Replier bind events", "%d", r.Events)
	p("death to Status, under load", "%v", r.Loaded)
	p("death to Status, idle", "%v", r.Idle)
	p("supervisor's death to service", "%v", r.Served)
	p("arena in use", "%d bytes, at the beginning %d", r.After.ArenaUsed, r.Before.ArenaUsed)
	p("supervisor's descriptors", "%d, at the beginning %d", r.After.Files, r.Before.Files)
	p("supervisor's threads", "%d, at the beginning %d", r.After.Threads, r.Before.Threads)
	p("supervisor's own memory", "%d KiB, at the beginning %d KiB", r.After.Private, r.Before.Private)
	for _, v := range r.Found {
		fmt.Fprintf(b, "VIOLATION: %s\n", v)
	}
	if n := r.Violations - len(r.Found); n > 0 {
		fmt.Fprintf(b, "and %d more\n", n)
	}
	p("violations", "%d", r.Violations)
	return b.Flush()
}

// progress tells how far a run is.
type progress struct {
	r    *run
	last time.Time
}

func newProgress(r *run) *progress { return &progress{r, time.Now()} }

const progressEvery = 5 * time.Second

func (p *progress) show() {
	if p.r.o.Progress == nil || time.Since(p.last) < progressEvery {
		return
	}
	p.last = time.Now()
	c := &p.r.books.Counts
	fmt.Fprintf(p.r.o.Progress, "%4.0f s: %d killed, %.2f million sent, %.2f million delivered, %d Requests, %d Statuses, %d violations\n",
		time.Since(p.r.begin).Seconds(), c.Kills, float64(c.Sent)/1e6, float64(c.Delivered)/1e6, c.Requests, c.Statuses, c.Violations)
}

// rssAnon is the memory of a process that is its own, in KiB.
func rssAnon(status []byte) int {
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), "RssAnon:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return n
		}
	}
	return 0
}

const (
	victimName    = "$.Victim"
	measureRounds = 300
)

var errNoStatus = errors.New("no Status")

// measure takes the time from the death of a Replier to the Status in its
// asker's hands, with nothing else going on.
func (r *run) measure(ctx context.Context) error {
	rounds := r.o.Rounds
	if rounds == 0 {
		rounds = measureRounds
	}
	socket := r.socket + ".idle"
	super, err := r.supervise(socket)
	if err != nil {
		return err
	}
	r.super = super
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		return err
	}
	defer k.Close()
	runtime.GC() // and not in the middle of it
	var times []time.Duration
	for range rounds {
		d, err := r.measureOne(ctx, k, socket)
		if err == errNoStatus {
			break
		}
		if err != nil {
			return fmt.Errorf("measure: %w", err)
		}
		times = append(times, d)
	}
	r.report.Idle = percentiles(times)
	return nil
}

func (r *run) measureOne(ctx context.Context, k *ksock.Ksock, socket string) (time.Duration, error) {
	victim, out, err := r.spawn(roleVictim, nil, socket)
	if err != nil {
		return 0, err
	}
	defer victim.Wait()
	defer victim.Process.Kill()
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		return 0, err
	}
	if _, err := k.Send(ctx, ksock.Request(victimName, nil)); err != nil {
		return 0, err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return 0, err
	}
	// Asker and supervisor are at rest when it happens.
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type got struct {
		m   *ksock.Message
		at  time.Time
		err error
	}
	status := make(chan got, 1)
	go func() {
		m, err := k.Next(ctx)
		status <- got{m, time.Now(), err}
	}()
	time.Sleep(2 * time.Millisecond)
	begin := time.Now()
	if err := victim.Process.Kill(); err != nil {
		return 0, err
	}
	g := <-status
	if errors.Is(g.err, context.DeadlineExceeded) {
		r.books.violation("%v after a Replier was killed its asker has no Status (R4.8)", patience)
		g.err = errNoStatus
	}
	if g.err != nil {
		return 0, g.err
	}
	if g.m.Name != ksock.StatusIgnored {
		r.books.violation("the asker of a Replier that was killed got %v", g.m)
	}
	return g.at.Sub(begin), nil
}
