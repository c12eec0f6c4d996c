package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"kbus.internal/ksock"
)

func requestCommand() *cobra.Command {
	var (
		bus     where
		timeout time.Duration
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "request NAME [DATA]",
		Short: "Ask the Replier for a name, and print its Reply",
		Long: `Send a Request and print the data of its Reply. DATA may be anything; - stands
for standard input. It is an error if nobody is Replier for NAME, and if the
bus answers with a Status because the Replier went away.`,
		Example: `  kbus request '$.Actor.Ask.Guildenstern' 'Were you speaking to me?'
  kbus request '$.Clock' '' --timeout 500ms`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: bus.completeNames(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if timeout < 0 {
				return usagef("--timeout %v: it cannot be negative", timeout)
			}
			var data []byte
			var err error
			switch {
			case len(args) == 2 && args[1] == "-":
				if data, err = readInput(ctx, cmd.InOrStdin()); err != nil {
					return err
				}
			case len(args) == 2:
				data = []byte(args[1])
			}
			k, err := bus.open(ctx, false)
			if err != nil {
				return err
			}
			defer k.Close()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			reply, err := k.Call(ctx, ksock.Request(args[0], data))
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("no Reply to %s within %v", args[0], timeout)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSONMessage(cmd.OutOrStdout(), reply)
			}
			return writeData(cmd.OutOrStdout(), reply.Data)
		},
	}
	bus.addBusFlags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "`how long` to wait for the answer, such as 500ms (default: for ever)")
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// writeData writes data and, if it does not end with one, a newline.
func writeData(w io.Writer, data []byte) error {
	if n := len(data); n == 0 || data[n-1] != '\n' {
		data = append(data[:n:n], '\n')
	}
	_, err := w.Write(data)
	return err
}
