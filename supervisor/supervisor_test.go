package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm/handoff"
	"kbus.internal/shm/shmtest"
)

// R3.1: a bus that is not there, and Ksock ids.
func TestOpen(t *testing.T) {
	shmtest.CheckFiles(t)
	s := start(t, Options{Buses: 2})
	for want := uint32(1); want <= 3; want++ {
		if l := open(t, s.Socket(), 1); l.Ksock() != want {
			t.Errorf("Ksock %d, want %d", l.Ksock(), want)
		} else if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if l := open(t, s.Socket(), 0); l.Ksock() != 1 {
		t.Errorf("Ksock %d on another bus, want 1", l.Ksock())
	}
	for _, n := range []int{2, 255, 256, 1 << 30, -1} {
		if _, err := control.Open(t.Context(), s.Socket(), n, false); !errors.Is(err, unix.ENOENT) {
			t.Errorf("bus %d: %v", n, err)
		}
	}
}

// R3.1: up to 256 buses, the lowest free number first.
func TestNewBus(t *testing.T) {
	s := start(t, Options{Buses: 3, Bus: ring.Config{MaxKsocks: 2, ArenaBytes: 1 << 20, MaxMessageSize: 1 << 16}, MaxRegionBytes: 64 << 20})
	request := control.Request{Op: control.OpNewBus}
	for want := uint32(3); want < MaxBuses; want++ {
		if a, err := ask(t, s.Socket(), request); err != nil || a.Value != want {
			t.Fatalf("bus %v, %v, want %d", a, err, want)
		}
	}
	if _, err := ask(t, s.Socket(), request); !errors.Is(err, unix.EINVAL) {
		t.Errorf("one bus too many: %v", err)
	}
	if l := open(t, s.Socket(), 255); l.Ksock() != 1 {
		t.Errorf("Ksock %d on the last bus", l.Ksock())
	}
	a, err := ask(t, s.Socket(), control.Request{Op: control.OpBuses})
	if err != nil || len(a.Buses) != MaxBuses || a.Buses[255].Ksocks != 1 || a.Next != 0 {
		t.Errorf("%d buses, %v", len(a.Buses), err)
	}
}

// A bus of a size of its own, within what the supervisor allows.
func TestNewBusOfSize(t *testing.T) {
	s := start(t, Options{MaxRegionBytes: 64 << 20})
	a, err := ask(t, s.Socket(), control.Request{Op: control.OpNewBus, Config: control.Config{MaxKsocks: 3, ArenaBytes: 2 << 20, MaxMessageSize: 409600}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		open(t, s.Socket(), int(a.Value))
	}
	if _, err := control.Open(t.Context(), s.Socket(), int(a.Value), false); !errors.Is(err, unix.EUSERS) || !strings.Contains(err.Error(), "3 Ksocks") {
		t.Errorf("a fourth Ksock on a bus for three: %v", err)
	}
	for _, c := range []control.Config{{ArenaBytes: 65 << 20}, {ArenaBytes: 1 << 61}} {
		if _, err := ask(t, s.Socket(), control.Request{Op: control.OpNewBus, Config: c}); err == nil {
			t.Errorf("a bus of %d bytes", c.ArenaBytes)
		}
	}
	if _, err := ask(t, s.Socket(), control.Request{Op: control.OpNewBus, Config: control.Config{MaxKsocks: 1 << 20}}); err == nil {
		t.Error("a bus for a million Ksocks")
	}
}

// One supervisor at a time; Close leaves nothing, and tells the Ksocks.
func TestClose(t *testing.T) {
	shmtest.CheckFiles(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	s := start(t, Options{Socket: socket})
	if _, err := Start(Options{Socket: socket, Bus: small}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second supervisor: %v", err)
	}
	l := open(t, socket, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	if err := l.Err(); !errors.Is(err, unix.ESHUTDOWN) {
		t.Errorf("the Ksock's end: %v", err)
	}
	if _, err := l.Call(t.Context(), &control.Request{Op: control.OpMaxMessages}); !errors.Is(err, unix.ESHUTDOWN) {
		t.Errorf("call after the end: %v", err)
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if _, err := control.Open(t.Context(), socket, 0, false); !errors.Is(err, control.ErrNoSupervisor) || errors.Is(err, unix.ENOENT) {
		t.Errorf("open without a supervisor: %v", err)
	}
	again := start(t, Options{Socket: socket})
	if l := open(t, socket, 0); l.Ksock() != 1 {
		t.Errorf("Ksock %d on a new bus", l.Ksock())
	}
	again.Close()
}

// Opening and closing Ksocks leaves no descriptor, no process and no usage behind.
func TestNothingLeft(t *testing.T) {
	s := start(t, Options{KsocksPerUser: 5, BindingsPerUser: 3})
	warm := open(t, s.Socket(), 0)
	warm.Close()
	before := len(shmtest.OpenFiles(t))
	for range 40 {
		c := ksockProcess(t, s.Socket())
		for i := range 2 {
			c.ask(t, "open 0")
			c.ask(t, "listen %d $.A", i)
		}
		c.ask(t, "close 0")
		c.Kill()
		for range 2 {
			l := open(t, s.Socket(), 0)
			call(t, l, control.Request{Op: control.OpBind, Name: "$.A"})
			l.Close()
		}
	}
	eventually(t, "everything is closed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 0 && len(s.processes) == 0 && len(s.usage) == 0
	})
	eventually(t, fmt.Sprintf("%d descriptors", before), func() bool { return len(shmtest.OpenFiles(t)) <= before })
	if k := ksocks(t, s.Socket(), 0); len(k) != 0 {
		t.Errorf("left: %+v", k)
	}
}

// A second Ksock is never opened on one connection, nor anything asked without one.
func TestOrderOfRequests(t *testing.T) {
	s := start(t, Options{})
	c, err := control.Dial(t.Context(), s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for op, want := range map[control.Op]unix.Errno{
		control.OpClose: unix.ENOTCONN, control.OpBind: unix.ENOTCONN, control.OpOnlyOnce: unix.ENOTCONN, control.OpReattach: unix.EPROTO,
	} {
		if _, _, err := c.Call(t.Context(), &control.Request{Op: op}, nil); !errors.Is(err, want) {
			t.Errorf("%v: %v", op, err)
		}
	}
	_, f, err := c.Call(t.Context(), &control.Request{Op: control.OpOpen}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := c.Call(t.Context(), &control.Request{Op: control.OpOpen}, nil); !errors.Is(err, unix.EISCONN) {
		t.Errorf("second open: %v", err)
	}
	if _, _, err := c.Call(t.Context(), &control.Request{Op: control.OpBind, Name: "$.A"}, f); !errors.Is(err, unix.EPROTO) {
		t.Errorf("bind with a descriptor: %v", err)
	}
	for op, bad := range map[control.Op]uint32{control.OpOnlyOnce: 3, control.OpReports: 1 << 31} { // R3.9
		if _, _, err := c.Call(t.Context(), &control.Request{Op: op, Value: bad}, nil); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v %d: %v", op, bad, err)
		}
	}
}

// Whoever sends what is no request is told so and sent away; others notice nothing.
func TestBadFrames(t *testing.T) {
	s := start(t, Options{})
	l := open(t, s.Socket(), 0)
	good, err := (&control.Request{Op: control.OpOpen, Number: 1}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte{}, good...)
	other[4] = 9
	for name, tc := range map[string]struct {
		frame []byte
		want  unix.Errno
	}{
		"no frame":      {[]byte("GET / HTTP/1.1\r\n\r\n"), unix.EPROTO},
		"cut":           {good[:20], unix.EPROTO},
		"longer":        {append(append([]byte{}, good...), 0), unix.EPROTO},
		"other version": {other, unix.EPROTONOSUPPORT},
	} {
		c, err := handoff.Dial(t.Context(), s.Socket())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(t.Context(), tc.frame); err != nil {
			t.Fatal(err)
		}
		b, files, err := c.Receive(t.Context(), make([]byte, control.MaxAnswer))
		if err != nil || len(files) != 0 {
			t.Fatalf("%s: %v %v", name, files, err)
		}
		if a, err := control.ParseAnswer(b); err != nil || a.Errno != tc.want || a.Number != 0 {
			t.Errorf("%s: %+v %v", name, a, err)
		}
		c.Close()
	}
	// More than a request can be long.
	c, err := handoff.Dial(t.Context(), s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(t.Context(), make([]byte, control.MaxRequest+1)); err != nil {
		t.Fatal(err)
	}
	b, _, err := c.Receive(t.Context(), make([]byte, control.MaxAnswer))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := control.ParseAnswer(b); err != nil || a.Errno != unix.EMSGSIZE || a.Number != 0 {
		t.Errorf("an endless request: %+v %v", a, err)
	}
	if _, _, err := c.Receive(t.Context(), make([]byte, control.MaxAnswer)); err != io.EOF {
		t.Errorf("after an endless request: %v", err)
	}
	if n := call(t, l, control.Request{Op: control.OpMaxMessages}); n != 100 { // R3.2
		t.Errorf("max messages %d", n)
	}
}

// Quotas of one user, over all buses; what is closed is given back.
func TestQuotas(t *testing.T) {
	s := start(t, Options{Buses: 2, KsocksPerUser: 3, BindingsPerUser: 2})
	a, b, c := open(t, s.Socket(), 0), open(t, s.Socket(), 1), open(t, s.Socket(), 0)
	_, err := control.Open(t.Context(), s.Socket(), 1, false)
	if !errors.Is(err, unix.EDQUOT) || !strings.Contains(err.Error(), "3 Ksocks") || !strings.Contains(err.Error(), "--ksocks-per-user") {
		t.Errorf("fourth Ksock: %v", err)
	}
	call(t, a, control.Request{Op: control.OpBind, Name: "$.A"})
	call(t, b, control.Request{Op: control.OpBind, Name: "$.A"})
	_, err = c.Call(t.Context(), &control.Request{Op: control.OpBind, Name: "$.A"})
	if !errors.Is(err, unix.EDQUOT) || !strings.Contains(err.Error(), "2 bindings") {
		t.Errorf("third binding: %v", err)
	}
	call(t, a, control.Request{Op: control.OpUnbind, Name: "$.A"})
	call(t, c, control.Request{Op: control.OpBind, Name: "$.A"})
	b.Close() // its binding goes too
	call(t, a, control.Request{Op: control.OpBind, Name: "$.B"})
	open(t, s.Socket(), 1)
}

// A lack of descriptors refuses the newcomer with a reason and harms nobody
// else; who comes when there are some again is let in.
func TestNoDescriptorsLeft(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	supervise(t, socket, "files=40")
	var links []*control.Link
	var err error
	for err == nil {
		var l *control.Link
		if l, err = control.Open(t.Context(), socket, 0, false); err == nil {
			links = append(links, l)
			defer l.Close()
		}
	}
	if !errors.Is(err, unix.EMFILE) || len(links) < 5 {
		t.Fatalf("after %d Ksocks: %v", len(links), err)
	}
	for range 10 { // again and again
		if _, err := control.Open(t.Context(), socket, 0, false); !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "descriptor") {
			t.Errorf("newcomer: %v", err)
		}
	}
	for _, l := range links {
		call(t, l, control.Request{Op: control.OpBind, Name: "$.A"})
		select {
		case <-l.Done():
			t.Errorf("Ksock %d: %v", l.Ksock(), l.Err())
		default:
		}
	}
	links[0].Close()
	eventually(t, "one that went makes room for another", func() bool {
		l, err := control.Open(t.Context(), socket, 0, false)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

// By default only the same user is admitted; others by user, group, or
// supplementary group. Who is refused gets EACCES, and never a descriptor.
func TestAdmission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	const uid, gid, group = 64001, 64002, 64003
	for name, tc := range map[string]struct {
		o    Options
		want bool
	}{
		"nobody":              {Options{}, false},
		"another user":        {Options{AllowUsers: []uint32{uid + 1}}, false},
		"another group":       {Options{AllowGroups: []uint32{uid}}, false},
		"user":                {Options{AllowUsers: []uint32{1, uid}}, true},
		"group":               {Options{AllowGroups: []uint32{gid}}, true},
		"supplementary group": {Options{AllowGroups: []uint32{5, group}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "kbus")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			tc.o.Socket = filepath.Join(dir, "run", "socket")
			s := start(t, tc.o)
			mode := fs.FileMode(0o700)
			if tc.o.open() {
				mode = 0o711
			}
			if st, err := os.Stat(filepath.Dir(s.Socket())); err != nil || st.Mode().Perm() != mode {
				t.Errorf("directory: %v %v", st.Mode(), err)
			}
			if !tc.o.open() {
				// Let it come as far as the credentials all the same.
				os.Chmod(filepath.Dir(s.Socket()), 0o711)
				os.Chmod(s.Socket(), 0o666)
			}
			cmd := shmtest.Command(t, "ksocks", s.Socket())
			cmd.Path = "/proc/self/exe" // where the test program is, others may not look
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{group}}}
			c := spawn(t, cmd)
			if tc.want {
				c.ask(t, "open 0")
				if k := ksocks(t, s.Socket(), 0); len(k) != 1 || k[0].UID != uid || int(k[0].PID) != c.pid() || k[0].Command == "" {
					t.Errorf("%+v", k)
				}
				return
			}
			c.askErr(t, "open 0")
			before := c.ask(t, "files") // with those of Go's poller
			if e := c.askErr(t, "open 0"); !strings.HasPrefix(e, "EACCES") || !strings.Contains(e, "--allow-user") {
				t.Error(e)
			}
			if after := c.ask(t, "files"); after != before {
				t.Errorf("%s descriptors, %s before", after, before)
			}
			if k := ksocks(t, s.Socket(), 0); len(k) != 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}

// The socket and its directory keep others away even before credentials are looked at.
func TestModes(t *testing.T) {
	s := start(t, Options{Socket: filepath.Join(t.TempDir(), "run", "socket")})
	for path, want := range map[string]fs.FileMode{
		filepath.Dir(s.Socket()): 0o700, s.Socket(): 0o600, s.Socket() + ".state": 0o600, s.Socket() + ".lock": 0o600,
	} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
}

// R4.8: the death of a process closes all its Ksocks, though a connection is
// kept open by another process; one that is stopped keeps them (R9.3).
func TestDeath(t *testing.T) {
	s := start(t, Options{Buses: 2})
	stopped, dying := ksockProcess(t, s.Socket()), ksockProcess(t, s.Socket())
	for bus := range 2 {
		stopped.ask(t, "open %d", bus)
		dying.ask(t, "open %d", bus)
		dying.ask(t, "listen %d $.A", bus)
	}
	stopped.signal(t, syscall.SIGSTOP)
	dying.ask(t, "leave")
	dying.signal(t, syscall.SIGKILL) // its sockets live on
	for bus := range uint32(2) {
		eventually(t, "the dead one's Ksock is closed", func() bool { return len(ksocks(t, s.Socket(), bus)) < 2 })
		if k := ksocks(t, s.Socket(), bus); len(k) != 1 || int(k[0].PID) != stopped.pid() {
			t.Errorf("%+v", k)
		}
		a, err := ask(t, s.Socket(), control.Request{Op: control.OpBindings, Bus: bus})
		if err != nil || len(a.Bindings) != 0 {
			t.Errorf("%+v %v", a, err)
		}
	}
	stopped.signal(t, syscall.SIGCONT)
	stopped.ask(t, "max 0 0")
}

// Ksocks by hundreds: in pages, with their processes' commands.
func TestPages(t *testing.T) {
	s := start(t, Options{Bus: ring.Config{MaxKsocks: 256, ArenaBytes: 16 << 20, MaxMessageSize: 1 << 20}})
	name := "$." + strings.Repeat("x", 500)
	for range 256 {
		l := open(t, s.Socket(), 0)
		call(t, l, control.Request{Op: control.OpBind, Name: name})
	}
	if _, err := control.Open(t.Context(), s.Socket(), 0, false); err == nil {
		t.Error("a Ksock too many")
	}
	var ids, bound int
	for _, op := range []control.Op{control.OpKsocks, control.OpBindings} {
		from, pages := uint32(0), 0
		for {
			a, err := ask(t, s.Socket(), control.Request{Op: op, From: from})
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range a.Ksocks {
				ids += int(k.Ksock)
				if int(k.PID) != os.Getpid() || !strings.HasPrefix(k.Command, os.Args[0]) {
					t.Fatalf("%+v", k)
				}
			}
			for _, b := range a.Bindings {
				bound += int(b.Ksock)
				if b.Name != name {
					t.Fatalf("%+v", b)
				}
			}
			pages++
			if from = a.Next; from == 0 {
				break
			}
		}
		if op == control.OpBindings && pages < 2 {
			t.Errorf("%d bytes of names in one page", 256*len(name))
		}
	}
	if want := 256 * 257 / 2; ids != want || bound != want {
		t.Errorf("sum of ids %d, of bindings' %d, want %d", ids, bound, want)
	}
}

// A long command line is cut between two letters.
func TestLongCommand(t *testing.T) {
	for _, long := range []string{strings.Repeat("ü", 200), "x" + strings.Repeat("ü", 200)} {
		c := spawn(t, shmtest.Command(t, "holder", long))
		c.line(t)
		want := os.Args[0] + " " + long
		got := command(c.pid())
		if n := len(got); n < control.MaxCommand-1 || n > control.MaxCommand || got != want[:n] || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %q", n, got)
		}
	}
}

// The table of Ksocks tells what each has done and owes (R3.7).
func TestBooks(t *testing.T) {
	s := start(t, Options{})
	asker, replier := openEnd(t, s.Socket(), 0), openEnd(t, s.Socket(), 0)
	call(t, replier.Link, control.Request{Op: control.OpBind, Name: "$.R", Replier: true})
	call(t, replier.Link, control.Request{Op: control.OpMaxMessages, Value: 3})
	for range 3 {
		asker.request(t, "$.R")
	}
	for range 2 {
		replier.mustNext(t)
	}
	k := ksocks(t, s.Socket(), 0)
	if len(k) != 2 {
		t.Fatalf("%+v", k)
	}
	if a := k[0]; a.Sent != 3 || a.Outstanding != 3 || a.Unreplied != 0 || a.Unread != 0 || a.MaxMessages != 100 || a.StartTime == 0 {
		t.Errorf("asker: %+v", a)
	}
	if r := k[1]; r.Received != 2 || r.Unread != 1 || r.Unreplied != 2 || r.Outstanding != 0 || r.MaxMessages != 3 {
		t.Errorf("Replier: %+v", r)
	}
	a, err := ask(t, s.Socket(), control.Request{Op: control.OpBuses})
	if err != nil || len(a.Buses) != 1 {
		t.Fatal(a, err)
	}
	if b := a.Buses[0]; b.Ksocks != 2 || b.Bindings != 1 || b.Messages != 3 || b.MaxKsocks != 64 || b.MaxMessageSize != 1<<20 || b.ArenaUsed == 0 || b.Reports {
		t.Errorf("%+v", b)
	}
}

func TestImpossibleOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"buses":           {Buses: 257},
		"negative buses":  {Buses: -1},
		"negative quota":  {KsocksPerUser: -1},
		"negative region": {MaxRegionBytes: -1},
		"too many Ksocks": {Bus: ring.Config{MaxKsocks: 1 << 20}},
		"path too long":   {Socket: filepath.Join(t.TempDir(), strings.Repeat("x", 120))},
	} {
		if o.Socket == "" {
			o.Socket = filepath.Join(t.TempDir(), "socket")
		}
		s, err := Start(o)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A state file that can't be read stops the start: the Ksocks in it may live.
	socket := filepath.Join(t.TempDir(), "socket")
	if err := os.WriteFile(socket+".state", []byte(`{"version":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Options{Socket: socket, Bus: small}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged state file: %v", err)
	}
	if _, err := os.Stat(socket + ".state"); err != nil {
		t.Error(err)
	}
	// Nor is one read that somebody else has put there.
	if err := os.Symlink("/proc/self/status", socket+"2.state"); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Options{Socket: socket + "2", Bus: small}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("state file behind a link: %v", err)
	}
	// Cancelled before anything was asked.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := control.Open(ctx, socket, 0, false); err == nil {
		t.Error("opened")
	}
}
