// Command kbus runs a supervisor of buses, and sends, receives and looks at
// messages on them. "kbus help" lists its sub-commands.
//
// It exits with 0 when what was asked for was done, 1 when it failed, differed
// or was missed, and 2 when the command line was wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"kbus.internal/cmd/internal/torture"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errQuiet makes kbus exit with 1 without another word: all has been said.
var errQuiet = errors.New("failed")

func main() {
	torture.Main()
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	// A second Ctrl-C, when the first is not enough, ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := rootCommand()
	root.SetArgs(args)
	running := false // false: what fails is the command line
	onRun(root, func() { running = true })
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case !running || errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "kbus: %v\nSee %s --help\n", err, cmd.CommandPath())
		return exitUsage
	case !errors.Is(err, errQuiet):
		fmt.Fprintf(os.Stderr, "kbus: %v\n", explain(err))
	}
	return exitFailed
}

// onRun makes cmd and its sub-commands call f when all about their command line
// has been checked.
func onRun(cmd *cobra.Command, f func()) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			f()
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		onRun(sub, f)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kbus",
		Short: "A message bus for the processes of one machine",
		Long: `kbus is a message bus for the processes of one machine. Processes open Ksocks on
a numbered bus; messages have names such as $.Actor.Speak; whoever listens to a
name hears it, all in the same order; a Request goes to the one Replier for its
name, and is always answered.

Messages travel through memory that all processes share. One supervisor
(kbus up) lets them in and cleans up after those that die.

Every command finds the supervisor at --socket PATH, else at the path in the
environment variable KBUS_SOCKET, else at a default path for this user.`,
		Example: `  kbus demo                                  see it all work, with no set-up
  kbus up &                                  start a supervisor with bus 0
  kbus listen '$.Actor.*' &                  hear what the actors say
  kbus send '$.Actor.Speak' Ahem             say something
  kbus reply '$.Actor.Ask' --text Yes &      answer questions
  kbus request '$.Actor.Ask' 'Anyone there?' ask one`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetVersionTemplate("kbus {{.Version}}\n")
	root.AddCommand(
		upCommand(), demoCommand(), actorCommand(),
		sendCommand(), listenCommand(), requestCommand(), replyCommand(),
		limpetCommand(), statCommand(), bindingsCommand(), errnoCommand(), traceCommand(), tortureCommand(), y4mCommand(), benchCommand(),
	)
	// Sub-commands with their own sub-commands, and kbus alone, show their help.
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return root
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return info.Main.Version
}
