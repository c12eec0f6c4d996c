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
			if f.json {
				return printJSON(out, report)
			}
			return report.WriteTable(out)
		},
	}
	f.addTo(cmd, "of each run, after a tenth of it to warm up")
	cmd.Flags().IntVar(&rounds, "rounds", 5, "`times` that all is run")
	cmd.AddCommand(benchFloorCommand(), benchRTTCommand(), benchFanCommand(), benchLocalCommand(),
		benchOpenCommand(), benchBindCommand(), benchPeersCommand(), benchLimpetCommand(), benchChildCommand())
	return cmd
}

// benchFlags are those that workloads have in common.
type benchFlags struct {
	o       bench.Options
	seconds float64
	json    bool
}

func (f *benchFlags) addTo(cmd *cobra.Command, seconds string) {
	cmd.Flags().Float64Var(&f.seconds, "seconds", 1, "`time` "+seconds)
	cmd.Flags().IntSliceVar(&f.o.Pin, "pin", nil, "`CPU`s for the processes in turn, such as 0,1")
	addJSONFlag(cmd, &f.json)
}

func (f *benchFlags) addWait(cmd *cobra.Command, choice string, standard bench.Wait) {
	f.o.Wait = standard
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

// addInPlace adds the choice; its result has to be put into the options.
func addInPlace(cmd *cobra.Command, inPlace *bool) {
	cmd.Flags().BoolVar(inPlace, "in-place", true, "use messages where they lie; false copies them in and out")
}

// run calls do with the options that the flags say.
func (f *benchFlags) run(ctx context.Context, do func(bench.Options) error) error {
	if !(f.seconds > 0 && f.seconds <= 24*60*60) {
		return usagef("--seconds %v: more than 0, and at most a day", f.seconds)
	}
	f.o.Duration = time.Duration(math.Ceil(f.seconds * float64(time.Second)))
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
		if f.json {
			return printJSON(cmd.OutOrStdout(), result)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), result)
		return err
	})
}

func benchFloorCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "floor",
		Short: "What the machine can do without a bus",
		Long: `Measure the round trip between two processes without a bus: of a cache line that
both spin on (--wait spin), or of a futex that each sleeps on (--wait sleep). Then
a copy of --size bytes into memory that processes share, and a bare ring with one
producer and --listeners readers that loses nothing.`,
		Example: "  kbus bench floor --wait spin --pin 0,1 --seconds 5 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Floor)
		},
	}
	f.addTo(cmd, "in all: half of it for the round trip")
	f.addWait(cmd, "spin or sleep", bench.Spin)
	f.addSize(cmd)
	f.addListeners(cmd, "how many readers the ring has")
	return cmd
}

func benchRTTCommand() *cobra.Command {
	var (
		f       benchFlags
		inPlace bool
	)
	cmd := &cobra.Command{
		Use:   "rtt",
		Short: "Round trip of a Request and its Reply",
		Long: `Measure the round trip of a Request and its Reply between two processes. Both
carry --size bytes, which are used in place and not touched but for the first and
last eight; with --in-place=false they are copied in and out.`,
		Example: `  kbus bench rtt --size 64 --wait spin --pin 0,1 --seconds 5 --json
  kbus bench rtt --size 3M --wait sleep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.o.Copy = !inPlace
			return workload(cmd, &f, bench.RTT)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	addInPlace(cmd, &inPlace)
	return cmd
}

func benchFanCommand() *cobra.Command {
	var (
		f       benchFlags
		inPlace bool
	)
	cmd := &cobra.Command{
		Use:   "fan",
		Short: "Announcements of one process to many Listeners",
		Long: `Measure how many announcements a second one process gets to all of --listeners
processes. It waits for the slowest, so none may be missed.`,
		Example: `  kbus bench fan --size 64 --listeners 8 --seconds 5 --json
  kbus bench fan --size 3M --listeners 8`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.o.Copy = !inPlace
			return workload(cmd, &f, bench.Fan)
		},
	}
	f.addTo(cmd, "of sending")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	f.addListeners(cmd, "how many processes listen")
	addInPlace(cmd, &inPlace)
	return cmd
}

func benchLocalCommand() *cobra.Command {
	var (
		f       benchFlags
		inPlace bool
	)
	cmd := &cobra.Command{
		Use:     "local",
		Short:   "Send and receive in one process",
		Long:    "Measure sending an announcement and receiving it, by turns in one process that has\nthe bus for itself.",
		Example: "  kbus bench local --size 64 --pin 0",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.o.Copy = !inPlace
			return workload(cmd, &f, bench.Local)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addSize(cmd)
	addInPlace(cmd, &inPlace)
	return cmd
}

func benchOpenCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:     "open",
		Short:   "Open and close Ksocks",
		Long:    "Measure opening a Ksock and closing it, in a process that has no other.",
		Example: "  kbus bench open --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Open)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	return cmd
}

func benchBindCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:     "bind",
		Short:   "Bind and unbind",
		Long:    "Measure binding a Ksock to a name as Listener, and unbinding it.",
		Example: "  kbus bench bind --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Bind)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	return cmd
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
