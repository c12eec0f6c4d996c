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
}

// Limits of Options.
const (
	MaxSize      = 8 << 20 // fits the default limit of a bus, and several into its arena
	MaxListeners = 64
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
