package ksock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// A stage is a bus of its own with a supervisor of its own, for one test.
type stage struct {
	testing.TB
	socket string
	ctx    context.Context
	apart  *exec.Cmd // the supervisor, if it is a process of its own
}

// small is a bus that costs a test little memory; the sizes are those of the original.
var small = ring.Config{MaxKsocks: 64, ArenaBytes: 8 << 20, MaxMessageSize: 409600}

func setStage(t testing.TB) *stage { return setStageWith(t, supervisor.Options{Bus: small}) }

func setStageWith(t testing.TB, o supervisor.Options) *stage {
	t.Helper()
	s := emptyStage(t)
	o.Socket = s.socket
	sv, err := supervisor.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sv.Close() })
	return s
}

func emptyStage(t testing.TB) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "ksock") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// A watchdog for what hangs, not a bound on what is slow.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return &stage{TB: t, socket: filepath.Join(dir, "socket"), ctx: ctx}
}

// setStageApart is a stage whose supervisor is another process, which can be killed.
func setStageApart(t *testing.T) *stage {
	t.Helper()
	s := emptyStage(t)
	s.start()
	return s
}

const (
	socketVariable = "KSOCK_TEST_SOCKET"
	partVariable   = "KSOCK_TEST_PART"
)

// parts are what this program can be when a test starts it again, until its
// standard input ends: so it does not outlive the test.
var parts = map[string]func(socket string) error{
	"supervisor": func(socket string) error {
		_, err := supervisor.Start(supervisor.Options{Socket: socket, Bus: small})
		return err
	},
	"replier": replierPart,
	"reader":  readerPart,
}

