// Command kbus runs a supervisor of buses, and sends, receives and looks at
// messages on them. "kbus help" lists its sub-commands.
//
// It exits with 0 when what was asked for was done, 1 when it failed, differed
// or was missed, and 2 when the command line was wrong.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
	out := &output{to: os.Stdout}
	// A second Ctrl-C, when the first is not enough, ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	// Nobody reads standard output any more: that is a failed write, so that what
	// was started is cleared away, and only then the signal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	defer func() {
		if errors.Is(out.failed(), syscall.EPIPE) {
			signal.Reset(syscall.SIGPIPE)
			_, _ = os.Stdout.WriteString("\n") // Go's runtime ends the process by it, unless it is ignored
		}
	}()

	if err := enoughDescriptors(); err != nil {
		fmt.Fprintf(os.Stderr, "kbus: %v\n", err)
		return exitFailed
	}
	root := rootCommand()
	root.SetOut(out)
	root.SetArgs(args)
	running := false // false: what fails is the command line
	onRun(root, func() { running = true })
	cmd, err := root.ExecuteContextC(ctx)
	if failed := out.failed(); failed != nil && (err == nil || !running) {
		err, running = failed, true
	}
	var usage usageError
	switch {
	case err == nil:
		return 0
	case !running || errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "kbus: %v\nSee %s --help\n", err, cmd.CommandPath())
		return exitUsage
	case !errors.Is(err, errQuiet) && !errors.Is(out.failed(), syscall.EPIPE):
		fmt.Fprintf(os.Stderr, "kbus: %v\n", explain(err))
	}
	return exitFailed
}

// output is standard output. It remembers a failed write, since help, tables and
// the like don't look whether they were written.
type output struct {
	to  io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.to.Write(b)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.err = cmp.Or(o.err, err)
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// fewestDescriptors is how many a process may need before it can say that it has
// too few: Go's runtime ends a process that can't make its poller.
const fewestDescriptors = 16

func enoughDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Max < fewestDescriptors {
		return fmt.Errorf("this process may have %d descriptors; it needs %d at least (ulimit -n)", limit.Max, fewestDescriptors)
	}
	return nil
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
	beStrict(root)
	return root
}

// beStrict makes the commands that cobra adds refuse what they do not know, as
// all others do.
func beStrict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				of, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return usagef("there is no command %q to help with", strings.Join(args, " "))
				}
				of.InitDefaultHelpFlag() // so that it is listed
				return of.Help()
			}
		case "completion":
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return info.Main.Version
}
