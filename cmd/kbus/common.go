package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring/control"
	"kbus.internal/shm/handoff"
)

// where is the bus that a command works on.
type where struct {
	socket string
	bus    int
}

// addSocketFlag and addBusFlags add the flags by which commands find a
// supervisor, and a bus of it.
func (w *where) addSocketFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.socket, "socket", "", "`PATH` of the supervisor's socket (default $KBUS_SOCKET, else "+ksock.DefaultSocket()+")")
	_ = cmd.MarkFlagFilename("socket")
}

func (w *where) addBusFlags(cmd *cobra.Command) {
	w.addSocketFlag(cmd)
	cmd.Flags().IntVar(&w.bus, "bus", 0, "`number` of the bus")
}

// path is the socket that the flags, the environment and the default say.
func (w *where) path() string {
	if w.socket != "" {
		return w.socket
	}
	if path := os.Getenv("KBUS_SOCKET"); path != "" {
		return path
	}
	return ksock.DefaultSocket()
}

// check refuses a --bus that no bus can have.
func (w *where) check() error {
	if w.bus < 0 || w.bus > 255 {
		return usagef("--bus %d: buses are numbered 0 to 255", w.bus)
	}
	return nil
}

// open opens a Ksock for a command.
func (w *where) open(ctx context.Context, readOnly bool) (*ksock.Ksock, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	return ksock.Open(ctx, w.bus, &ksock.Options{Socket: w.path(), ReadOnly: readOnly})
}

// completeNames completes the first argument from the names that Ksocks are
// bound to; those of Repliers only if that is what the command needs.
func (w *where) completeNames(repliers bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		buses, err := ksock.Stats(ctx, w.path(), w.bus)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, b := range buses[0].Bindings {
			if b.Replier || !repliers {
				names = append(names, b.Name)
			}
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// explain adds to an error of a bus its errno, which kbus errno explains, and the
// way out if there is one.
func explain(err error) error {
	var op *ksock.Error
	isOp := errors.As(err, &op)
	hint := ""
	switch {
	case errors.Is(err, ksock.ErrNoSupervisor): // says it itself
	case errors.Is(err, handoff.ErrRunning):
		hint = "kbus stat asks it; kbus up --socket PATH starts another"
	case errors.Is(err, control.ErrFrame), errors.Is(err, control.ErrLost):
		hint = "is it a supervisor of this version that listens there? See --socket and KBUS_SOCKET"
	case errors.Is(err, unix.EMFILE):
		hint = "ulimit -n shows how many descriptors a process may have"
	case errors.Is(err, unix.ENOMEM) && (!isOp || op.Op == "open"):
		hint = "a process maps a bus as a whole: see ulimit -v; kbus up --arena SIZE makes smaller ones"
	case errors.Is(err, ksock.ErrNoBus):
		hint = "kbus stat lists the buses there are; kbus up --buses N makes N of them"
	case errors.Is(err, ksock.ErrNotAllowed):
		hint = "whoever runs the supervisor can admit others: kbus up --allow-user or --allow-group"
	case errors.Is(err, ksock.ErrNoReplier), errors.Is(err, ksock.ErrReplierExists):
		hint = "kbus bindings shows who replies to what"
	case errors.Is(err, ksock.ErrBadName) && !(isOp && op.Name == ksock.ReplierBindEvent):
		hint = "names look like $.Actor.Speak (quote the $ in a shell); bindings may end in .* or .%"
	case errors.Is(err, ksock.ErrTooLong):
		hint = "kbus up --max-message SIZE sets the limit of new buses"
	case errors.Is(err, ksock.ErrNoMemory):
		hint = "kbus stat shows whose queue holds it; kbus up --arena SIZE gives new buses more"
	}
	var errno unix.Errno
	if isOp && errors.As(err, &errno) {
		if name := unix.ErrnoName(errno); !strings.Contains(err.Error(), name) {
			err = fmt.Errorf("%w (%s)", err, name)
		}
	}
	if hint != "" {
		err = fmt.Errorf("%w\n(%s)", err, hint)
	}
	return err
}

func addJSONFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonMessage is a message as --json shows it: one object a line. Data that is
// not UTF-8 is in data_base64 instead.
type jsonMessage struct {
	ID         string  `json:"id"`
	Kind       string  `json:"kind"`
	Name       string  `json:"name"`
	From       uint32  `json:"from"`
	To         uint32  `json:"to,omitempty"`
	InReplyTo  string  `json:"in_reply_to,omitempty"`
	OrigFrom   string  `json:"orig_from,omitempty"`
	FinalTo    string  `json:"final_to,omitempty"`
	Flags      uint32  `json:"flags"`
	MustReply  bool    `json:"must_reply"`
	Data       *string `json:"data,omitempty"`
	DataBase64 []byte  `json:"data_base64,omitempty"`
}

func writeJSONMessage(w io.Writer, m *ksock.Message) error {
	j := jsonMessage{
		ID: pair(m.ID.Network, m.ID.Serial), Kind: m.Kind(), Name: m.Name, From: m.From, To: m.To,
		Flags: m.Flags, MustReply: m.MustReply(),
	}
	if m.IsReply() {
		j.InReplyTo = pair(m.InReplyTo.Network, m.InReplyTo.Serial)
	}
	if m.OrigFrom != (ksock.EndPoint{}) {
		j.OrigFrom = pair(m.OrigFrom.Network, m.OrigFrom.Ksock)
	}
	if m.FinalTo != (ksock.EndPoint{}) {
		j.FinalTo = pair(m.FinalTo.Network, m.FinalTo.Ksock)
	}
	if utf8.Valid(m.Data) {
		s := string(m.Data)
		j.Data = &s
	} else {
		j.DataBase64 = m.Data
	}
	e := json.NewEncoder(w) // one line
	e.SetEscapeHTML(false)
	return e.Encode(j)
}

func pair(a, b uint32) string { return fmt.Sprintf("%d:%d", a, b) }

// shown is how many bytes of data one line for people may take.
const shown = 4096

// writeLine writes a message as one line for people.
func writeLine(w io.Writer, m *ksock.Message) error {
	header := ksock.Message{Header: m.Header}
	line := header.String()
	switch {
	case len(m.Data) > shown:
		line += fmt.Sprintf(" %s… (%d bytes)", strconv.Quote(string(m.Data[:shown])), len(m.Data))
	case len(m.Data) > 0:
		line += " " + strconv.Quote(string(m.Data))
	}
	_, err := io.WriteString(w, line+"\n")
	return err
}

// readInput reads standard input to its end, or until ctx ends.
func readInput(ctx context.Context, in io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(in)
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("read standard input: %w", r.err)
		}
		return r.data, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// interrupted tells that err is only the end that Ctrl-C or SIGTERM asked for.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Canceled)
}
