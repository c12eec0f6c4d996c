package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"kbus.internal/bench"
)

const (
	dbusName = "internal.kbus.Bench"
	dbusPath = dbus.ObjectPath("/internal/kbus/Bench")
)

// dbusConfig is a bus for one user, without limits that matter here.
const dbusConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_message_size">1000000000</limit>
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
</busconfig>
`

// dbusServer is the object that is called.
type dbusServer struct{ *echo }

// Ask is its method.
func (s dbusServer) Ask(message []byte) ([]byte, *dbus.Error) { return s.answer(message), nil }

// dbusDaemon starts one for this run, on any CPU.
func dbusDaemon(t *bench.PeerTask) (stop func() error, err error) {
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		return nil, &bench.Unavailable{Why: "dbus-daemon is not installed", Install: "apt-get install dbus-daemon"}
	}
	config := filepath.Join(t.Dir, "dbus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, dbusConfig, t.Path(0)), 0o600); err != nil {
		return nil, err
	}
	c := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	// The process group is ended when this process is.
	var words strings.Builder
	c.Stderr = &words
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		if err := c.Process.Signal(unix.SIGTERM); err != nil {
			return err
		}
		_ = c.Wait() // for what it used; it ends by the signal
		return nil
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		err = fmt.Errorf("dbus-daemon does not start: %w", err)
		return nil, errors.Join(err, stop(), errors.New(words.String()))
	}
	// It has a CPU of its own if there is one; it inherited that of this process.
	var all unix.CPUSet
	for cpu := range 1024 {
		all.Set(cpu)
	}
	return stop, os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(c.Process.Pid, &all))
}

func dbusConnect(t *bench.PeerTask) (*dbus.Conn, error) {
	return dbus.Connect("unix:path=" + t.Path(0))
}

func dbusPeer() bench.Peer {
	return bench.Peer{
		Name: "dbus", About: "D-Bus, a method call by a private dbus-daemon, with godbus " + version("github.com/godbus/dbus/v5"),
		Answer: func(t *bench.PeerTask) (n int64, err error) {
			stop, err := dbusDaemon(t)
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, stop()) }()
			c, err := dbusConnect(t)
			if err != nil {
				return 0, err
			}
			defer c.Close()
			s := dbusServer{newEcho()}
			if err := c.Export(s, dbusPath, dbusName); err != nil {
				return 0, err
			}
			if _, err := c.RequestName(dbusName, dbus.NameFlagDoNotQueue); err != nil {
				return 0, err
			}
			if err := t.Begin(); err != nil {
				return 0, err
			}
			<-s.over
			return s.messages, nil
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			c, err := dbusConnect(t)
			if err != nil {
				return nil, nil, err
			}
			object := c.Object(dbusName, dbusPath)
			ask := func(message []byte) (answer []byte, err error) {
				err = object.Call(dbusName+".Ask", 0, message).Store(&answer)
				return answer, err
			}
			end := func() error {
				// The daemon ends with the one who answers, maybe before the answer came.
				call := object.Go(dbusName+".Ask", dbus.FlagNoReplyExpected, nil, []byte{})
				return errors.Join(call.Err, c.Close())
			}
			return ask, end, nil
		},
	}
}
