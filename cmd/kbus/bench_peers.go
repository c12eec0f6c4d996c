package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kbus.internal/bench"
)

func benchPeersCommand() *cobra.Command {
	var (
		f      benchFlags
		rounds int
		waits  []string
		only   []string
	)
	var peers strings.Builder
	for _, p := range bench.Peers() {
		fmt.Fprintf(&peers, "  %-15s %s\n", p.Name, p.About)
	}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Compare a bus with other ways for processes to send messages",
		Long: `Measure the floors of this machine, a private bus, and what Linux and Go have for
processes to send each other messages, round after round: round trips of messages
of 64 B to 3 MiB, and messages of one to 1, 4 and 8 others, none lost.

` + peers.String() + `
The bus uses messages in place; all others but channels copy them in and out.
What has no way to spin is measured once, as it waits. Libraries, such as ZeroMQ
and gRPC, are in a program of their own beside these: cd bench/peers && go run .`,
		Example: `  kbus bench peers
  kbus bench peers --only unix-stream,pipe --wait sleep
  kbus bench peers --json >peers.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := bench.Choose(bench.Peers(), only)
			if err != nil {
				return usageError{err}
			}
			var ways []bench.Wait
			for _, w := range waits {
				ways = append(ways, bench.Wait(w))
			}
			if !cmd.Flags().Changed("pin") {
				f.o.Pin = twoCPUs()
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			progress, done := progressLine(os.Stderr)
			var report *bench.Report
			err = f.run(ctx, func(o bench.Options) (err error) {
				report, err = bench.Compare(ctx, o, rounds, ways, chosen, progress)
				return err
			})
			done()
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(out, report)
			}
			return report.WriteComparison(out)
		},
	}
	f.addTo(cmd, "of each run, after a tenth of it to warm up")
	_ = cmd.Flags().Lookup("seconds").Value.Set("0.3")
	cmd.Flags().Lookup("seconds").DefValue = "0.3"
	cmd.Flags().IntVar(&rounds, "rounds", 3, "`times` that all is run")
	cmd.Flags().StringSliceVar(&waits, "wait", []string{"spin", "sleep"}, "`how` to wait, one after the other: spin, sleep (at once), adaptive (spin, then sleep)")
	cmd.Flags().StringSliceVar(&only, "only", nil, "`names` of the peers to be measured (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("only", func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
		for _, p := range bench.Peers() {
			names = append(names, p.Name)
		}
		return slices.Clip(names), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}
