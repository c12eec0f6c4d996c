package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// systemd is the service manager, as far as it takes part: sd_listen_fds(3),
// sd_notify(3).
type systemd struct {
	to      *unix.SockaddrUnix // where notifications go; nil: nobody wants them
	socket  *os.File           // to listen at; nil: none was handed over
	regions map[int]*os.File   // of the descriptor store, by bus
	every   time.Duration      // how often the watchdog wants to hear; 0: never
}

const firstInherited = 3 // SD_LISTEN_FDS_START

// newSystemd reads what systemd left in the environment, and takes the
// descriptors that it handed over.
func newSystemd() (*systemd, error) {
	sd := &systemd{regions: map[int]*os.File{}}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		// x/sys makes an abstract address of a path that begins with @.
		sd.to = &unix.SockaddrUnix{Name: path}
	}
	mine := func(name string) bool {
		pid := os.Getenv(name)
		return pid == "" || pid == strconv.Itoa(os.Getpid())
	}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && mine("WATCHDOG_PID") {
		sd.every = time.Duration(usec) * time.Microsecond / 2
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return sd, nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range n {
		fd := firstInherited + i
		name := "inherited"
		if i < len(names) {
			name = names[i]
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			sd.closeInherited()
			return nil, fmt.Errorf("descriptor %d (%s) from systemd: %w", fd, name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		number, isRegion := strings.CutPrefix(name, "kbus-")
		bus, err := strconv.Atoi(number)
		switch {
		case isRegion && err == nil && bus >= 0 && bus < MaxBuses && sd.regions[bus] == nil:
			sd.regions[bus] = f
		case !isRegion && sd.socket == nil:
			sd.socket = f // whether it is one shows when it is used
		default:
			f.Close()
			sd.closeInherited()
			return nil, fmt.Errorf("descriptor %d from systemd, called %q, is one too many: one socket, and one region for each bus", fd, name)
		}
	}
	return sd, nil
}

// closeInherited lets go of what was handed over; whoever took it has a duplicate.
func (sd *systemd) closeInherited() {
	if sd.socket != nil {
		sd.socket.Close()
	}
	for _, f := range sd.regions {
		f.Close()
	}
	sd.regions = nil
}

// notify tells systemd, with descriptors for its store.
func (sd *systemd) notify(state string, files ...*os.File) error {
	if sd.to == nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	var rights []byte
	if len(files) > 0 {
		raw, err := files[0].SyscallConn()
		if err != nil {
			return err
		}
		var send error
		err = raw.Control(func(f uintptr) {
			rights = unix.UnixRights(int(f))
			send = unix.Sendmsg(fd, []byte(state), rights, sd.to, unix.MSG_NOSIGNAL)
		})
		return errors.Join(err, os.NewSyscallError("sendmsg", send))
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(fd, []byte(state), nil, sd.to, unix.MSG_NOSIGNAL))
}

// store leaves the region of a bus with systemd, until the service is stopped.
func (sd *systemd) store(bus int, region *os.File) error {
	return sd.notify(fmt.Sprintf("FDSTORE=1\nFDNAME=kbus-%d", bus), region)
}

// forget takes the region of a bus back out of systemd's store.
func (sd *systemd) forget(bus int) error {
	return sd.notify(fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=kbus-%d", bus))
}

// watchdog tells systemd until ctx ends that the process is alive, which it is
// as long as responds returns.
func (sd *systemd) watchdog(ctx context.Context, responds func()) {
	if sd.every == 0 || sd.to == nil {
		return
	}
	t := time.NewTicker(sd.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			responds()
			sd.notify("WATCHDOG=1") // the next one is due anyway if this one is lost
		}
	}
}