func TestMain(m *testing.M) {
	part := os.Getenv(partVariable)
	if part == "" {
		os.Exit(m.Run())
	}
	if err := parts[part](os.Getenv(socketVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func (s *stage) start() { s.Helper(); s.apart = s.process("supervisor") }

// process starts a part and waits until it is ready.
func (s *stage) process(part string) *exec.Cmd {
	s.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), socketVariable+"="+s.socket, partVariable+"="+part)
	c.Stderr = os.Stderr
	if _, err := c.StdinPipe(); err != nil {
		s.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { stop(c) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		s.Fatalf("the %s says %q, %v", part, line, err)
	}
	return c
}

// stop kills a process with SIGKILL.
func stop(c *exec.Cmd) {
	c.Process.Kill()
	c.Wait()
}

// kill kills the supervisor with SIGKILL; start starts the next.
func (s *stage) kill() {
	if s.apart != nil {
		stop(s.apart)
		s.apart = nil
	}
}

// forget makes the next supervisor know nothing of this one's buses.
func (s *stage) forget() {
	s.Helper()
	if err := os.Remove(s.socket + ".state"); err != nil {
		s.Fatal(err)
	}
}

// actor is a Ksock whose operations must not fail, unless the test says so.
type actor struct {
	*ksock.Ksock
	s *stage
}

func (s *stage) open() *actor { return s.openWith(ksock.Options{}) }

func (s *stage) openWith(o ksock.Options) *actor {
	s.Helper()
	o.Socket = s.socket
	k, err := ksock.Open(s.ctx, 0, &o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { k.Close() })
	return &actor{k, s}
}

// listener and replier open a Ksock and bind it.
func (s *stage) listener(names ...string) *actor {
	s.Helper()
	a := s.open()
	for _, n := range names {
		a.listen(n)
	}
	return a
}

func (s *stage) replier(names ...string) *actor {
	s.Helper()
	a := s.open()
	for _, n := range names {
		a.bind(n, ksock.Replier)
	}
	return a
}

func (a *actor) listen(name string) { a.s.Helper(); a.bind(name, ksock.Listener) }

func (a *actor) bind(name string, r ksock.Role) {
	a.s.Helper()
	if err := a.Bind(a.s.ctx, name, r); err != nil {
		a.s.Fatal(err)
	}
}

func (a *actor) unbind(name string, r ksock.Role) {
	a.s.Helper()
	if err := a.Unbind(a.s.ctx, name, r); err != nil {
		a.s.Fatal(err)
	}
}

func (a *actor) send(m *ksock.Message) ksock.MessageID {
	a.s.Helper()
	id, err := a.TrySend(m)
	if err != nil {
		a.s.Fatal(err)
	}
	return id
}

func (a *actor) announce(name, data string) ksock.MessageID {
	a.s.Helper()
	return a.send(ksock.Announce(name, []byte(data)))
}

func (a *actor) request(name, data string) ksock.MessageID {
	a.s.Helper()
	return a.send(ksock.Request(name, []byte(data)))
}

func (a *actor) reply(to *ksock.Message, data string) ksock.MessageID {
	a.s.Helper()
	return a.send(ksock.ReplyTo(to, []byte(data)))
}

// fails sends m and wants an error; it also says what that did to last sent.
func (a *actor) fails(m *ksock.Message, want error, counted bool) {
	a.s.Helper()
	before := value(a.s, a.LastSent)
	_, err := a.TrySend(m)
	a.s.wantErr(err, want)
	if after := value(a.s, a.LastSent); (after != before) != counted {
		a.s.Errorf("%v: last sent was %v and is %v", err, before, after)
	}
}

// hears takes what is in the queue and wants its data, in order.
func (a *actor) hears(want ...string) []*ksock.Message {
	a.s.Helper()
	var all []*ksock.Message
	var got []string
	for {
		m, err := a.TryNext()
		if err != nil {
			a.s.Fatal(err)
		}
		if m == nil {
			break
		}
		all = append(all, m)
		switch {
		case len(m.Data) > 0 && m.Name != ksock.ReplierBindEvent:
			got = append(got, string(m.Data))
		default:
			got = append(got, m.Name)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		a.s.Errorf("Ksock %d hears %q, want %q", a.ID(), got, want)
		for len(all) < len(want) {
			all = append(all, &ksock.Message{})
		}
	}
	return all
}

// one takes the one message that must be there.
func (a *actor) one() *ksock.Message {
	a.s.Helper()
	m, err := a.TryNext()
	if err != nil {
		a.s.Fatal(err)
	}
	if m == nil {
		a.s.Fatalf("Ksock %d hears nothing", a.ID())
	}
	return m
}

func (a *actor) holds(n uint32) {
	a.s.Helper()
	if got, err := a.SetMaxMessages(a.s.ctx, n); err != nil || got != n {
		a.s.Fatalf("max_messages %d: %d, %v", n, got, err)
	}
}

func (a *actor) unread(want int) {
	a.s.Helper()
	a.s.want("unread messages", value(a.s, a.Unread), want)
}

func (a *actor) unreplied(want int) {
	a.s.Helper()
	a.s.want("Requests to answer", value(a.s, a.Unreplied), want)
}

func (a *actor) poll(readable, writable bool) {
	a.s.Helper()
	r, w, err := a.Poll()
	if r != readable || w != writable || err != nil {
		a.s.Errorf("poll of Ksock %d: readable %v, writable %v, %v; want %v, %v", a.ID(), r, w, err, readable, writable)
	}
}

func (s *stage) want(what string, got, want any) {
	s.Helper()
	if got != want {
		s.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// value is what f gives, which must not fail.
func value[T any](s *stage, f func() (T, error)) T {
	s.Helper()
	v, err := f()
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// wantErr wants want, which is also to be found by its errno, in an *Error.
func (s *stage) wantErr(err, want error) {
	s.Helper()
	var e *ksock.Error
	switch {
	case want == nil && err == nil:
	case !errors.Is(err, want):
		s.Errorf("got error %v, want %v", err, want)
	case !errors.As(err, &e):
		s.Errorf("%v is a %T", err, err)
	}
}

func name1000(n int) string { return "$." + strings.Repeat("x", n-2) }

func flagged(m *ksock.Message, flags uint32) *ksock.Message {
	m.Flags |= flags
	return m
}

func say(name, data string) *ksock.Message { return ksock.Announce(name, []byte(data)) }

func ask(name, data string) *ksock.Message { return ksock.Request(name, []byte(data)) }
