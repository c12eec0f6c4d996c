package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kbus.internal/ksock"
)

func replyCommand() *cobra.Command {
	var (
		bus     where
		text    string
		echo    bool
		command string
		count   int
	)
	cmd := &cobra.Command{
		Use:   "reply NAME (--text T | --echo | --exec CMD)",
		Short: "Be the Replier for a name",
		Long: `Be the Replier for a name and answer its Requests, until Ctrl-C or until --count
of them have been answered: with a fixed text, with the Request's own data, or
with what a command prints.

The command is run by sh for each Request, one at a time. It has the Request's
data on standard input and KBUS_NAME, KBUS_FROM and KBUS_ID in its environment.
If it fails, what it printed until then is the Reply, and a line on standard
error says so.

"replying" on standard error says that Requests can come.`,
		Example: `  kbus reply '$.Actor.Ask.Guildenstern' --text 'Yes, yes I was'
  kbus reply '$.Echo.*' --echo
  kbus reply '$.Upper' --exec 'tr a-z A-Z'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: bus.completeNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			flags := cmd.Flags()
			if cmd.Flags().Changed("count") && count < 1 {
				return usagef("--count %d: it must be at least 1", count)
			}
			var answer func(context.Context, *ksock.Message) ([]byte, error)
			switch {
			case flags.Changed("text"):
				answer = func(context.Context, *ksock.Message) ([]byte, error) { return []byte(text), nil }
			case echo:
				answer = func(_ context.Context, m *ksock.Message) ([]byte, error) { return m.Data, nil }
			case flags.Changed("exec"):
				answer = func(ctx context.Context, m *ksock.Message) ([]byte, error) { return runFor(ctx, command, m) }
			}
			k, err := bus.open(ctx, false)
			if err != nil {
				return err
			}
			defer k.Close()
			if err := k.Bind(ctx, args[0], ksock.Replier); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "replying")
			err = serve(ctx, k, answer, count)
			if count == 0 && interrupted(ctx, err) {
				return nil
			}
			return err
		},
	}
	bus.addBusFlags(cmd)
	cmd.Flags().StringVar(&text, "text", "", "answer with this `TEXT`")
	cmd.Flags().BoolVar(&echo, "echo", false, "answer with the Request's own data")
	cmd.Flags().StringVar(&command, "exec", "", "answer with what `CMD` prints")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` Requests (default: at Ctrl-C)")
	cmd.MarkFlagsMutuallyExclusive("text", "echo", "exec")
	cmd.MarkFlagsOneRequired("text", "echo", "exec")
	return cmd
}

// serve answers count Requests, or all that come if count is 0. A Request
// whose asker is gone counts and is reported. An answer that is too long is an
// error: the asker hears of it by the Status of a Replier that goes (R5.6).
func serve(ctx context.Context, k *ksock.Ksock, answer func(context.Context, *ksock.Message) ([]byte, error), count int) error {
	for n := 0; count == 0 || n < count; {
		m, err := k.Next(ctx)
		if err != nil {
			return err
		}
		if !m.MustReply() {
			continue
		}
		n++
		data, err := answer(ctx, m)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "kbus: Request %v: %v\n", pair(m.ID.Network, m.ID.Serial), err)
		}
		if err = sendReply(ctx, k, ksock.ReplyTo(m, data)); errors.Is(err, ksock.ErrAskerGone) {
			fmt.Fprintf(os.Stderr, "kbus: %v\n", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// sendReply sends a Reply, again and again while there is no room for it: its asker
// would wait for ever for one that is not sent by a Replier that stays.
func sendReply(ctx context.Context, k *ksock.Ksock, m *ksock.Message) error {
	const least, most = 10 * time.Millisecond, time.Second
	for pause := least; ; pause = min(2*pause, most) {
		_, err := k.Send(ctx, m)
		if !errors.Is(err, ksock.ErrQueueFull) && !errors.Is(err, ksock.ErrNoMemory) {
			return err
		}
		if pause == least {
			fmt.Fprintf(os.Stderr, "kbus: %v; it is tried again until there is room\n", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// runFor runs a command for a Request and returns what it printed.
func runFor(ctx context.Context, command string, m *ksock.Message) ([]byte, error) {
	sh := exec.CommandContext(ctx, "sh", "-c", command)
	sh.Stdin = bytes.NewReader(m.Data)
	sh.Stderr = os.Stderr
	sh.Env = append(os.Environ(), "KBUS_NAME="+m.Name, "KBUS_FROM="+strconv.FormatUint(uint64(m.From), 10),
		"KBUS_ID="+pair(m.ID.Network, m.ID.Serial))
	sh.WaitDelay = time.Second // for a grandchild that keeps the pipe
	sh.Cancel = func() error { return syscall.Kill(-sh.Process.Pid, syscall.SIGKILL) }
	// Nobody waits for its answer when this process is gone. The signal comes when
	// the thread that started it ends, so that has to stay as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sh.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var out bytes.Buffer
	sh.Stdout = &out
	if err := sh.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w", command, err)
	}
	return out.Bytes(), nil
}
