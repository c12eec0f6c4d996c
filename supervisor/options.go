package supervisor

import (
	"fmt"
	"log/slog"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
)

// MaxBuses is the most buses of one supervisor (R3.1).
const MaxBuses = 256

// Options say what a supervisor is to do. The zero value is one bus for the own user at the default socket.
type Options struct {
	// Socket is the path to listen at; "" is control.DefaultSocket(). Its
	// directory is made if it is missing. Beside it stand a lock and a state file,
	// named SOCKET.lock and SOCKET.state.
	Socket string
	// Buses is the number of buses at the start, 0 to 256; 0 is 1.
	Buses int
	// Bus is the size of each new bus; the zero value is ring's defaults.
	Bus ring.Config
	// MaxRegionBytes is the most memory that the region of a bus may take whose
	// size a Ksock's owner asks for; 0 is 1 GiB, or what Bus needs if that is more.
	MaxRegionBytes int64
	// AllowUsers and AllowGroups are the numbers of further users, and of groups
	// (also supplementary ones), that are admitted. Without any, only the
	// supervisor's own user is.
	AllowUsers, AllowGroups []uint32
	// KsocksPerUser and BindingsPerUser are the most that one user may have on all
	// buses together. 0: the supervisor's own user may have what the buses hold,
	// any other 128 Ksocks and 4096 bindings.
	KsocksPerUser, BindingsPerUser int
	// Systemd makes the supervisor take the socket and the regions that systemd
	// hands it, if it does, and report to it (sd_notify, descriptor store).
	Systemd bool
	// Logger gets what happens to buses and Ksocks, never to messages; nil discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Socket == "" {
		o.Socket = control.DefaultSocket()
	}
	if o.Buses == 0 {
		o.Buses = 1
	}
	if o.Buses < 0 || o.Buses > MaxBuses {
		return o, fmt.Errorf("supervisor: %d buses, possible are 1 to %d: %w", o.Buses, MaxBuses, unix.EINVAL)
	}
	if o.KsocksPerUser < 0 || o.BindingsPerUser < 0 || o.MaxRegionBytes < 0 {
		return o, fmt.Errorf("supervisor: a limit below 0: %w", unix.EINVAL)
	}
	size, err := o.Bus.RegionSize()
	if err != nil {
		return o, fmt.Errorf("supervisor: size of a bus: %w (%w)", err, unix.EINVAL)
	}
	if o.MaxRegionBytes == 0 {
		o.MaxRegionBytes = max(1<<30, size)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// open tells whether the supervisor admits others than its own user.
func (o *Options) open() bool { return len(o.AllowUsers) > 0 || len(o.AllowGroups) > 0 }

// admits decides by peer credentials.
func (o *Options) admits(uid, gid uint32, groups []uint32) bool {
	if uid == uint32(os.Geteuid()) || slices.Contains(o.AllowUsers, uid) || slices.Contains(o.AllowGroups, gid) {
		return true
	}
	return slices.ContainsFunc(groups, func(g uint32) bool { return slices.Contains(o.AllowGroups, g) })
}

// What another user than the supervisor's own may have where Options say nothing.
const (
	guestKsocks   = 128
	guestBindings = 4096
)

// quota is the most that uid may have; 0 is no limit.
func quota(set, guest int, uid uint32) int {
	switch {
	case set > 0:
		return set
	case uid == uint32(os.Geteuid()):
		return 0
	}
	return guest
}
