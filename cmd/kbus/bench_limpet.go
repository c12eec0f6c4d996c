package main

import (
	"github.com/spf13/cobra"

	"kbus.internal/bench"
)

func benchLimpetCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "limpet",
		Short: "Two buses joined by a pair of Limpets",
		Long: `Measure two buses that a pair of Limpets joins over TCP loopback: the round trip
of a Request and its Reply from one bus to the other, and a stream of announcements.
Beside it, what that is made of: the round trip within one bus, and messages of
the same size over plain TCP. All parts are processes of their own.`,
		Example: `  kbus bench limpet --size 64
  kbus bench limpet --size 1M --wait sleep --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Limpet)
		},
	}
	f.addTo(cmd, "in all: a fifth of it for each of the five parts")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	cmd.Flags().Lookup("seconds").DefValue, f.seconds = "5", 5
	return cmd
}
