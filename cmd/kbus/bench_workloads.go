package main

import (
	"context"

	"github.com/spf13/cobra"

	"kbus.internal/bench"
)

// A benchWorkload is a sub-command of kbus bench that runs one workload.
type benchWorkload struct {
	use, short, long, example string
	seconds                   string // what --seconds is the time of
	flags                     func(*benchFlags, *cobra.Command)
	run                       func(context.Context, bench.Options) (*bench.Result, error)
}

func (w benchWorkload) command() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: w.use, Short: w.short, Long: w.long, Example: w.example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return workload(cmd, &f, w.run) },
	}
	f.addTo(cmd, w.seconds)
	w.flags(&f, cmd)
	return cmd
}

// What flags of several workloads say.
const (
	afterWarmUp = "of the measurement, after a tenth of it to warm up"
	anyWait     = "spin, sleep (at once), or adaptive (spin, then sleep)"
)

var benchWorkloads = []benchWorkload{
	{
		use:   "floor",
		short: "What the machine can do without a bus",
		long: `Measure the round trip between two processes without a bus: of a cache line that
both spin on (--wait spin), or of a futex that each sleeps on (--wait sleep). Then
a copy of --size bytes into memory that processes share, and a bare ring with one
producer and --listeners readers that loses nothing.`,
		example: `  kbus bench floor --wait spin --pin 0,1 --seconds 5 --json`,
		run:     bench.Floor,
		seconds: "in all: half of it for the round trip",
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, "spin or sleep", bench.Spin)
			f.addSize(cmd)
			f.addListeners(cmd, "how many readers the ring has")
		},
	},
	{
		use:   "rtt",
		short: "Round trip of a Request and its Reply",
		long: `Measure the round trip of a Request and its Reply between two processes, or of
those of --askers processes to one Replier. Both messages carry --size bytes, which
are used in place and not touched but for the first and last eight; with
--in-place=false they are copied in and out.`,
		example: `  kbus bench rtt --size 64 --wait spin --pin 0,1 --seconds 5 --json
  kbus bench rtt --size 3M --wait sleep
  kbus bench rtt --askers 4 --busy 2`,
		run:     bench.RTT,
		seconds: afterWarmUp,
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
			f.addSize(cmd)
			cmd.Flags().IntVar(&f.o.Senders, "askers", 1, "`N`, how many processes ask")
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "oneway",
		short: "The way of a message from one process to another",
		long: `Measure how long an announcement is on its way from one process to another, by a
clock that both share. --rate messages are sent a second, at fixed times. A time
begins when the message was to be sent, whenever it really was: a delay counts for
each message that it made late (coordinated omission). "since sent" is without that.`,
		example: `  kbus bench oneway --rate 100000 --wait spin --pin 0,1
  kbus bench oneway --rate 1000 --wait sleep --size 4K`,
		run:     bench.OneWay,
		seconds: afterWarmUp,
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
			f.addSize(cmd)
			f.addRate(cmd, 10_000, "messages a second; 0: as fast as they go, and a time is mostly spent in the queue")
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "pipeline",
		short: "The way of a message through several processes",
		long: `Measure how long an announcement is on its way from one process through --stages
others to the last. Each stage reads a message in place, fills one of its own in
place, and sends that on. With --rate 0 messages are sent as fast as they are
taken: then the rate is what counts, and a time is mostly spent in queues.`,
		example: `  kbus bench pipeline --stages 4 --size 3M
  kbus bench pipeline --stages 4 --size 3M --rate 1000`,
		run:     bench.OneWay,
		seconds: afterWarmUp,
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
			f.addSize(cmd)
			cmd.Flags().IntVar(&f.o.Stages, "stages", 4, "`N`, how many processes are between the first and the last")
			f.addRate(cmd, 0, "messages a second; 0: as fast as they go")
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "mix",
		short: "A Listener beside others that do not keep up",
		long: `Measure, as oneway does, the way of announcements to a Listener, beside --slow
Listeners that need 10 ms for each message and --stopped ones that are stopped by
SIGSTOP; and before that alone, for half of the time each. Nobody waits for
them: their queues are full, and stay so.`,
		example: `  kbus bench mix --stopped 1 --slow 1 --wait spin --pin 0,1
  kbus bench mix --stopped 8 --rate 1000`,
		run:     bench.Mix,
		seconds: "of the measurement: half of it alone, each after a tenth to warm up",
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
			f.addSize(cmd)
			cmd.Flags().IntVar(&f.o.Slow, "slow", 0, "`N`, how many Listeners are slow")
			cmd.Flags().IntVar(&f.o.Stopped, "stopped", 1, "`N`, how many Listeners are stopped")
			f.addRate(cmd, 10_000, "messages a second")
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "fan",
		short: "Announcements to many Listeners, or of many senders",
		long: `Measure how many announcements a second --senders processes, together, get to each
of --listeners processes. Senders wait for the slowest, so none may be missed.
With --batch they are sent, and taken, so many in one go.`,
		example: `  kbus bench fan --size 64 --listeners 8 --seconds 5 --json
  kbus bench fan --batch 64
  kbus bench fan --size 3M --listeners 8
  kbus bench fan --senders 4`,
		run:     bench.Fan,
		seconds: "of sending",
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
			f.addSize(cmd)
			f.addListeners(cmd, "how many processes listen")
			cmd.Flags().IntVar(&f.o.Senders, "senders", 1, "`N`, how many processes send")
			cmd.Flags().IntVar(&f.o.Batch, "batch", 1, "`N`, how many messages are sent in one go; more than 1 are copied in")
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "send",
		short: "Send alone, and receive alone",
		long: `Measure sending an announcement to one Listener, and receiving it, each by itself,
in one process that has the bus for itself.`,
		example: `  kbus bench send --pin 0
  kbus bench send --bindings 10000
  kbus bench send --ksocks 256`,
		run:     bench.Send,
		seconds: afterWarmUp,
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addSize(cmd)
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:   "local",
		short: "Send and receive in one process",
		long: `Measure sending an announcement and receiving it, by turns in one process that has
the bus for itself.`,
		example: `  kbus bench local --size 64 --pin 0`,
		run:     bench.Local,
		seconds: afterWarmUp,
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addSize(cmd)
			f.addInPlace(cmd)
			f.addBesides(cmd)
		},
	},
	{
		use:     "open",
		short:   "Open and close Ksocks",
		long:    `Measure opening a Ksock and closing it, in a process that has no other.`,
		example: `  kbus bench open --json`,
		run:     bench.Open,
		seconds: afterWarmUp,
		flags:   (*benchFlags).addBesides,
	},
	{
		use:   "bind",
		short: "Bind and unbind",
		long:  `Measure binding a Ksock to a name as Listener, and unbinding it.`,
		example: `  kbus bench bind --json
  kbus bench bind --bindings 10000`,
		run:     bench.Bind,
		seconds: afterWarmUp,
		flags:   (*benchFlags).addBesides,
	},
	{
		use:   "rest",
		short: "What a bus costs while nobody uses it",
		long: `Measure the memory of a bus and of its supervisor, and the CPU time that the
supervisor takes, while one Listener waits and nothing is sent.`,
		example: `  kbus bench rest --seconds 10`,
		run:     bench.Rest,
		seconds: "of looking on",
		flags: func(f *benchFlags, cmd *cobra.Command) {
			f.addWait(cmd, anyWait, bench.Adaptive)
		},
	},
}
