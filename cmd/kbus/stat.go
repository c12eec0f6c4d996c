package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
)

// stats is what the supervisor tells about the bus that --bus names, or about
// all if it was not given. It needs no Ksock: looking changes nothing that it
// looks at.
func (w *where) stats(cmd *cobra.Command) ([]ksock.BusStats, error) {
	var buses []int
	if cmd.Flags().Changed("bus") {
		if err := w.check(); err != nil {
			return nil, err
		}
		buses = append(buses, w.bus)
	}
	return ksock.Stats(cmd.Context(), w.path(), buses...)
}

type busJSON struct {
	Bus            uint32      `json:"bus"`
	MaxKsocks      uint32      `json:"max_ksocks"`
	Bindings       int         `json:"bindings"`
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

	Limpet *limpet.Stats `json:"limpet,omitempty"`
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
its queue, and the BYTES that those of 4 KiB and more take; the messages that it SENT, that it
RECEIVED (read), and that it MISSED because it had no room; its own Requests
that nobody has answered yet (ASKED), and the Requests that it has read and must
answer (OWES). A read-only Ksock has an r behind its id.

For each Limpet of this user also its link and what has passed over it, the
Requests that wait for answers from the other side, and the names that it proxies.`,
		Example: `  kbus stat
  kbus stat --json | jq '.[].ksocks[] | select(.missed > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			buses, err := bus.stats(cmd)
			if err != nil {
				return err
			}
			out := make([]busJSON, 0, len(buses))
			for _, b := range buses {
				j := busJSON{
					Bus: b.Bus, MaxKsocks: b.MaxKsocks, Bindings: len(b.Bindings), MessageSize: b.MessageSize, MaxMessageSize: b.MaxMessageSize,
					Reports: b.Reports, ArenaBytes: b.ArenaBytes, ArenaUsed: b.ArenaUsed, Messages: b.Messages, Ksocks: make([]ksockJSON, 0, len(b.Ksocks)),
				}
				for _, k := range b.Ksocks {
					j.Ksocks = append(j.Ksocks, ksockJSON{
						Ksock: k.Ksock, PID: k.PID, UID: k.UID, Command: k.Command, ReadOnly: k.ReadOnly, Unread: k.Unread, MaxMessages: k.MaxMessages,
						QueuedBytes: k.Bytes, Sent: k.Sent, Received: k.Received, Missed: k.Missed, Outstanding: k.Outstanding, Unreplied: k.Unreplied,
					})
				}
				out = append(out, j)
			}
			addLimpets(out)
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
			plural(b.Bindings, "binding"), bytesText(uint64(b.MessageSize)), bytesText(b.ArenaUsed), bytesText(b.ArenaBytes))
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
				bytesText(k.QueuedBytes), k.Sent, k.Received, k.Missed, k.Outstanding, k.Unreplied, oneLine(k.Command))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, k := range b.Ksocks {
			if k.Limpet != nil {
				printLimpet(w, &k)
			}
		}
	}
	return nil
}

// oneLine makes a process's own name for itself fit for a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
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
	for f >= 1023.95 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%s %ciB", strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0"), units[unit])
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
			buses, err := bus.stats(cmd)
			if err != nil {
				return err
			}
			out := []bindingJSON{}
			for _, b := range buses {
				for _, r := range b.Bindings {
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
