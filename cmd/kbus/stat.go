package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kbus.internal/ring/control"
)

// inspector asks a supervisor about its buses, without a Ksock of its own, so
// that looking changes nothing that it looks at.
type inspector struct{ conn *control.Conn }

func inspect(ctx context.Context, w *where) (*inspector, error) {
	conn, err := control.Dial(ctx, w.path())
	if err != nil {
		return nil, err
	}
	return &inspector{conn}, nil
}

func (i *inspector) close() { i.conn.Close() }

// pages asks for all pages of an answer and hands each to take.
func (i *inspector) pages(ctx context.Context, op control.Op, bus uint32, take func(*control.Answer)) error {
	for from := uint32(0); ; {
		answer, file, err := i.conn.Call(ctx, &control.Request{Op: op, Bus: bus, From: from}, nil)
		if err != nil {
			return fmt.Errorf("ask for %v: %w", op, err)
		}
		if file != nil {
			file.Close()
		}
		take(answer)
		if answer.Next == 0 {
			return nil
		}
		if answer.Next <= from {
			return fmt.Errorf("ask for %v: the supervisor's pages go round in circles", op)
		}
		from = answer.Next
	}
}

func (i *inspector) buses(ctx context.Context) (list []control.BusInfo, err error) {
	err = i.pages(ctx, control.OpBuses, 0, func(a *control.Answer) { list = append(list, a.Buses...) })
	return list, err
}

func (i *inspector) ksocks(ctx context.Context, bus uint32) (list []control.KsockInfo, err error) {
	err = i.pages(ctx, control.OpKsocks, bus, func(a *control.Answer) { list = append(list, a.Ksocks...) })
	return list, err
}

func (i *inspector) bindings(ctx context.Context, bus uint32) (list []control.BindingInfo, err error) {
	err = i.pages(ctx, control.OpBindings, bus, func(a *control.Answer) { list = append(list, a.Bindings...) })
	return list, err
}

// chosen is the buses that --bus names: all, unless it was given.
func (i *inspector) chosen(cmd *cobra.Command, w *where) ([]control.BusInfo, error) {
	all, err := i.buses(cmd.Context())
	if err != nil || !cmd.Flags().Changed("bus") {
		return all, err
	}
	for _, b := range all {
		if int(b.Bus) == w.bus {
			return []control.BusInfo{b}, nil
		}
	}
	return nil, fmt.Errorf("there is no bus %d (kbus stat lists the buses there are)", w.bus)
}

type busJSON struct {
	Bus            uint32      `json:"bus"`
	MaxKsocks      uint32      `json:"max_ksocks"`
	Bindings       uint32      `json:"bindings"`
	MessageSize    uint32      `json:"message_size"`
	MaxMessageSize uint32      `json:"max_message_size"`
	Reports        bool        `json:"reports"`
	ArenaBytes     uint64      `json:"arena_bytes"`
	ArenaUsed      uint64      `json:"arena_used"`
	Messages       uint64      `json:"log_entries"`
	Ksocks         []ksockJSON `json:"ksocks"`
}

type ksockJSON struct {
	Ksock       uint32 `json:"ksock"`
	PID         uint32 `json:"pid"`
	UID         uint32 `json:"uid"`
	Command     string `json:"command"`
	ReadOnly    bool   `json:"read_only"`
	Unread      uint32 `json:"unread"`
	MaxMessages uint32 `json:"max_messages"`
	QueuedBytes uint64 `json:"queued_bytes"`
	Sent        uint64 `json:"sent"`
	Received    uint64 `json:"received"`
	Missed      uint64 `json:"missed"`
	Outstanding uint32 `json:"outstanding"`
	Unreplied   uint32 `json:"unreplied"`
}

