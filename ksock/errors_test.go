package ksock_test

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// An error says its cause in the words of a bus, on one line of bounded length,
// and keeps the errno of the rules (R1.4, R2.4, R2.5, R3.1, R3.8, R4.2, R7.5).
func TestErrorTexts(t *testing.T) {
	s := setStage(t)
	a := s.open()
	s.replier("$.Taken")
	send := func(m *ksock.Message) error {
		_, err := a.Send(s.ctx, m)
		return err
	}
	call := func(name string) error {
		_, err := a.Call(s.ctx, ask(name, ""))
		return err
	}
	stat := func(bus int) error {
		_, err := ksock.Stats(s.ctx, s.socket, bus)
		return err
	}
	both := flagged(say("$.A", ""), ksock.AllOrWait|ksock.AllOrFail)
	mixed := ask("$.A", "")
	mixed.InReplyTo.Serial = 1
	for _, c := range []struct {
		err   error
		errno unix.Errno
		text  string
	}{
		{send(say("", "")), unix.EINVAL, "send: the name is empty"},
		{call(""), unix.EINVAL, "call: the name is empty"},
		{send(both), unix.EINVAL, "exclude each other"},
		{send(mixed), unix.EINVAL, "exclude each other"},
		{send(say("A\nB\x1b", "")), unix.EBADMSG, `send "A\nB\x1b": `},
		{send(say(name1000(1001), "")), unix.ENAMETOOLONG, "xxx… (1001 bytes): the name is longer"},
		{a.Bind(s.ctx, "", ksock.Listener), unix.EBADMSG, "bind: the name is empty"},
		{a.Bind(s.ctx, "$.Taken", ksock.Replier), unix.EADDRINUSE, "bind $.Taken: the name has a Replier already"},
		{a.Bind(s.ctx, ksock.ReplierBindEvent, ksock.Replier), unix.EBADMSG, "nobody may be Replier"},
		{a.Unbind(s.ctx, "$.None", ksock.Listener), unix.EINVAL, "no such binding"},
		{stat(7), unix.ENOENT, "stat: there is no bus 7"},
		{stat(-1), unix.ENOENT, "there is no bus -1"},
		{stat(math.MaxUint32 + 1), unix.ENOENT, "there is no bus 4294967296"},
	} {
		var e *ksock.Error
		if !errors.Is(c.err, c.errno) || !errors.As(c.err, &e) {
			t.Errorf("%v (%T) is not %s", c.err, c.err, unix.ErrnoName(c.errno))
			continue
		}
		if text := c.err.Error(); !strings.Contains(text, c.text) || len(text) > 300 || strings.ContainsAny(text, "\n\x1b") {
			t.Errorf("%q does not say %q, or too much", text, c.text)
		}
	}
}

// What is at the path of the socket is said if it can't be a supervisor's.
func TestNotASupervisor(t *testing.T) {
	dir := t.TempDir()
	file, stream := filepath.Join(dir, "file"), filepath.Join(dir, "stream")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", stream)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, text := range map[string]string{
		dir:                           "not a socket (d",
		file:                          "not a socket (-",
		stream:                        "SOCK_SEQPACKET",
		strings.Repeat("x", 108):      "108 bytes long, and the system takes 107",
		"@abstract":                   "begins with @",
		filepath.Join(dir, "missing"): "kbus up starts one",
	} {
		_, err := ksock.Open(t.Context(), 0, &ksock.Options{Socket: path})
		if !errors.Is(err, ksock.ErrNoSupervisor) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, which does not say %q", path, err, text)
		}
	}
}

// No size of a Loan is too absurd to be refused (R2.6, R9.1).
func TestLoanSizes(t *testing.T) {
	s := setStage(t)
	a := s.open()
	for _, size := range []int{-1, math.MinInt, math.MaxInt, math.MaxInt - 3, math.MaxInt - 100, math.MaxInt32, math.MaxUint32 + 1} {
		l, err := a.Loan(size)
		if !errors.Is(err, ksock.ErrTooLong) {
			t.Errorf("a Loan of %d bytes: %v, %d bytes of data", size, err, len(l.Data()))
		}
		l.Release()
	}
}

// An error says which other Ksock it was about: whom a Reply or a stateful Request
// was to, and whose Status came (R5.2, R5.6, R3.8).
func TestErrorPeer(t *testing.T) {
	s := setStage(t)
	a, r, gone := s.open(), s.replier("$.R"), s.open()
	peer := func(what string, err error, want uint32) {
		t.Helper()
		var e *ksock.Error
		if !errors.As(err, &e) || e.Peer != want || want != 0 && !strings.Contains(err.Error(), fmt.Sprintf("(Ksock %d)", want)) {
			t.Errorf("%s: %v, want one about Ksock %d", what, err, want)
		}
	}
	to := ask("$.R", "")
	to.To = gone.ID()
	_, err := a.TrySend(to)
	peer("stateful", err, gone.ID())
	_, err = a.TrySend(ask("$.Nobody", ""))
	peer("no Replier", err, 0)

	gone.request("$.R", "")
	m := r.one()
	gone.Close()
	_, err = r.TrySend(ksock.ReplyTo(m, nil))
	peer("asker gone", err, gone.ID())

	ended := make(chan error, 1)
	go func() {
		_, err := a.Call(s.ctx, ask("$.R", ""))
		ended <- err
	}()
	if _, err := r.Next(s.ctx); err != nil {
		t.Fatal(err)
	}
	r.Close()
	peer("Status", <-ended, r.ID())
}
