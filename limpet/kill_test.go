package limpet_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// A cutter is a link's middle, which can be cut.
type cutter struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (s *stage) cutter(at, to string) *cutter {
	s.Helper()
	l, err := net.Listen("unix", at)
	if err != nil {
		s.Fatal(err)
	}
	c := &cutter{l: l, to: to, open: map[net.Conn]bool{}}
	s.Cleanup(func() { l.Close(); c.cut() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("unix", to)
			if err != nil {
				a.Close()
				continue
			}
			for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
				c.mu.Lock()
				c.open[p[0]] = true
				c.mu.Unlock()
				go func() {
					io.Copy(p[0], p[1])
					p[0].Close()
					c.mu.Lock()
					delete(c.open, p[0])
					c.mu.Unlock()
				}()
			}
		}
	}()
	return c
}

// cut ends all links through the cutter, wherever in a frame they are.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		conn.Close()
	}
}

// A load is an application that asks all the time, several Requests at once, and
// keeps account of the answers.
type load struct {
	*actor
	name    string
	replies atomic.Int64 // real ones
	asked   int
	status  int
	ended   chan struct{}
	left    map[ksock.MessageID]bool
}

// ask starts a load; it ends when stop is closed and all is answered.
func (s *stage) ask(bus int, name string, stop chan struct{}) *load {
	l := &load{actor: s.open(bus).holds(200), name: name, ended: make(chan struct{}), left: map[ksock.MessageID]bool{}}
	go func() {
		defer close(l.ended)
		for stopped := false; ; {
			select {
			case <-stop:
				stopped = true
			default:
			}
			if !stopped && len(l.left) < 50 {
				id, err := l.Send(s.ctx, ksock.Request(name, fmt.Append(nil, l.asked)))
				switch {
				case err == nil:
					l.left[id] = true
					l.asked++
				case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EBUSY): // not sent
				default:
					s.Errorf("ask %s: %v", name, err)
					return
				}
			}
			m, err := l.TryNext()
			if err == nil && m == nil && len(l.left) > 0 && (stopped || len(l.left) == 50) {
				m, err = l.Next(s.ctx)
			}
			switch {
			case err != nil:
				s.Errorf("%d Requests for %s are not answered: %v", len(l.left), name, err)
				return
			case m == nil && stopped:
				return // everything is answered
			case m == nil:
			case !l.left[m.InReplyTo]:
				s.Errorf("%v answers nothing, or for the second time", m)
			default:
				delete(l.left, m.InReplyTo)
				if m.IsStatus() {
					l.status++
				} else {
					l.replies.Add(1)
				}
			}
		}
	}()
	return l
}

// resumes waits for Replies to Requests sent from now on.
func (l *load) resumes() {
	l.s.Helper()
	before := l.replies.Load()
	l.s.until(func() bool { return l.replies.Load() > before+100 })
}

// TestKills: each Limpet, each link and each supervisor of a chain is killed and
// started again under a load of Requests, both ways: none is left unanswered, none
// answered twice, and the traffic resumes by itself.
func TestKills(t *testing.T) {
	s, limpets := chain(t)
	cutters := []*cutter{s.cutter(s.path("cut", 0), s.path("link", 0)), s.cutter(s.path("cut", 2), s.path("link", 2))}
	limpets[1].Connect, limpets[3].Connect = s.path("cut", 0), s.path("cut", 2)
	for _, p := range append(slices.Clone(s.sups), limpets...) {
		s.start(p)
	}
	for _, bus := range []int{0, 2} {
		s.open(bus).holds(4000).bind(fmt.Sprintf("$.Load.%d", bus), ksock.Replier).answers()
	}
	defer s.joined()()
	stop := make(chan struct{})
	loads := []*load{s.ask(0, "$.Load.2", stop), s.ask(2, "$.Load.0", stop), s.ask(1, "$.Load.2", stop), s.ask(1, "$.Load.0", stop)}
	resume := func(what string) {
		for _, l := range loads {
			l.resumes()
		}
		if t.Failed() {
			t.Fatalf("after %s", what)
		}
	}
	resume("the start")
	for i, p := range limpets {
		s.kill(p)
		s.start(p)
		resume(fmt.Sprintf("the death of Limpet %d", i+1))
	}
	for i, c := range cutters {
		c.cut()
		resume(fmt.Sprintf("the cut of link %d", i))
	}
	for i, p := range s.sups {
		s.kill(p)
		resume(fmt.Sprintf("the death of supervisor %d", i)) // messages go on without
		s.start(p)
		resume(fmt.Sprintf("the return of supervisor %d", i))
	}
	// A Limpet that begins while its supervisor is dead, or whose supervisor dies meanwhile.
	for i, p := range limpets {
		sup := s.sups[(i+1)/2]
		s.kill(sup)
		s.kill(p)
		s.start(p)
		s.start(sup)
		resume(fmt.Sprintf("the death of Limpet %d and its supervisor", i+1))
	}
	close(stop)
	for _, l := range loads {
		<-l.ended
		t.Logf("%s: %d asked, %d replies, %d Statuses", l.name, l.asked, l.replies.Load(), l.status)
		if l.status == 0 {
			t.Errorf("%s: no death was noticed by the load", l.name)
		}
	}
	s.idle()
}

