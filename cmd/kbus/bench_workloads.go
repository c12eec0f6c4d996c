package main

import (
	"github.com/spf13/cobra"

	"kbus.internal/bench"
)

// The workloads of kbus bench.

func benchFloorCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "floor",
		Short: "What the machine can do without a bus",
		Long: `Measure the round trip between two processes without a bus: of a cache line that
both spin on (--wait spin), or of a futex that each sleeps on (--wait sleep). Then
a copy of --size bytes into memory that processes share, and a bare ring with one
producer and --listeners readers that loses nothing.`,
		Example: `  kbus bench floor --wait spin --pin 0,1 --seconds 5 --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Floor)
		},
	}
	f.addTo(cmd, "in all: half of it for the round trip")
	f.addWait(cmd, "spin or sleep", bench.Spin)
	f.addSize(cmd)
	f.addListeners(cmd, "how many readers the ring has")
	return cmd
}

func benchRTTCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "rtt",
		Short: "Round trip of a Request and its Reply",
		Long: `Measure the round trip of a Request and its Reply between two processes, or of
those of --askers processes to one Replier. Both messages carry --size bytes, which
are used in place and not touched but for the first and last eight; with
--in-place=false they are copied in and out.`,
		Example: `  kbus bench rtt --size 64 --wait spin --pin 0,1 --seconds 5 --json
  kbus bench rtt --size 3M --wait sleep
  kbus bench rtt --askers 4 --busy 2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.RTT)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	cmd.Flags().IntVar(&f.o.Senders, "askers", 1, "`N`, how many processes ask")
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchOneWayCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "oneway",
		Short: "The way of a message from one process to another",
		Long: `Measure how long an announcement is on its way from one process to another, by a
clock that both share. --rate messages are sent a second, at fixed times. A time
begins when the message was to be sent, whenever it really was: a delay counts for
each message that it made late (coordinated omission). "since sent" is without that.`,
		Example: `  kbus bench oneway --rate 100000 --wait spin --pin 0,1
  kbus bench oneway --rate 1000 --wait sleep --size 4K`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.OneWay)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	f.addRate(cmd, 10_000, "messages a second; 0: as fast as they go, and a time is mostly spent in the queue")
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchPipelineCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "pipeline",
		Short: "The way of a message through several processes",
		Long: `Measure how long an announcement is on its way from one process through --stages
others to the last. Each stage reads a message in place, fills one of its own in
place, and sends that on. With --rate 0 messages are sent as fast as they are
taken: then the rate is what counts, and a time is mostly spent in queues.`,
		Example: `  kbus bench pipeline --stages 4 --size 3M
  kbus bench pipeline --stages 4 --size 3M --rate 1000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.OneWay)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	cmd.Flags().IntVar(&f.o.Stages, "stages", 4, "`N`, how many processes are between the first and the last")
	f.addRate(cmd, 0, "messages a second; 0: as fast as they go")
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchMixCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "mix",
		Short: "A Listener beside others that do not keep up",
		Long: `Measure, as oneway does, the way of announcements to a Listener, beside --slow
Listeners that need 10 ms for each message and --stopped ones that are stopped by
SIGSTOP; and before that alone, for half of the time each. Nobody waits for
them: their queues are full, and stay so.`,
		Example: `  kbus bench mix --stopped 1 --slow 1 --wait spin --pin 0,1
  kbus bench mix --stopped 8 --rate 1000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Mix)
		},
	}
	f.addTo(cmd, "of the measurement: half of it alone, each after a tenth to warm up")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	cmd.Flags().IntVar(&f.o.Slow, "slow", 0, "`N`, how many Listeners are slow")
	cmd.Flags().IntVar(&f.o.Stopped, "stopped", 1, "`N`, how many Listeners are stopped")
	f.addRate(cmd, 10_000, "messages a second")
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchFanCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "fan",
		Short: "Announcements to many Listeners, or of many senders",
		Long: `Measure how many announcements a second --senders processes, together, get to each
of --listeners processes. Senders wait for the slowest, so none may be missed.`,
		Example: `  kbus bench fan --size 64 --listeners 8 --seconds 5 --json
  kbus bench fan --size 3M --listeners 8
  kbus bench fan --senders 4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Fan)
		},
	}
	f.addTo(cmd, "of sending")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	f.addSize(cmd)
	f.addListeners(cmd, "how many processes listen")
	cmd.Flags().IntVar(&f.o.Senders, "senders", 1, "`N`, how many processes send")
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchSendCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "send",
		Short: "Send alone, and receive alone",
		Long: `Measure sending an announcement to one Listener, and receiving it, each by itself,
in one process that has the bus for itself.`,
		Example: `  kbus bench send --pin 0
  kbus bench send --bindings 10000
  kbus bench send --ksocks 256`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Send)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addSize(cmd)
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchLocalCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Send and receive in one process",
		Long: `Measure sending an announcement and receiving it, by turns in one process that has
the bus for itself.`,
		Example: `  kbus bench local --size 64 --pin 0`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Local)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addSize(cmd)
	f.addInPlace(cmd)
	f.addBesides(cmd)
	return cmd
}

func benchOpenCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:     "open",
		Short:   "Open and close Ksocks",
		Long:    `Measure opening a Ksock and closing it, in a process that has no other.`,
		Example: `  kbus bench open --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Open)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addBesides(cmd)
	return cmd
}

func benchBindCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bind",
		Short: "Bind and unbind",
		Long:  `Measure binding a Ksock to a name as Listener, and unbinding it.`,
		Example: `  kbus bench bind --json
  kbus bench bind --bindings 10000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Bind)
		},
	}
	f.addTo(cmd, "of the measurement, after a tenth of it to warm up")
	f.addBesides(cmd)
	return cmd
}

func benchRestCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "rest",
		Short: "What a bus costs while nobody uses it",
		Long: `Measure the memory of a bus and of its supervisor, and the CPU time that the
supervisor takes, while one Listener waits and nothing is sent.`,
		Example: `  kbus bench rest --seconds 10`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload(cmd, &f, bench.Rest)
		},
	}
	f.addTo(cmd, "of looking on")
	f.addWait(cmd, "spin, sleep (at once), or adaptive (spin, then sleep)", bench.Adaptive)
	return cmd
}
