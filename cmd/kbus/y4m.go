package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbus.internal/cmd/internal/y4m"
)

func y4mCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "y4m",
		Short: "Send and receive uncompressed video (YUV4MPEG2)",
		Long: `Send and receive uncompressed video in the form YUV4MPEG2, which ffmpeg and the
mjpegtools read and write. Each frame is one message, read from the pipe
straight into the memory of the bus, and written from there.`,
		Example: `  ffmpeg -i film.mkv -f yuv4mpegpipe - | kbus y4m send '$.Film'
  kbus y4m receive '$.Film' >film.y4m
  kbus y4m receive '$.Film' | ffplay -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(y4mSendCommand(), y4mReceiveCommand())
	return cmd
}

func y4mSendCommand() *cobra.Command {
	var (
		bus  where
		rate string
		fast bool
	)
	cmd := &cobra.Command{
		Use:   "send NAME",
		Short: "Send YUV4MPEG2 from standard input, like a live source",
		Long: `Send the YUV4MPEG2 on standard input, one message for each frame, at the stream's
own rate like a live source: a Listener that is not quick enough misses frames.
With --fast nothing is missed instead: the sender does not keep to a rate, and
waits for the slowest Listener.

One sender at a time can use a NAME: it is the Replier of NAME.End, by which
receivers learn of the end.`,
		Example: `  ffmpeg -i film.mkv -f yuv4mpegpipe - | kbus y4m send '$.Film'
  kbus y4m send '$.Film' --rate 30000/1001 <film.y4m
  kbus y4m send '$.Film' --fast <film.y4m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: bus.completeNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s := &videoSender{name: args[0], fast: fast}
			if rate != "" {
				var err error
				if s.rate, err = y4m.ParseRate(rate); err != nil {
					return usageError{err}
				}
			}
			var err error
			if s.k, err = bus.open(ctx, false); err != nil {
				return err
			}
			defer s.k.Close()
			growPipe(os.Stdin)
			return s.run(ctx, os.Stdin)
		},
	}
	bus.addBusFlags(cmd)
	cmd.Flags().StringVar(&rate, "rate", "", "frames a second (`FPS`), such as 25, 29.97 or 30000/1001 (default: the stream's own)")
	cmd.Flags().BoolVar(&fast, "fast", false, "keep to no rate, and wait for the slowest Listener")
	cmd.MarkFlagsMutuallyExclusive("rate", "fast")
	return cmd
}

func y4mReceiveCommand() *cobra.Command {
	var bus where
	cmd := &cobra.Command{
		Use:   "receive NAME",
		Short: "Write the YUV4MPEG2 that is sent to standard output",
		Long: `Write the video that is sent under NAME to standard output as YUV4MPEG2, and end
when it ends. Started in the middle, it begins with the next frame; started
before, it waits.

At the end it says how many frames it received and missed, and exits with 1 if
it missed any, or if the sender went away without ending the stream.`,
		Example: `  kbus y4m receive '$.Film' >film.y4m
  kbus y4m receive '$.Film' | ffplay -`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: bus.completeNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			r := &videoReceiver{name: args[0], out: cmd.OutOrStdout()}
			var err error
			if r.k, err = bus.open(ctx, false); err != nil {
				return err
			}
			defer r.k.Close()
			growPipe(os.Stdout)
			return r.run(ctx)
		},
	}
	bus.addBusFlags(cmd)
	return cmd
}

// growPipe lets more of a frame through a pipe at a time; it is no harm if it
// cannot, or if f is none.
func growPipe(f *os.File) {
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, 1<<20)
}

// untilInterrupted runs fn, which ends with ctx as far as it can. When ctx has
// ended and fn, stuck in reading or writing a file, has not, it is left behind:
// the process is about to exit.
func untilInterrupted(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(200 * time.Millisecond)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		return context.Cause(ctx)
	}
}

// inputError explains an error of the YUV4MPEG2 on standard input.
func inputError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("standard input is empty; a YUV4MPEG2 stream was to come (ffmpeg -i FILE -f yuv4mpegpipe -)")
	case errors.Is(err, y4m.ErrFormat):
		return fmt.Errorf("standard input: %w", err)
	}
	return fmt.Errorf("read standard input: %w", err)
}
