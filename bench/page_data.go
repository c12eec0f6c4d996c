package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// runFile is one file of results. Its results are compared with each other, and
// not with those of other files.
type runFile struct {
	*Report
	File   string
	series []*series
}

// series are the runs of one thing in all rounds.
type series struct {
	*Result // the first: what it is
	runs    []*Result
}

// readRuns reads all files of results in a directory, the newest first. What is
// not understood is in problems.
func readRuns(dir string) (files []*runFile, problems []string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		f, err := readRun(name)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", filepath.Base(name), err))
			continue
		}
		files = append(files, f)
	}
	if files == nil {
		return nil, nil, fmt.Errorf("%s has no results, as kbus bench --json writes them to files named *.json %s", dir, strings.Join(problems, "; "))
	}
	slices.SortStableFunc(files, func(a, b *runFile) int { return b.Started.Compare(a.Started) })
	return files, problems, nil
}

func readRun(name string) (*runFile, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f := &runFile{Report: &Report{}, File: filepath.Base(name)}
	if err := json.Unmarshal(raw, f.Report); err != nil {
		return nil, err
	}
	if f.Results == nil { // of a single workload
		r := &Result{}
		if err := json.Unmarshal(raw, r); err != nil {
			return nil, err
		}
		f.Results, f.Started, f.Seconds, f.Pin, f.Machine = []*Result{r}, r.Started, r.Seconds, r.Pin, r.Machine
	}
	byName := map[string]*series{}
	for _, r := range f.Results {
		if r == nil || r.Name == "" || r.Workload == "" || r.System == "" {
			return nil, errors.New("not results of kbus bench")
		}
		s := byName[r.Name]
		if s == nil {
			s = &series{Result: r}
			byName[r.Name] = s
			f.series = append(f.series, s)
		}
		s.runs = append(s.runs, r)
	}
	return f, nil
}

// of finds a series by what it is; wait and listeners are looked at if they are given.
func (f *runFile) of(system, workload string, size int, wait Wait, listeners int) *series {
	for _, s := range f.series {
		if s.System == system && s.Workload == workload && (s.Size == size || workload == "floor") &&
			(wait == "" || s.Wait == wait) && (listeners == 0 || s.Listeners == listeners) && s.plain() {
			return s
		}
	}
	return nil
}

// plain tells whether a series is measured without what other workloads add.
func (s *series) plain() bool {
	return !s.Copied && s.Senders <= 1 && s.BatchSize == 0 && s.Stages == 0 && s.Rate == 0 && s.Ksocks == 0 && s.Bindings == 0 &&
		s.Depth == 0 && s.Busy == 0 && s.Slow == 0 && s.Stopped == 0
}

// all are the plain series of a workload with messages of a size.
func (f *runFile) all(workload string, size int) (found []*series) {
	for _, s := range f.series {
		if s.Workload == workload && s.Size == size && s.plain() {
			found = append(found, s)
		}
	}
	return found
}

// peers tells whether anything but the bus was measured.
func (f *runFile) peers() bool {
	return slices.ContainsFunc(f.series, func(s *series) bool { return s.System != KBUS && s.System != Machinery })
}

// time is the median over the rounds of a percentile.
func (s *series) time(of func(*Latency) int64) float64 {
	if s == nil || s.Latency == nil {
		return 0
	}
	return middle(s.runs, func(r *Result) float64 {
		if r.Latency == nil {
			return 0
		}
		return float64(of(r.Latency))
	})
}

func (s *series) p50() float64 { return s.time(func(l *Latency) int64 { return l.P50 }) }
func (s *series) p99() float64 { return s.time(func(l *Latency) int64 { return l.P99 }) }

// rate is the median over the rounds of messages a second.
func (s *series) rate() float64 {
	if s == nil {
		return 0
	}
	return middle(s.runs, func(r *Result) float64 { return r.PerSecond })
}

// disturbed is how many of the runs were.
func (s *series) disturbed() (n int) {
	for _, r := range s.runs {
		if r.Load.Disturbed {
			n++
		}
	}
	return n
}

// histogram is that of all runs that were not disturbed; of all if each was. nil
// if there is none that can be read.
func (s *series) histogram() *hdrhistogram.Histogram {
	var sum *hdrhistogram.Histogram
	for _, r := range s.runs {
		if r.Latency == nil || r.Load.Disturbed && s.disturbed() < len(s.runs) {
			continue
		}
		h, err := hdrhistogram.Decode([]byte(r.Histogram))
		if err != nil {
			return nil
		}
		if sum == nil {
			sum = hdrhistogram.New(1, longest, 3)
		}
		sum.Merge(h)
	}
	return sum
}

// label says what a series is, beside others of its workload and size.
func (s *series) label() string {
	if s.System == Machinery {
		return "floor: " + map[Wait]string{Spin: "cache line", Sleep: "futex"}[s.Wait]
	}
	ways := map[Wait]string{Spin: "spinning", Sleep: "asleep", Adaptive: "adaptive"}
	if w := ways[s.Wait]; w != "" {
		return s.System + ", " + w
	}
	return s.System
}

// compareWith is the wait of the bus that a series is to be compared with.
func (s *series) compareWith() Wait {
	if s.Wait == Spin {
		return Spin
	}
	return Sleep // libraries sleep, too
}

// bySpeed sorts round trips, the quickest first.
func bySpeed(a, b *series) int { return cmp.Compare(a.p50(), b.p50()) }
