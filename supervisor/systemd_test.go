package supervisor

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/control"
	"kbus.internal/shm/shmtest"
)

// manager plays systemd's part: it listens, is told, and keeps descriptors.
type manager struct {
	t      *testing.T
	listen *os.File
	notify *net.UnixConn
	socket string
	stored map[string]*os.File
}

func newManager(t *testing.T) *manager {
	m := &manager{t: t, socket: filepath.Join(t.TempDir(), "socket"), stored: map[string]*os.File{}}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.listen = os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { m.listen.Close() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: m.socket}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		t.Fatal(err)
	}
	m.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket + ".notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.notify.Close() })
	return m
}

// told waits until it is told what begins with prefix, keeping what it is given.
func (m *manager) told(prefix string) {
	m.t.Helper()
	for {
		b, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := m.notify.ReadMsgUnix(b, oob)
		if err != nil {
			m.t.Fatal(err)
		}
		text := string(b[:n])
		if name, ok := strings.CutPrefix(text, "FDSTORE=1\nFDNAME="); ok {
			msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(msgs) != 1 {
				m.t.Fatalf("%q with %d control messages, %v", text, len(msgs), err)
			}
			fds, err := unix.ParseUnixRights(&msgs[0])
			if err != nil || len(fds) != 1 {
				m.t.Fatal(fds, err)
			}
			f := os.NewFile(uintptr(fds[0]), name)
			m.stored[name] = f
			m.t.Cleanup(func() { f.Close() })
		}
		if name, ok := strings.CutPrefix(text, "FDSTOREREMOVE=1\nFDNAME="); ok {
			delete(m.stored, name)
		}
		if strings.HasPrefix(text, prefix) {
			return
		}
	}
}

// start starts the supervisor as a service, with what is in the store.
func (m *manager) start(env ...string) *child {
	m.t.Helper()
	cmd := shmtest.Command(m.t, "supervisor", "not/this/path", "systemd")
	cmd.ExtraFiles = []*os.File{m.listen}
	names := "kbus.socket"
	for name, f := range m.stored {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		names += ":" + name
	}
	cmd.Env = append(append(cmd.Env, "NOTIFY_SOCKET="+m.socket+".notify", "LISTEN_FDNAMES="+names,
		"TEST_LISTEN_FDS="+string(rune('0'+len(cmd.ExtraFiles)))), env...)
	c := spawn(m.t, cmd)
	if s := c.line(m.t); s != "ready" {
		m.t.Fatal(s)
	}
	m.told("READY=1")
	return c
}

// R9.4 under systemd: the socket is its, and so are the regions when nobody
// else is left; also without the state file.
func TestSystemd(t *testing.T) {
	m := newManager(t)
	sv := m.start("WATCHDOG_USEC=10000")
	m.told("WATCHDOG=1")
	m.told("WATCHDOG=1")
	if len(m.stored) != 1 || m.stored["kbus-0"] == nil {
		t.Fatalf("stored: %v", m.stored)
	}
	c := ksockProcess(t, m.socket)
	for range 2 {
		c.ask(t, "open 0")
	}
	sv.Kill()
	c.Kill() // now only the store holds the region
	sv = m.start()
	if k := ksocks(t, m.socket, 0); len(k) != 0 {
		t.Errorf("dead: %+v", k)
	}
	e := openEnd(t, m.socket, 0)
	if e.Ksock() != 3 {
		t.Errorf("Ksock %d on a bus that goes on", e.Ksock())
	}
	sv.Kill()
	if err := os.Remove(m.socket + ".state"); err != nil {
		t.Fatal(err)
	}
	sv = m.start()
	if id := openEnd(t, m.socket, 0).Ksock(); id != 4 {
		t.Errorf("Ksock %d on a bus without a state file", id)
	}
	if n := call(t, e.Link, control.Request{Op: control.OpMaxMessages}); n != 100 {
		t.Error(n)
	}
	sv.In.Close() // in order
	m.told("STOPPING=1")
	m.told("FDSTOREREMOVE=1")
	if err := sv.Wait(); err != nil {
		t.Error(err)
	}
	if len(m.stored) != 0 {
		t.Errorf("stored: %v", m.stored)
	}
	if _, err := os.Stat(m.socket); err != nil {
		t.Errorf("the socket is systemd's, and gone: %v", err)
	}
}

// What systemd may not hand over is named.
func TestSystemdOddities(t *testing.T) {
	m := newManager(t)
	m.stored["kbus-0"] = m.listen // no region
	cmd := shmtest.Command(t, "supervisor", "not/this/path", "systemd")
	cmd.Stderr = &bytes.Buffer{}
	cmd.ExtraFiles = []*os.File{m.listen, m.listen}
	cmd.Env = append(cmd.Env, "TEST_LISTEN_FDS=2", "LISTEN_FDNAMES=kbus.socket:second.socket")
	c := spawn(t, cmd)
	if s := c.line(t); !strings.Contains(s, "second.socket") {
		t.Error(s)
	}
	cmd = shmtest.Command(t, "supervisor", "not/this/path", "systemd")
	cmd.Stderr = &bytes.Buffer{}
	cmd.ExtraFiles = []*os.File{m.listen, m.listen}
	cmd.Env = append(cmd.Env, "TEST_LISTEN_FDS=2", "LISTEN_FDNAMES=kbus.socket:kbus-0")
	c = spawn(t, cmd)
	if s := c.line(t); !strings.Contains(s, "bus 0") || !strings.Contains(s, "not a region") {
		t.Error(s)
	}
}
