package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kbus.internal/supervisor"
)

func upCommand() *cobra.Command {
	var (
		at            where
		o             = supervisor.Options{Systemd: true}
		buses         int
		arena         sizeFlag = 1 << 30
		message       sizeFlag
		users, groups []string
		verbose       bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a supervisor and its buses",
		Long: `Run a supervisor and its buses until Ctrl-C or SIGTERM, and print "ready" when
Ksocks can be opened.

Only this user is admitted unless others are allowed. If it is killed, the buses
go on without it; started again at the same socket, it takes them over. Under
systemd it takes the socket that systemd listens on, reports when it is ready,
and leaves its buses in systemd's keeping.`,
		Example: `  kbus up
  kbus up --socket /run/user/1000/my.socket --buses 4
  kbus up --arena 2G --max-message 64M
  kbus up --socket /run/kbus/socket --allow-group video`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if buses < 1 || buses > supervisor.MaxBuses {
				return usagef("--buses %d: possible are 1 to %d", buses, supervisor.MaxBuses)
			}
			o.Socket, o.Buses = at.path(), buses
			o.Bus.ArenaBytes = int64(arena)
			if message > 1<<30 {
				return usagef("--max-message %d: at most 1G", message)
			}
			o.Bus.MaxMessageSize = uint32(message)
			if _, err := o.Bus.RegionSize(); err != nil {
				return usagef("%s", sizeFlags.Replace(err.Error()))
			}
			if o.KsocksPerUser < 0 || o.BindingsPerUser < 0 {
				return usagef("--ksocks-per-user %d, --bindings-per-user %d: neither can be negative", o.KsocksPerUser, o.BindingsPerUser)
			}
			var err error
			if o.AllowUsers, err = lookUp("user", users, userNumber); err != nil {
				return err
			}
			if o.AllowGroups, err = lookUp("group", groups, groupNumber); err != nil {
				return err
			}
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelInfo
			}
			o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			s, err := supervisor.Start(o)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), "ready"); err != nil {
				s.Close()
				return err
			}
			ended := make(chan error, 1)
			go func() { ended <- s.Wait() }()
			select {
			case err := <-ended:
				s.Close()
				return err
			case <-ctx.Done():
				return s.Close()
			}
		},
	}
	at.addSocketFlag(cmd)
	f := cmd.Flags()
	f.IntVar(&buses, "buses", 1, "`N`, how many buses to start with; they are numbered from 0")
	f.Var(&arena, "arena", "memory for the messages of each bus, such as 512M; it is taken as it is used")
	f.Var(&message, "max-message", "largest message, with its header and name (default 16M)")
	f.IntVar(&o.Bus.MaxKsocks, "max-ksocks", 0, "`most` Ksocks on each bus, to 4095 (default 256)")
	f.StringSliceVar(&users, "allow-user", nil, "admit this `USER`, too (name or number; may be repeated)")
	f.StringSliceVar(&groups, "allow-group", nil, "admit this `GROUP`'s users, too (name or number; may be repeated)")
	f.IntVar(&o.KsocksPerUser, "ksocks-per-user", 0, "`most` Ksocks of one user, on all buses (default: no limit, 128 for other users)")
	f.IntVar(&o.BindingsPerUser, "bindings-per-user", 0, "`most` bindings of one user, on all buses (default: no limit, 4096 for other users)")
	f.BoolVarP(&verbose, "verbose", "v", false, "log on standard error what happens to buses and Ksocks, not only what goes wrong")
	return cmd
}

// sizeFlag is a number of bytes, written such as 512M.
type sizeFlag uint64

func (s *sizeFlag) Type() string { return "size" }

func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return bytesText(uint64(*s))
}

func (s *sizeFlag) Set(text string) error {
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I")
	shift := 0
	if i := len(number) - 1; i > 0 {
		if unit := strings.IndexByte("KMGT", number[i]); unit >= 0 {
			number, shift = number[:i], 10*(unit+1)
		}
	}
	n, err := strconv.ParseUint(number, 10, 62)
	if err != nil || n == 0 || n > 1<<62>>shift {
		return fmt.Errorf("%q is not a size such as 65536, 512K, 64M or 2G", text)
	}
	*s = sizeFlag(n << shift)
	return nil
}

// sizeFlags puts flags for what the size of a bus is called where it is checked.
var sizeFlags = strings.NewReplacer("ring: ", "", "ArenaBytes", "--arena", "MaxMessageSize", "--max-message", "MaxKsocks", "--max-ksocks")

// lookUp makes numbers of names.
func lookUp(what string, names []string, number func(string) (string, error)) ([]uint32, error) {
	var list []uint32
	if names != nil && len(names) == 0 {
		return nil, usagef("--allow-%s: the name is empty", what)
	}
	for _, name := range names {
		text := name
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			if text, err = number(name); err != nil {
				return nil, usagef("--allow-%s: %w", what, err)
			}
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, usagef("--allow-%s %s: %w", what, name, err)
		}
		list = append(list, uint32(n))
	}
	return list, nil
}

func userNumber(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupNumber(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}