func statCommand() *cobra.Command {
	var (
		bus    where
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Show the buses and their Ksocks",
		Long: `Show the buses and their Ksocks; with --bus only that one.

For each Ksock: its id, process and command; UNREAD of at most MAX messages in
its queue, and their BYTES; the messages it SENT, those delivered to its queue
that it RECEIVED, and those that it MISSED because it had no room; its own
Requests that nobody has answered yet (ASKED), and the Requests that it has read
and must answer (OWES). A read-only Ksock has an r behind its id.`,
		Example: `  kbus stat
  kbus stat --json | jq '.[].ksocks[] | select(.missed > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			i, err := inspect(ctx, &bus)
			if err != nil {
				return err
			}
			defer i.close()
			buses, err := i.chosen(cmd, &bus)
			if err != nil {
				return err
			}
			out := make([]busJSON, 0, len(buses))
			for _, b := range buses {
				ksocks, err := i.ksocks(ctx, b.Bus)
				if err != nil {
					return err
				}
				j := busJSON{
					Bus: b.Bus, MaxKsocks: b.MaxKsocks, Bindings: b.Bindings, MessageSize: b.MessageSize, MaxMessageSize: b.MaxMessageSize,
					Reports: b.Reports, ArenaBytes: b.ArenaBytes, ArenaUsed: b.ArenaUsed, Messages: b.Messages, Ksocks: make([]ksockJSON, 0, len(ksocks)),
				}
				for _, k := range ksocks {
					j.Ksocks = append(j.Ksocks, ksockJSON{
						Ksock: k.Ksock, PID: k.PID, UID: k.UID, Command: k.Command, ReadOnly: k.ReadOnly, Unread: k.Unread, MaxMessages: k.MaxMessages,
						QueuedBytes: k.Bytes, Sent: k.Sent, Received: k.Received, Missed: k.Missed, Outstanding: k.Outstanding, Unreplied: k.Unreplied,
					})
				}
				out = append(out, j)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), out)
			}
			return printStat(cmd.OutOrStdout(), out)
		},
	}
	bus.addBusFlags(cmd)
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func printStat(w io.Writer, buses []busJSON) error {
	for n, b := range buses {
		if n > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "bus %d: %s, %s, messages to %s, %s of %s in use", b.Bus, plural(len(b.Ksocks), "Ksock"),
			plural(int(b.Bindings), "binding"), bytesText(uint64(b.MessageSize)), bytesText(b.ArenaUsed), bytesText(b.ArenaBytes))
		if b.Reports {
			fmt.Fprint(w, ", reports Replier bindings")
		}
		fmt.Fprintln(w)
		if len(b.Ksocks) == 0 {
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "KSOCK\tPID\tUNREAD\tMAX\tBYTES\tSENT\tRECEIVED\tMISSED\tASKED\tOWES\t  COMMAND")
		for _, k := range b.Ksocks {
			mode := ""
			if k.ReadOnly {
				mode = "r"
			}
			fmt.Fprintf(t, "%d%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%d\t%d\t  %s\n", k.Ksock, mode, k.PID, k.Unread, k.MaxMessages,
				bytesText(k.QueuedBytes), k.Sent, k.Received, k.Missed, k.Outstanding, k.Unreplied, k.Command)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// bytesText writes a number of bytes with at most one decimal.
func bytesText(n uint64) string {
	const units = "KMGT"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	if f == float64(uint64(f)) {
		return fmt.Sprintf("%.0f %ciB", f, units[unit])
	}
	return fmt.Sprintf("%.1f %ciB", f, units[unit])
}

type bindingJSON struct {
	Bus   uint32 `json:"bus"`
	Ksock uint32 `json:"ksock"`
	Role  string `json:"role"`
	Name  string `json:"name"`
}

func bindingsCommand() *cobra.Command {
	var (
		bus    where
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "bindings",
		Short: "Show who is bound to which names",
		Long:  `Show who is bound to which names, as Replier or as Listener; with --bus only that bus's.`,
		Example: `  kbus bindings
  kbus bindings --json | jq -r '.[] | select(.role == "Replier") | .name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			i, err := inspect(ctx, &bus)
			if err != nil {
				return err
			}
			defer i.close()
			buses, err := i.chosen(cmd, &bus)
			if err != nil {
				return err
			}
			out := []bindingJSON{}
			for _, b := range buses {
				list, err := i.bindings(ctx, b.Bus)
				if err != nil {
					return err
				}
				for _, r := range list {
					role := "Listener"
					if r.Replier {
						role = "Replier"
					}
					out = append(out, bindingJSON{b.Bus, r.Ksock, role, r.Name})
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), out)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "BUS\tKSOCK\tROLE\tNAME")
			for _, r := range out {
				fmt.Fprintf(t, "%d\t%d\t%s\t%s\n", r.Bus, r.Ksock, r.Role, r.Name)
			}
			return t.Flush()
		},
	}
	bus.addBusFlags(cmd)
	addJSONFlag(cmd, &asJSON)
	return cmd
}
