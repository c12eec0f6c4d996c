package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kbus.internal/ksock"
)

func listenCommand() *cobra.Command {
	var (
		bus    where
		count  int
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "listen NAME…",
		Short: "Print the messages of some names as they come",
		Long: `Print the messages of some names as they come, one line each, until Ctrl-C or
until --count of them have come. A NAME may end in .* (any words) or .% (one
word); a message that matches two of them comes twice.

"listening" on standard error says that every message sent from then on is heard.`,
		Example: `  kbus listen '$.Actor.*'
  kbus listen '$.*' --json | jq -r .name
  kbus listen '$.Ready' --count 1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: bus.completeNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if cmd.Flags().Changed("count") && count < 1 {
				return usagef("--count %d: it must be at least 1", count)
			}
			k, err := bus.open(ctx, true)
			if err != nil {
				return err
			}
			defer k.Close()
			for _, name := range args {
				if err := k.Bind(ctx, name, ksock.Listener); err != nil {
					return err
				}
			}
			fmt.Fprintln(os.Stderr, "listening")

			out := bufio.NewWriter(cmd.OutOrStdout())
			write := writeLine
			if asJSON {
				write = writeJSONMessage
			}
			for n := 1; ; n++ {
				m, err := k.TryNext()
				if err == nil && m == nil { // nothing more for now: show what there is
					if err = out.Flush(); err == nil {
						m, err = k.Next(ctx)
					}
				}
				if err == nil {
					err = write(out, m)
				}
				if err == nil && n == count {
					return out.Flush()
				}
				if err != nil {
					_ = out.Flush()
					if count == 0 && interrupted(ctx, err) {
						return nil
					}
					return err
				}
			}
		},
	}
	bus.addBusFlags(cmd)
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` messages (default: at Ctrl-C)")
	addJSONFlag(cmd, &asJSON)
	return cmd
}
