package ksock_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// replierPart binds, and reads one Request of those that come.
func replierPart(socket string) error {
	ctx := context.Background()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		return err
	}
	if err := k.Bind(ctx, "$.R", ksock.Replier); err != nil {
		return err
	}
	go k.View(ctx)
	return nil
}

// readerPart listens, and holds the first message in place.
func readerPart(socket string) error {
	ctx := context.Background()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket})
	if err != nil {
		return err
	}
	if err := k.Bind(ctx, "$.A", ksock.Listener); err != nil {
		return err
	}
	go k.View(ctx)
	return nil
}

// R9.2, R4.8, R5.6: a Replier's process is killed; what it had read and what it
// had not is answered, and its name is free.
func TestReplierIsKilled(t *testing.T) {
	s := setStage(t)
	a, b := s.open(), s.open()
	r := s.process("replier")
	read := a.request("$.R", "1")
	for a.unreadOf(r.Process.Pid) != 0 {
		// until it has read it
	}
	unread := a.request("$.R", "2")
	stop(r)
	for i, want := range []struct {
		name string
		id   ksock.MessageID
	}{{ksock.StatusGoneAway, unread}, {ksock.StatusIgnored, read}} {
		m, err := a.Next(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.want("Status", [3]any{i, m.Name, m.InReplyTo}, [3]any{i, want.name, want.id})
	}
	b.bind("$.R", ksock.Replier)
	a.request("$.R", "3")
	b.hears("3")
}

// unreadOf asks for the unread messages of another process's only Ksock.
func (a *actor) unreadOf(pid int) int {
	a.s.Helper()
	all, err := ksock.Stats(a.s.ctx, a.s.socket, 0)
	if err != nil {
		a.s.Fatal(err)
	}
	for _, k := range all[0].Ksocks {
		if int(k.PID) == pid {
			return int(k.Unread)
		}
	}
	a.s.Fatalf("process %d has no Ksock", pid)
	return 0
}

// R9.3, R6.7: a Listener's process is stopped, then killed with a message in
// place: the others hear all, and the memory comes back.
func TestListenerIsStopped(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	p := s.process("reader")
	a.announce("$.A", "in place")
	l.hears("in place")
	for a.unreadOf(p.Process.Pid) != 0 {
		// until it holds it
	}
	if err := p.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	big := string(make([]byte, 300_000))
	for range 100 { // 30 MB through an arena of 8 MB
		a.announce("$.A", big)
		l.hears(big)
	}
	stop(p)
	for {
		all, err := ksock.Stats(s.ctx, s.socket)
		if err != nil {
			t.Fatal(err)
		}
		if len(all[0].Ksocks) == 2 {
			break
		}
	}
	before := arenaUsed(s)
	for range 10 {
		a.announce("$.A", big)
		l.hears(big)
	}
	s.want("memory in use", arenaUsed(s), before)
}

func arenaUsed(s *stage) uint64 {
	s.Helper()
	all, err := ksock.Stats(s.ctx, s.socket)
	if err != nil {
		s.Fatal(err)
	}
	return all[0].ArenaUsed
}
