// Command peers compares a bus with libraries by which processes send each other
// messages, and with what Linux and Go have for it: see README.md. It is a module of its own,
// so that nobody who uses the bus gets these libraries.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/bench"
)

// libraries are the peers of this module.
func libraries() []bench.Peer {
	return []bench.Peer{zeroMQPeer(), mangosPeer(), natsPeer(), dbusPeer(), grpcPeer(), shmipcPeer()}
}

func main() {
	if slices.Equal(os.Args[1:], []string{"bench", "child"}) {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// child is a process of a workload. Its reports go to its standard output, which
// some libraries write words to: these go to standard error.
func child() error {
	out, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return err
	}
	return bench.Child(os.Stdin, os.NewFile(uintptr(out), "reports"), libraries()...)
}

func run(ctx context.Context, args []string, out, words io.Writer) int {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(words)
	all := append(bench.Peers(), libraries()...)
	flags.Usage = func() {
		fmt.Fprintf(words, "Compare a bus with other ways for processes to send messages:\n\n")
		for _, p := range all {
			fmt.Fprintf(words, "  %-15s %s\n", p.Name, p.About)
		}
		fmt.Fprintf(words, "\nUsage of peers:\n")
		flags.PrintDefaults()
	}
	seconds := flags.Float64("seconds", 0.3, "`time` of each run, after a tenth of it to warm up")
	rounds := flags.Int("rounds", 3, "`times` that all is run")
	asJSON := flags.Bool("json", false, "print one JSON object")
	wait := flags.String("wait", "spin,sleep", "`how` to wait, one after the other, for those that can be told: spin, sleep, adaptive")
	only := flags.String("only", "", "`names` of the peers to be measured, with commas; libraries for all that are not in kbus bench peers")
	pin := flags.String("pin", "", "`CPUs` for the processes in turn, such as 0,1; none for the scheduler's choice (default: the first two)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	o, chosen, err := options(all, *seconds, *only, *pin)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is not understood", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(words, "peers: %v\n", err)
		return 2
	}
	var waits []bench.Wait
	for _, w := range strings.Split(*wait, ",") {
		waits = append(waits, bench.Wait(w))
	}
	report, err := bench.Compare(ctx, o, *rounds, waits, chosen, func(text string) { fmt.Fprintln(words, text) })
	switch {
	case errors.Is(err, bench.ErrOptions):
		fmt.Fprintf(words, "peers: %v\n", err)
		return 2
	case err != nil && ctx.Err() != nil:
		err = errors.New("interrupted: no result")
	case err == nil && *asJSON:
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	case err == nil:
		err = report.WriteComparison(out)
	}
	if err != nil {
		fmt.Fprintf(words, "peers: %v\n", err)
		return 1
	}
	return 0
}

func options(all []bench.Peer, seconds float64, only, pin string) (o bench.Options, chosen []bench.Peer, err error) {
	if !(seconds > 0 && seconds <= 24*60*60) {
		return o, nil, fmt.Errorf("--seconds %v: more than 0, and at most a day", seconds)
	}
	o.Duration = max(time.Duration(seconds*float64(time.Second)), 1)
	switch pin {
	case "":
		cpus, err := bench.AllowedCPUs()
		if err != nil {
			return o, nil, err
		}
		if len(cpus) > 1 {
			o.Pin = cpus[:2]
		}
	case "none":
	default:
		for _, text := range strings.Split(pin, ",") {
			cpu, err := strconv.Atoi(text)
			if err != nil {
				return o, nil, fmt.Errorf("--pin: %q is not the number of a CPU", text)
			}
			o.Pin = append(o.Pin, cpu)
		}
	}
	var names []string
	switch only {
	case "":
	case "libraries":
		return o, libraries(), nil
	default:
		names = strings.Split(only, ",")
	}
	chosen, err = bench.Choose(all, names)
	return o, chosen, err
}

// echo makes the function that a server calls with each message, and that gives
// back the answer, and waits until an empty message came. Servers of libraries
// call it one message after the other, as only one process asks.
type echo struct {
	messages int64
	over     chan struct{}
}

func newEcho() *echo { return &echo{over: make(chan struct{})} }

func (e *echo) answer(message []byte) []byte {
	if len(message) == 0 {
		close(e.over)
	} else {
		e.messages++
	}
	return message
}
