package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// busMeanings says what an errno means to a bus (SPEC.md, sections 1 to 7).
var busMeanings = map[unix.Errno][]string{
	unix.EACCES: {
		"Opening: the supervisor does not admit this user. Whoever runs it can: kbus up --allow-user or --allow-group.",
	},
	unix.EADDRINUSE: {
		"Binding as Replier: the name has a Replier already, perhaps this very Ksock. There is at most one for each name.",
	},
	unix.EADDRNOTAVAIL: {
		"Sending a Request: nobody is bound as Replier for its name.",
		"Sending a Reply: the Ksock that asked is gone.",
	},
	unix.EAGAIN: {
		"Sending with ALL_OR_WAIT: a recipient has no room, so the message now waits in this Ksock until all have, or until it is discarded.",
		"Binding or unbinding a Replier: a Listener of $.KBUS.ReplierBindEvent has no room, and nothing was done; try again.",
	},
	unix.EALREADY: {
		"Sending: an ALL_OR_WAIT message of this Ksock is still waiting to go out; wait for it or discard it.",
	},
	unix.EBADF: {
		"Sending: the Ksock was opened for reading only.",
	},
	unix.EBADMSG: {
		"The message name is not valid: it is $. and words of ASCII letters and digits joined by single dots; a binding may end in the word * or %, a message may not.",
		"Binding as Replier: nobody may reply to $.KBUS.ReplierBindEvent.",
		"Binding or unbinding: the name is empty.",
	},
	unix.EBUSY: {
		"Sending a Request: its Replier's queue is full; a Request is never sent without its Replier.",
		"Sending a Reply: the asker's queue is over-full; the Reply is still owed and may be tried again.",
		"Sending with ALL_OR_FAIL: a recipient has no room, and nobody got the message.",
		"Switching on reports of Replier bindings: the events for the Repliers there are do not all fit in this Ksock's queue.",
	},
	unix.ECANCELED: {
		"Sending: while the message waited, somebody discarded it in the same Ksock.",
	},
	unix.ECONNREFUSED: {
		"Sending a Reply: the Request that it answers is not owed by this Ksock: not read yet, answered already, or another's.",
	},
	unix.EDQUOT: {
		"Opening or binding: this user has as many Ksocks or bindings as the supervisor allows to one user.",
	},
	unix.EINVAL: {
		"Sending: the name is empty, ALL_OR_WAIT and ALL_OR_FAIL are set together, or the message is Request and Reply at once.",
		"Unbinding: this Ksock has no binding with exactly that name and role.",
		"A limit, a switch or the number of a bus is out of range.",
	},
	unix.EIO: {
		"The bus's memory holds what no program of this version writes; the bus begins anew when its Ksocks have ended.",
	},
	unix.EMFILE: {
		"Opening: the supervisor or this process has no descriptor left (ulimit -n).",
	},
	unix.EMSGSIZE: {
		"Sending: the message is larger than the bus's limit.",
	},
	unix.ENAMETOOLONG: {
		"The message name has more than 1000 bytes.",
		"Asking for the Replier of a name: the name is empty or has more than 1000 bytes.",
	},
	unix.ENOBUFS: {
		"Receiving or lending in place: this Ksock holds a thousand messages already; release some.",
	},
	unix.ENOENT: {
		"Opening: there is no bus of that number.",
	},
	unix.ENOLCK: {
		"Sending a Request: the sender's own queue has no place left for the answer; read something first.",
	},
	unix.ENOMEM: {
		"Sending: the bus's memory for messages is used up for now.",
	},
	unix.ENOMSG: {
		"\"Send again\": no message is waiting to be sent.",
	},
	unix.ENOSPC: {
		"Binding: the bus has as many bindings as it was made for, which is 16,384.",
	},
	unix.EPIPE: {
		"Sending a Request with 'to' set: that Ksock is not, or no longer, the Replier for the message's name. Whoever counted on its state must begin anew.",
	},
	unix.EPROTONOSUPPORT: {
		"Opening: the supervisor and this program are of versions that do not fit together.",
	},
	unix.ESHUTDOWN: {
		"The supervisor is going down.",
	},
	unix.ESTALE: {
		"The supervisor, started anew, does not know this Ksock any more; open another.",
	},
	unix.EUSERS: {
		"Opening: as many Ksocks are open as the bus was made for (kbus up --max-ksocks).",
	},
}

type errnoInfo struct {
	Errno   int      `json:"errno"`
	Name    string   `json:"name"`
	General string   `json:"general"`
	Bus     []string `json:"bus"`
}

func describeErrno(e unix.Errno) errnoInfo {
	bus := busMeanings[e]
	if bus == nil {
		bus = []string{}
	}
	return errnoInfo{int(e), unix.ErrnoName(e), e.Error(), bus}
}

// parseErrno understands EPIPE, epipe, 32 and 0x20.
func parseErrno(s string) (unix.Errno, error) {
	if n, err := strconv.ParseUint(s, 0, 16); err == nil {
		if unix.ErrnoName(unix.Errno(n)) == "" {
			return 0, fmt.Errorf("there is no errno %s on this system", s)
		}
		return unix.Errno(n), nil
	}
	name := strings.ToUpper(s)
	for e := unix.Errno(1); e < 4096; e++ {
		if unix.ErrnoName(e) == name {
			return e, nil
		}
	}
	if name == "EWOULDBLOCK" {
		return unix.EAGAIN, nil
	}
	return 0, fmt.Errorf("there is no errno called %q; kbus errno lists those that a bus uses", s)
}

func errnoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "errno [ERRNO…]",
		Short: "Say what an errno means in general and to a bus",
		Long: `Say what an errno means in general and to a bus. It is given by name or by
number; without any, all those that a bus uses are listed.`,
		Example: `  kbus errno EPIPE
  kbus errno 32
  kbus errno --json | jq -r '.[].name'`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, e := range usedErrnos() {
				names = append(names, unix.ErrnoName(e)+"\t"+e.Error())
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			list := usedErrnos()
			if len(args) > 0 {
				list = nil
			}
			for _, arg := range args {
				e, err := parseErrno(arg)
				if err != nil {
					return usageError{err}
				}
				list = append(list, e)
			}
			infos := make([]errnoInfo, len(list))
			for i, e := range list {
				infos[i] = describeErrno(e)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), infos)
			}
			for i, info := range infos {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				info.print(cmd.OutOrStdout())
			}
			return nil
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func usedErrnos() []unix.Errno { return slices.Sorted(maps.Keys(busMeanings)) }

func (info errnoInfo) print(w io.Writer) {
	fmt.Fprintf(w, "Error %d (%#x) is %s: %s\n", info.Errno, info.Errno, info.Name, info.General)
	if len(info.Bus) == 0 {
		fmt.Fprintln(w, "KBUS: it has no meaning of its own to a bus.")
	}
	for _, meaning := range info.Bus {
		fmt.Fprintln(w, "KBUS: "+meaning)
	}
}
