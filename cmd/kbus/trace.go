package main

import (
	"errors"

	"github.com/spf13/cobra"

	"kbus.internal/cmd/internal/trace"
)

func traceCommand() *cobra.Command {
	var onModel, asJSON bool
	cmd := &cobra.Command{
		Use:   "trace FILE…",
		Short: "Replay recorded traces and show every difference",
		Long: `Replay recorded traces (kbus-trace/1), each on a fresh private bus, and compare
every answer with the recorded one. Transcripts of Limpets (limpet-wire/1) are
replayed too: with a real Limpet on such a bus, whose every byte is compared.

Each difference is a line with file, line, what was wanted and what came. At the
end the steps are counted; it exits with 1 if any differed, or a file could not be
replayed. It needs no supervisor.`,
		Example: `  kbus trace scripted/*.jsonl
  kbus trace --model random/clean-01.jsonl
  kbus trace --json recorded.jsonl | jq -r '.differences[].got'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			start := trace.Real
			if onModel {
				start = trace.Model
			}
			var r trace.Result
			var err error
			if asJSON {
				r, err = trace.Run(cmd.Context(), files, start, func(trace.Difference) error { return nil })
				err = errors.Join(err, printJSON(cmd.OutOrStdout(), r))
			} else {
				r, err = trace.Print(cmd.Context(), cmd.OutOrStdout(), files, start)
			}
			if err == nil && r.Differ > 0 {
				err = errQuiet
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&onModel, "model", false, "replay on the plain sequential model of the rules instead of a bus")
	addJSONFlag(cmd, &asJSON)
	return cmd
}