// TestSlowLink: a Limpet that is stopped, so that its peer's link takes nothing any
// more, holds up nobody on its peer's bus: Requests are answered or refused, and
// announcements heard by the others.
func TestSlowLink(t *testing.T) {
	s := newStage(t, 2)
	a := &process{part: part{Socket: s.sups[0].Socket, NetworkID: 1, Listen: s.path("link", 0), MaxMessages: 50}}
	b := &process{part: part{Socket: s.sups[1].Socket, NetworkID: 2, Connect: s.path("link", 0), MaxMessages: 50}}
	for _, p := range append(slices.Clone(s.sups), a, b) {
		s.start(p)
	}
	s.open(1).bind("$.Far", ksock.Replier).answers()
	defer s.joined()()
	speaker, ear := s.open(0), s.open(0).bind("$.Loud", ksock.Listener)
	s.open(0).bind("$.Near", ksock.Replier).answers()
	if err := b.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 2000)
	waiting := map[ksock.MessageID]bool{}
	for { // until the Limpet's queue is full
		for range 100 {
			speaker.send(ksock.Announce("$.Loud", text))
			if m := ear.next(); len(m.Data) != len(text) {
				t.Fatalf("heard %v", m)
			}
		}
		id, err := speaker.Send(s.ctx, ksock.Request("$.Far", nil))
		if errors.Is(err, unix.EBUSY) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		waiting[id] = true
	}
	stats, err := ksock.Stats(s.ctx, s.sups[0].Socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	if stats[0].Ksocks[0].Missed == 0 {
		t.Error("nothing was missed by a Listener without room")
	}
	if m := s.open(0).call(ksock.Request("$.Near", []byte("q"))); string(m.Data) != "re: q" {
		t.Errorf("the answer is %v", m)
	}
	if err := b.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for len(waiting) > 0 { // by a Reply, or refused over there, where there is not that much room
		m := speaker.next()
		if !waiting[m.InReplyTo] {
			t.Errorf("%v answers nothing", m)
		}
		delete(waiting, m.InReplyTo)
	}
	s.until(func() bool {
		_, err := speaker.Call(s.ctx, ksock.Request("$.Far", nil))
		return err == nil
	})
}

// TestSlowLinkIsCut: a link that takes nothing any more ends, while the Limpet's queue
// is full of Requests: all are answered by the bus (R8.10), and the next link works.
func TestSlowLinkIsCut(t *testing.T) {
	s := newStage(t, 2)
	a := &process{part: part{Socket: s.sups[0].Socket, NetworkID: 1, Listen: s.path("link", 0), MaxMessages: 20}}
	b := &process{part: part{Socket: s.sups[1].Socket, NetworkID: 2, Connect: s.path("link", 0), MaxMessages: 20}}
	for _, p := range append(slices.Clone(s.sups), a, b) {
		s.start(p)
	}
	s.open(1).bind("$.Far", ksock.Replier).answers()
	asker := s.open(0).holds(4000)
	asker.sees("$.Far", true)
	if err := b.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waiting := map[ksock.MessageID]bool{}
	for full := 0; full < 100; { // also those that the link has taken wait
		id, err := asker.Send(s.ctx, ksock.Request("$.Far", make([]byte, 20000)))
		switch {
		case err == nil:
			waiting[id] = true
		case errors.Is(err, unix.EBUSY):
			full++
		default:
			t.Fatal(err)
		}
	}
	s.kill(b)
	got := map[string]int{}
	for len(waiting) > 0 {
		m := asker.next()
		if !waiting[m.InReplyTo] {
			t.Errorf("%v answers nothing", m)
		}
		delete(waiting, m.InReplyTo)
		got[m.Name]++
	}
	if got[ksock.StatusGoneAway] == 0 || got[ksock.StatusIgnored] == 0 {
		t.Errorf("the answers are %v", got)
	}
	s.start(b)
	asker.sees("$.Far", true)
	asker.call(ksock.Request("$.Far", nil))
	s.idle()
}
