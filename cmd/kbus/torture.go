package main

import (
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"kbus.internal/cmd/internal/torture"
)

func tortureCommand() *cobra.Command {
	var o torture.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "torture",
		Short: "Kill and stop processes of a bus under load, and check that nothing is lost",
		Long: `Run a private supervisor and N clients, each a process, which do everything that
a bus is for, all at once: announce, one by one and in batches, ask, reply, wait, bind,
unbind, hold messages in place, open and close Ksocks. Meanwhile clients and now and then the supervisor
are killed (SIGKILL), and clients stopped for a while, at random moments.

What each sent and read is written down in memory that survives its death. From
that it is checked that all read one order, that nothing was lost, doubled, torn or
invented, that each Request had exactly one answer, and that in the end all
memory, slots, descriptors and threads are back. At the end, with nothing else
going on, it measures how long after a Replier's death its asker has the Status.

It needs no supervisor, and leaves nothing behind. It exits with 1 if anything
was wrong. The same seed makes the same choices, but not at the same moments.`,
		Example: `  kbus torture
  kbus torture --duration 2m --clients 16 --seed 1 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Duration <= 0 {
				return usagef("--duration %v: it takes some time", o.Duration)
			}
			if o.Clients < 1 || o.Clients > 64 {
				return usagef("--clients %d: possible are 1 to 64", o.Clients)
			}
			if o.Seed == 0 {
				o.Seed = 1 + rand.Uint64N(1<<32)
			}
			o.Progress = cmd.ErrOrStderr()
			report, err := torture.Run(cmd.Context(), o)
			if report == nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), report); err != nil {
					return err
				}
			} else if err := report.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if err == nil && report.Violations > 0 {
				err = errQuiet
			}
			return err
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.Duration, "duration", 20*time.Second, "`time` to go on killing, such as 30s or 2m")
	f.IntVar(&o.Clients, "clients", 12, "`N`, how many clients at a time, to 64")
	f.Uint64Var(&o.Seed, "seed", 0, "`number` that all choices follow from (default: another each time)")
	addJSONFlag(cmd, &asJSON)
	return cmd
}
