package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbus.internal/bench"
)

func benchCommand() *cobra.Command {
	var (
		f      benchFlags
		rounds int
	)
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a bus on this machine, beside what the hardware can do",
		Long: `Measure a private bus between processes of its own, beside the floors of this
machine: the round trip of a cache line and of a futex between two processes, a
copy of memory, a bare ring. Without a sub-command all of it, round after round,
as a table with the targets of KBUS beside the results; with one, that workload.

It needs no supervisor and disturbs none, but it takes all CPUs: let nothing else
run. A run during which the hypervisor or other programs took CPU time is marked.
bench/README.md says how to read the figures.`,
		Example: `  kbus bench
  kbus bench --rounds 20 --json >today.json
  kbus bench rtt --size 64 --wait spin --pin 0,1
  kbus bench fan --size 3M --listeners 8 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("pin") {
				f.o.Pin = twoCPUs()
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			progress, done := progressLine(os.Stderr)
			var report *bench.Report
			err := f.run(ctx, func(o bench.Options) (err error) {
				report, err = bench.Set(ctx, o, rounds, progress)
				return err
			})
			done()
			if err != nil {
				return err
			}
			switch {
			case f.json:
				return printJSON(out, report)
			case f.benchstat:
				return bench.WriteBenchstat(out, report.Results...)
			}
			return report.WriteTable(out)
		},
	}
	f.addTo(cmd, "of each run, after a tenth of it to warm up")
	cmd.Flags().IntVar(&rounds, "rounds", 5, "`times` that all is run")
	for _, w := range benchWorkloads {
		cmd.AddCommand(w.command())
	}
	cmd.AddCommand(benchLimpetCommand(), benchPeersCommand(), benchReportCommand(), benchChildCommand())
	return cmd
}

// benchFlags are those that workloads have in common.
type benchFlags struct {
	o               bench.Options
	seconds         float64
	place           *bool // flag in-place, where there is one
	json, benchstat bool
}

func (f *benchFlags) addTo(cmd *cobra.Command, seconds string) {
	cmd.Flags().Float64Var(&f.seconds, "seconds", 1, "`time` "+seconds)
	cmd.Flags().IntSliceVar(&f.o.Pin, "pin", nil, "`CPU`s for the processes in turn, such as 0,1")
	addJSONFlag(cmd, &f.json)
	cmd.Flags().BoolVar(&f.benchstat, "benchstat", false, "print the form that benchstat reads")
	cmd.MarkFlagsMutuallyExclusive("json", "benchstat")
}

func (f *benchFlags) addWait(cmd *cobra.Command, choice string, standard bench.Wait) {
	cmd.Flags().StringVar((*string)(&f.o.Wait), "wait", string(standard), "`how` to wait: "+choice)
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"spin", "sleep", "adaptive"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *benchFlags) addSize(cmd *cobra.Command) {
	f.o.Size = 64
	cmd.Flags().Var((*benchSize)(&f.o.Size), "size", "bytes of data in a message, such as 64 or 3M")
}

func (f *benchFlags) addListeners(cmd *cobra.Command, what string) {
	cmd.Flags().IntVar(&f.o.Listeners, "listeners", 1, "`N`, "+what)
}

func (f *benchFlags) addRate(cmd *cobra.Command, standard float64, what string) {
	cmd.Flags().Float64Var(&f.o.Rate, "rate", standard, "`R`, "+what)
}

func (f *benchFlags) addInPlace(cmd *cobra.Command) {
	f.place = cmd.Flags().Bool("in-place", true, "use messages where they lie; false copies them in and out")
}

// addBesides adds what there may be on the bus and on the machine besides.
func (f *benchFlags) addBesides(cmd *cobra.Command) {
	n := func(to *int, name, what string) { cmd.Flags().IntVar(to, name, 0, "`N`, "+what) }
	n(&f.o.Ksocks, "ksocks", "how many further Ksocks are open, and idle")
	n(&f.o.Bindings, "bindings", "how many bindings there are to other names")
	n(&f.o.Depth, "depth", "how many parts of the name a wildcard stands for; 0: bound without one")
	n(&f.o.Busy, "busy", "how many processes use a CPU each")
	cmd.Flags().BoolVar(&f.o.Strace, "strace", false, "count system calls by strace: the times mean nothing then")
}

// run calls do with the options that the flags say.
func (f *benchFlags) run(ctx context.Context, do func(bench.Options) error) error {
	if !(f.seconds > 0 && f.seconds <= 24*60*60) {
		return usagef("--seconds %v: more than 0, and at most a day", f.seconds)
	}
	f.o.Duration = time.Duration(math.Ceil(f.seconds * float64(time.Second)))
	f.o.Copy = f.place != nil && !*f.place
	err := do(f.o)
	switch {
	case errors.Is(err, bench.ErrOptions):
		return usageError{err}
	case interrupted(ctx, err):
		return errors.New("interrupted: no result")
	}
	return err
}

// workload runs one, and prints its result.
func workload(cmd *cobra.Command, f *benchFlags, measure func(context.Context, bench.Options) (*bench.Result, error)) error {
	return f.run(cmd.Context(), func(o bench.Options) error {
		result, err := measure(cmd.Context(), o)
		if err != nil {
			return err
		}
		switch {
		case f.json:
			return printJSON(cmd.OutOrStdout(), result)
		case f.benchstat:
			return bench.WriteBenchstat(cmd.OutOrStdout(), result)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), result)
		return err
	})
}

// benchChildCommand is what the processes of a workload run.
func benchChildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "child", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return bench.Child(os.Stdin, os.Stdout) },
	}
}

// twoCPUs are the first two that may be used; none if there is only one.
func twoCPUs() []int {
	cpus, err := bench.AllowedCPUs()
	if err != nil || len(cpus) < 2 {
		return nil
	}
	return cpus[:2]
}

// progressLine shows texts on a line of their own, one after the other; on a
// terminal in one place, which done clears.
func progressLine(to *os.File) (show func(string), done func()) {
	if _, err := unix.IoctlGetTermios(int(to.Fd()), unix.TCGETS); err != nil {
		return func(text string) { fmt.Fprintln(to, text) }, func() {}
	}
	clear := func() { io.WriteString(to, "\r\x1b[K") }
	return func(text string) { clear(); io.WriteString(to, text) }, clear
}

// benchSize is a number of bytes, which may be 0.
type benchSize int

func (s *benchSize) Type() string   { return "size" }
func (s *benchSize) String() string { return fmt.Sprint(int(*s)) }

func (s *benchSize) Set(text string) error {
	if text == "0" {
		*s = 0
		return nil
	}
	var size sizeFlag
	if err := size.Set(text); err != nil {
		return err
	}
	*s = benchSize(min(uint64(size), math.MaxInt32))
	return nil
}
