package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbus.internal/limpet"
)

func limpetCommand() *cobra.Command {
	var (
		bus             where
		o               limpet.Options
		listen, connect string
		cert, key, ca   string
		insecure        bool
		verbosity       int
		asJSON          bool
	)
	cmd := &cobra.Command{
		Use:   "limpet",
		Short: "Join a bus to another one, here or on another machine",
		Long: `Join a bus to another one, here or on another machine: announcements, Requests
and Replies pass as if everybody were on the same bus. It takes a pair: one
Limpet on either bus, of which one listens and the other connects. It does not
matter which is started first, and when the link ends they connect again.

An ADDR is host:port, or the path of a Unix socket. Each Limpet needs a network
id of its own, and there must be one way only between two buses.

Whoever can connect is taken for a Limpet. So listening on anything but loopback
or a Unix socket needs certificates on both sides (--tls-cert, --tls-key and
--tls-ca, PEM files), or --insecure on a network where everybody is trusted.

It runs until Ctrl-C or SIGTERM, or until it reads the message --terminate.
kbus stat shows what it does.`,
		Example: `  kbus limpet --network-id 1 --listen /tmp/limpet &
  kbus limpet --network-id 2 --bus 3 --connect /tmp/limpet
  kbus limpet --network-id 1 --listen :7000 --tls-cert me.pem --tls-key me.key --tls-ca ca.pem
  kbus limpet --network-id 2 --connect far.example:7000 --tls-cert you.pem --tls-key you.key --tls-ca ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := bus.check(); err != nil {
				return err
			}
			if o.NetworkID == 0 {
				return usagef("--network-id: a number that no other Limpet of the network has, from 1 on")
			}
			if (listen == "") == (connect == "") {
				return usagef("give either --listen or --connect: one Limpet of a pair listens, the other connects")
			}
			if err := checkAddress("--listen", listen); err != nil {
				return err
			}
			if err := checkAddress("--connect", connect); err != nil {
				return err
			}
			if o.MaxMessages < 1 || o.MaxMessages > mostQueue {
				return usagef("--queue %d: possible are 1 to %d", o.MaxMessages, mostQueue)
			}
			if !isBinding(o.Name) {
				return usagef("--name %q: names look like $.Actor.Speak (quote the $ in a shell) and may end in .* or .%%", o.Name)
			}
			if o.Terminate != "" && !covers(o.Name, o.Terminate) {
				return usagef("--terminate %q: it would never be read, since --name %s does not match it", o.Terminate, o.Name)
			}
			if verbosity < 0 || verbosity > 2 {
				return usagef("--verbosity %d: possible are 0, 1 and 2", verbosity)
			}
			var t *tls.Config
			switch given := fmt.Sprint(cert != "", key != "", ca != ""); given {
			case "true true true":
				var err error
				if t, err = limpet.TLSConfig(cert, key, ca); err != nil {
					return err
				}
			case "false false false":
			default:
				return usagef("--tls-cert, --tls-key and --tls-ca go together: both sides have to prove who they are")
			}
			if listen != "" {
				if t == nil && !insecure && !private(listen) {
					return usagef(`--listen %s: anybody who can reach that address would be taken for a Limpet, and could
read and send everything on bus %d. Give certificates (--tls-cert, --tls-key, --tls-ca), or listen on
loopback or at the path of a Unix socket; or say --insecure if everybody there is trusted`, listen, bus.bus)
				}
				l, err := limpet.Listen(listen, t)
				if err != nil {
					return err
				}
				defer l.Close()
				o.Connect = l
			} else {
				o.Connect = limpet.Dial(connect, t)
			}
			o.Bus, o.Socket = bus.bus, bus.path()
			o.Logger = limpetLogger(cmd.OutOrStdout(), os.Stderr, verbosity, asJSON)
			l, err := limpet.New(o)
			if err != nil {
				return err
			}
			limpet.OwnProcess()
			stop, err := serveLimpetStats(l)
			if err != nil {
				o.Logger.Warn("kbus stat will not show this Limpet", "err", err)
			} else {
				defer stop()
			}
			return l.Run(cmd.Context())
		},
	}
	bus.addBusFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "wait at `ADDR` for the other Limpet")
	f.StringVar(&connect, "connect", "", "connect to the other Limpet at `ADDR`")
	f.Uint32Var(&o.NetworkID, "network-id", 0, "this Limpet's `ID`, different from all others in the network")
	f.StringVar(&o.Name, "name", "$.*", "pass on messages of this `NAME`, which may end in .* or .%; Requests for Repliers over there pass anyway")
	f.StringVar(&o.Terminate, "terminate", "", "end when this message `NAME` is read from the bus")
	f.Uint32Var(&o.MaxMessages, "queue", 1000, "the `most` messages that may wait for a slow link, 1 to 4096; what comes then is missed or refused")
	f.StringVar(&cert, "tls-cert", "", "this side's certificate, a PEM `FILE`")
	f.StringVar(&key, "tls-key", "", "its key, a PEM `FILE`")
	f.StringVar(&ca, "tls-ca", "", "the authority that has signed the other side's certificate, a PEM `FILE`")
	f.BoolVar(&insecure, "insecure", false, "listen without TLS where others can reach it")
	f.IntVarP(&verbosity, "verbosity", "v", 1, "0 says nothing, 1 what the Limpet does and what goes wrong, 2 every message, too")
	f.BoolVar(&asJSON, "json", false, "write what happens to standard output as JSON, one object a line")
	for _, name := range []string{"tls-cert", "tls-key", "tls-ca"} {
		_ = cmd.MarkFlagFilename(name)
	}
	return cmd
}

// mostQueue is the most messages that any queue of a bus holds.
const mostQueue = 4096

// checkAddress finds what can never be listened at, or connected to. A host whose port
// was forgotten would be taken for the name of a Unix socket.
func checkAddress(flag, addr string) error {
	if limpet.Network(addr) == "unix" {
		if host := strings.Trim(addr, "[]"); host == "localhost" || net.ParseIP(host) != nil {
			return usagef("%s %s: which port? An address is host:port, or the path of a Unix socket (./%[2]s)", flag, addr)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return usagef("%s %s: an address is host:port, or the path of a Unix socket: %w", flag, addr, err)
	}
	return nil
}

// private tells whether only processes of this machine can connect to addr.
func private(addr string) bool {
	if limpet.Network(addr) == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// isBinding tells whether a name can be bound to (R1.1, R1.2).
func isBinding(name string) bool {
	words, ok := strings.CutPrefix(name, "$.")
	if !ok || len(name) > 1000 {
		return false
	}
	list := strings.Split(words, ".")
	for i, w := range list {
		if i == len(list)-1 && (w == "*" || w == "%") {
			continue
		}
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			return false
		}
	}
	return true
}

// covers tells whether a binding takes messages of a name (R1.3).
func covers(binding, name string) bool {
	if strings.ContainsAny(name, "*%") || !isBinding(name) {
		return false
	}
	prefix, wild := strings.CutSuffix(binding, "*")
	if !wild {
		prefix, wild = strings.CutSuffix(binding, "%")
		if !wild {
			return binding == name
		}
		return strings.HasPrefix(name, prefix) && !strings.Contains(name[len(prefix):], ".")
	}
	return strings.HasPrefix(name, prefix) && len(name) > len(prefix)
}

func limpetLogger(out, err io.Writer, verbosity int, asJSON bool) *slog.Logger {
	level := [...]slog.Level{slog.LevelError + 100, slog.LevelInfo, slog.LevelDebug}[verbosity]
	if asJSON {
		return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(&lines{w: err, mu: new(sync.Mutex), level: level})
}

// lines is a slog handler for people: a line for each event.
type lines struct {
	w     io.Writer
	mu    *sync.Mutex
	level slog.Level
	with  string
}

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("limpet: ")
	if r.Level >= slog.LevelWarn {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(r.Message)
	b.WriteString(l.with)
	r.Attrs(func(a slog.Attr) bool { b.WriteString(attr(a)); return true })
	b.WriteByte('\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := io.WriteString(l.w, b.String())
	return err
}

func attr(a slog.Attr) string {
	text := a.Value.String()
	switch a.Key {
	case "err":
		return ": " + text
	case "message":
		return " " + text
	}
	return fmt.Sprintf(", %s %s", strings.ReplaceAll(a.Key, "_", " "), text)
}

func (l *lines) WithAttrs(list []slog.Attr) slog.Handler {
	n := *l
	for _, a := range list {
		n.with += attr(a)
	}
	return &n
}

func (l *lines) WithGroup(string) slog.Handler { return l }

// limpetSocket is where the Limpet in a process tells kbus stat how it stands: a name
// that needs no file, and is gone with the process.
func limpetSocket(pid int) string { return fmt.Sprintf("@kbus-limpet-%d", pid) }

const limpetStatTime = time.Second

// serveLimpetStats answers each connection of this user, or root, with the numbers.
func serveLimpetStats(l *limpet.Limpet) (stop func(), err error) {
	at, err := net.ListenUnix("unix", &net.UnixAddr{Name: limpetSocket(os.Getpid()), Net: "unix"})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := at.AcceptUnix()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(limpetStatTime))
			if uid, err := peerUser(c); err == nil && (uid == 0 || uid == os.Getuid()) {
				_ = json.NewEncoder(c).Encode(l.Stats()) // who asked sees that nothing came
			}
			_ = c.Close()
		}
	}()
	return func() { _ = at.Close() }, nil
}

func peerUser(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(cred.Uid), nil
}

// askLimpet asks a process whether it is a Limpet, and how it stands; nil if not.
func askLimpet(pid uint32) *limpet.Stats {
	c, err := net.DialTimeout("unix", limpetSocket(int(pid)), limpetStatTime)
	if err != nil {
		return nil
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limpetStatTime))
	var s limpet.Stats
	if json.NewDecoder(io.LimitReader(c, 16<<20)).Decode(&s) != nil {
		return nil
	}
	return &s
}

// addLimpets adds to the Ksocks of Limpets what these say.
func addLimpets(buses []busJSON) {
	asked := map[uint32]*limpet.Stats{}
	for i := range buses {
		for j := range buses[i].Ksocks {
			k := &buses[i].Ksocks[j]
			s, known := asked[k.PID]
			if !known {
				s = askLimpet(k.PID)
				asked[k.PID] = s
			}
			if s != nil && s.Ksock == k.Ksock && uint32(s.Bus) == buses[i].Bus {
				k.Limpet = s
			}
		}
	}
}

// printLimpet is a Limpet for people.
func printLimpet(w io.Writer, k *ksockJSON) {
	s := k.Limpet
	fmt.Fprintf(w, "Limpet at Ksock %d: network %d, ", k.Ksock, s.NetworkID)
	if s.Peer != 0 {
		fmt.Fprintf(w, "linked to network %d", s.Peer)
	} else {
		fmt.Fprint(w, oneLine(s.State))
	}
	fmt.Fprintf(w, " (%s); passes on %s\n", oneLine(s.Link), oneLine(s.Name))
	fmt.Fprintf(w, "  to the link %s, %s; from the link %s, %s; missed %d since it was linked, refused %d, looped %d\n",
		plural(int(s.FramesOut), "frame"), bytesText(s.BytesOut), plural(int(s.FramesIn), "frame"), bytesText(s.BytesIn), k.Missed, s.Refused, s.Looped)
	fmt.Fprintf(w, "  %s waiting for answers; reconnected %s\n", plural(s.Waiting, "Request"), plural(int(s.Reconnected), "time"))
	if s.ToBeBound > 0 {
		fmt.Fprintf(w, "  %s to be bound, or unbound, as soon as the bus allows it\n", plural(s.ToBeBound, "name"))
	}
	for _, l := range []struct {
		what  string
		names []string
	}{{"proxied", s.Proxied}, {"with a Replier on both sides", s.NamesTaken}} {
		if len(l.names) > 0 {
			fmt.Fprintf(w, "  %s: %s\n", l.what, oneLine(strings.Join(l.names, " ")))
		}
	}
}
