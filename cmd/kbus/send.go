package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"kbus.internal/ksock"
)

func sendCommand() *cobra.Command {
	var (
		bus                where
		lines              bool
		urgent, wait, fail bool
	)
	cmd := &cobra.Command{
		Use:   "send NAME [DATA]",
		Short: "Announce a message to whoever listens",
		Long: `Announce a message to whoever listens to its name; it is no error if nobody
does. DATA may be anything; - stands for standard input. With --lines each line
of standard input, without its newline, is a message, all from one Ksock.

A Listener whose queue is full misses the message, unless --all-or-wait or
--all-or-fail is given.`,
		Example: `  kbus send '$.Actor.Speak' Ahem
  kbus send '$.Picture' - <picture.jpeg
  tail -f /var/log/syslog | kbus send '$.Log' --lines`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: bus.completeNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			fromInput := len(args) == 2 && args[1] == "-"
			if lines && len(args) == 2 && !fromInput {
				return usagef("--lines reads standard input and leaves no place for DATA")
			}
			if wait && fail {
				return usagef("--all-or-wait and --all-or-fail exclude each other")
			}
			message := ksock.Announce(args[0], nil)
			for _, f := range []struct {
				set  bool
				flag uint32
			}{{urgent, ksock.Urgent}, {wait, ksock.AllOrWait}, {fail, ksock.AllOrFail}} {
				if f.set {
					message.Flags |= f.flag
				}
			}
			k, err := bus.open(ctx, false)
			if err != nil {
				return err
			}
			defer k.Close()
			if lines {
				return sendLines(ctx, k, message, cmd.InOrStdin())
			}
			switch {
			case fromInput:
				if message.Data, err = readInput(ctx, cmd.InOrStdin()); err != nil {
					return err
				}
			case len(args) == 2:
				message.Data = []byte(args[1])
			}
			_, err = k.Send(ctx, message)
			return err
		},
	}
	bus.addBusFlags(cmd)
	cmd.Flags().BoolVar(&lines, "lines", false, "send each line of standard input as a message")
	cmd.Flags().BoolVar(&urgent, "urgent", false, "go to the front of each queue")
	cmd.Flags().BoolVar(&wait, "all-or-wait", false, "wait until all recipients have room")
	cmd.Flags().BoolVar(&fail, "all-or-fail", false, "fail with EBUSY unless all recipients have room")
	return cmd
}

// sendLines sends each line that comes. The last may lack its newline.
func sendLines(ctx context.Context, k *ksock.Ksock, message *ksock.Message, in io.Reader) error {
	failed := make(chan error, 1)
	go func() {
		r := bufio.NewReader(in)
		for n := 1; ; n++ {
			line, err := r.ReadBytes('\n')
			if err == io.EOF && len(line) == 0 {
				failed <- nil
				return
			}
			if err != nil && err != io.EOF {
				failed <- fmt.Errorf("read standard input: %w", err)
				return
			}
			if l := len(line); line[l-1] == '\n' {
				line = line[:l-1]
			}
			message.Data = line
			if _, err := k.Send(ctx, message); err != nil {
				failed <- fmt.Errorf("line %d: %w", n, err)
				return
			}
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx) // a read of a terminal is not waited for
	}
}
