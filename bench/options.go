package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Wait is what a process does until its next message comes.
type Wait string

// The ways to wait.
const (
	Spin     Wait = "spin"     // look again and again
	Adaptive Wait = "adaptive" // for a short while, then sleep: what a Ksock does by default
	Sleep    Wait = "sleep"    // at once
)

// spin is the Ksock's option for this way. Spinning ends after some tens of
// milliseconds, when the other process can't be running.
func (w Wait) spin() int {
	switch w {
	case Spin:
		return 1 << 20
	case Sleep:
		return -1
	}
	return 0
}

// ErrOptions is in the errors for options that can not be meant.
var ErrOptions = errors.New("impossible option")

// Options say how a workload is run. Each looks at those that concern it.
type Options struct {
	Command   []string      // program and arguments that call [Child]; default: this one with "bench child"
	Duration  time.Duration // of a measurement, after a warm-up of a tenth of it; default 1 s
	Pin       []int         // the CPU for each process in turn, from the front again if there are more; empty: anywhere
	Wait      Wait          // default Adaptive
	Size      int           // bytes of data in a message
	Copy      bool          // copy messages in and out (Send, Next) instead of using them in place (Loan, View)
	Listeners int           // default 1
	Senders   int           // or askers; default 1
	Batch     int           // messages sent and taken in one go; default 1
	Stages    int           // between sender and Listener
	Rate      float64       // messages a second; 0: as fast as they go

	// What there is besides, on the bus and on the machine.
	Ksocks   int // open, and not used
	Bindings int // to other names
	Depth    int // parts of the name for which a wildcard stands; 0: no wildcard
	Busy     int // processes that use a CPU each
	Slow     int // Listeners that do not keep up
	Stopped  int // Listeners that are stopped by SIGSTOP

	// Strace has the system calls counted, which makes them many times slower.
	Strace bool
}

// Limits of Options.
const (
	MaxSize      = 8 << 20 // fits the default limit of a bus, and several into its arena
	MaxListeners = 64      // and senders, stages, busy processes
	MaxKsocks    = 1000
	MaxBatch     = 1000 // a process may hold about as many in place
	MaxBindings  = 16_000
	MaxDepth     = 100
	MaxRate      = 100_000_000
)

// check sets the defaults, and refuses what can not be done.
func (o Options) check() (Options, error) {
	if len(o.Command) == 0 {
		o.Command = []string{self, "bench", "child"}
	}
	if o.Duration == 0 {
		o.Duration = time.Second
	}
	if o.Wait == "" {
		o.Wait = Adaptive
	}
	if o.Listeners == 0 {
		o.Listeners = 1
	}
	if o.Senders == 0 {
		o.Senders = 1
	}
	if o.Batch == 0 {
		o.Batch = 1
	}
	bad := func(format string, args ...any) (Options, error) {
		return o, fmt.Errorf("%w: %w", ErrOptions, fmt.Errorf(format, args...))
	}
	switch {
	case o.Duration < 0:
		return bad("a duration of %v", o.Duration)
	case !slices.Contains([]Wait{Spin, Adaptive, Sleep}, o.Wait):
		return bad("no way to wait is named %q: there are spin, adaptive and sleep", string(o.Wait))
	case o.Size < 0 || o.Size > MaxSize:
		return bad("messages of %d bytes: possible are 0 to %d", o.Size, MaxSize)
	case o.Listeners < 0 || o.Listeners > MaxListeners:
		return bad("%d Listeners: possible are 1 to %d", o.Listeners, MaxListeners)
	case o.Senders < 0 || o.Senders > MaxListeners:
		return bad("%d senders: possible are 1 to %d", o.Senders, MaxListeners)
	case o.Batch < 0 || o.Batch > MaxBatch:
		return bad("batches of %d messages: possible are 1 to %d", o.Batch, MaxBatch)
	case !(o.Rate >= 0 && o.Rate <= MaxRate):
		return bad("%v messages a second: possible are 0 (as fast as they go) to %d", o.Rate, MaxRate)
	}
	for _, x := range []struct {
		what    string
		n, most int
	}{
		{"stages", o.Stages, MaxListeners}, {"idle Ksocks", o.Ksocks, MaxKsocks}, {"bindings", o.Bindings, MaxBindings},
		{"parts of a name", o.Depth, MaxDepth}, {"busy processes", o.Busy, MaxListeners},
		{"slow Listeners", o.Slow, MaxListeners}, {"stopped Listeners", o.Stopped, MaxListeners},
	} {
		if x.n < 0 || x.n > x.most {
			return bad("%d %s: possible are 0 to %d", x.n, x.what, x.most)
		}
	}
	allowed, err := AllowedCPUs()
	if err != nil {
		return o, err
	}
	for _, cpu := range o.Pin {
		if !slices.Contains(allowed, cpu) {
			return bad("CPU %d: this process may use %v", cpu, allowed)
		}
	}
	return o, nil
}

// AllowedCPUs are the CPUs that this process may run on.
func AllowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for cpu := range 8 * len(set) * 8 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}
