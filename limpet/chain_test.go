package limpet_test

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// chain is three buses, 0, 1 and 2, joined by four Limpets: of networks 1 and 2
// between the first two, 3 and 4 between the others. Those of 1 and 3 listen.
func chain(t *testing.T) (*stage, []*process) {
	s := newStage(t, 3)
	limpets := make([]*process, 4)
	for i := range limpets {
		p := part{Socket: s.sups[(i+1)/2].Socket, NetworkID: uint32(i + 1), MaxMessages: 4000}
		if i%2 == 0 {
			p.Listen = s.path("link", i)
		} else {
			p.Connect = s.path("link", i-1)
		}
		limpets[i] = &process{part: p}
	}
	return s, limpets
}

// joined waits until the Limpets have made one of the buses: a Replier on each is
// known on every other.
func (s *stage) joined() (end func()) {
	s.Helper()
	var probes []*actor
	for i := range s.sups {
		probes = append(probes, s.open(i).bind(fmt.Sprintf("$.Here.%d", i), ksock.Replier))
	}
	for _, p := range probes {
		for i := range s.sups {
			p.sees(fmt.Sprintf("$.Here.%d", i), true)
		}
	}
	return func() {
		for _, p := range probes {
			p.Close()
		}
	}
}

func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, p := range permutations(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(p), i, n-1))
		}
	}
	return all
}

// TestChain: three buses are one, in whatever order the Limpets are started.
func TestChain(t *testing.T) {
	s, limpets := chain(t)
	for _, p := range s.sups {
		s.start(p)
	}
	orders := permutations(len(limpets))
	if testing.Short() {
		orders = orders[:3]
	}
	for _, order := range orders {
		for _, i := range order {
			s.start(limpets[i])
		}
		end := s.joined()
		s.heardOnce(20)
		s.endToEnd()
		end()
		for _, p := range limpets {
			s.kill(p)
		}
		if t.Failed() {
			t.Fatalf("order %v", order)
		}
	}
}

// TestChainWaitsForSupervisors: the supervisors may be the last to be started, too.
func TestChainWaitsForSupervisors(t *testing.T) {
	for _, order := range [][]int{{3, 4, 5, 6, 0, 1, 2}, {6, 2, 5, 1, 4, 0, 3}, {3, 6, 1, 0, 4, 5, 2}} {
		s, limpets := chain(t)
		all := append(slices.Clone(s.sups), limpets...)
		for _, i := range order {
			s.start(all[i])
		}
		end := s.joined()
		s.heardOnce(5)
		s.endToEnd()
		end()
		for _, p := range all {
			s.kill(p)
		}
	}
}

// heardOnce announces n messages on each bus; all are heard once on every bus, in
// one order for all Listeners of a bus.
func (s *stage) heardOnce(n int) {
	s.Helper()
	var listeners [][2]*actor
	for i := range s.sups {
		listeners = append(listeners, [2]*actor{
			s.open(i).holds(1000).bind("$.News.*", ksock.Listener), s.open(i).holds(1000).bind("$.News.*", ksock.Listener),
		})
	}
	var want []string
	var speakers []*actor
	for i := range s.sups {
		speakers = append(speakers, s.open(i))
	}
	for j := range n {
		for i, a := range speakers {
			text := fmt.Sprintf("%d from bus %d", j, i)
			want = append(want, text)
			a.send(ksock.Announce("$.News.Today", []byte(text)))
		}
	}
	slices.Sort(want)
	for i, pair := range listeners {
		var heard [2][]string
		for k, l := range pair {
			for range want {
				heard[k] = append(heard[k], string(l.next().Data))
			}
		}
		if !slices.Equal(heard[0], heard[1]) {
			s.Errorf("two orders on bus %d:\n%q\n%q", i, heard[0], heard[1])
		}
		slices.Sort(heard[0])
		if !slices.Equal(heard[0], want) {
			s.Errorf("bus %d heard %q", i, heard[0])
		}
	}
	// Nothing comes twice: what is sent last is heard next by everybody.
	for i, a := range speakers {
		a.send(ksock.Announce("$.News.Last", []byte{byte(i)}))
		for _, pair := range listeners {
			for _, l := range pair {
				if m := l.next(); m.Name != "$.News.Last" || m.Data[0] != byte(i) {
					s.Errorf("heard %v once more", m)
				}
			}
		}
	}
	for i, pair := range listeners {
		speakers[i].Close()
		pair[0].Close()
		pair[1].Close()
	}
}

// endToEnd asks from the first bus to the last and back: plain and stateful
// Requests, each answered once.
func (s *stage) endToEnd() {
	s.Helper()
	for _, way := range [][2]int{{0, 2}, {2, 0}, {0, 1}, {1, 2}} {
		a, r := s.open(way[0]), s.open(way[1])
		name := fmt.Sprintf("$.Ask.%d.%d", way[0], way[1])
		r.bind(name, ksock.Replier)
		a.sees(name, true)
		ask := func(m *ksock.Message) (q *ksock.Message, id ksock.MessageID) { // and the Replier reads it
			id = a.send(m)
			if q = r.next(); !q.MustReply() {
				s.Errorf("%v is not to be answered", q)
			}
			return q, id
		}
		hears := func(id ksock.MessageID, name string) *ksock.Message {
			s.Helper()
			m := a.next()
			if m.InReplyTo != id || m.Name != name || m.To != a.ID() {
				s.Errorf("%v answers %v, not %s", m, id, name)
			}
			return m
		}
		q, id := ask(ksock.Request(name, []byte("q")))
		r.send(ksock.ReplyTo(q, []byte("r")))
		reply := hears(id, name)
		if string(reply.Data) != "r" || reply.OrigFrom.Ksock != r.ID() || reply.OrigFrom.Network == 0 {
			s.Errorf("the Reply is %v", reply)
		}
		// A stateful one goes to the same Ksock.
		q, id = ask(ksock.StatefulRequest(reply, name, []byte("stateful")))
		r.send(ksock.ReplyTo(q, []byte("r2")))
		if m := hears(id, name); m.OrigFrom != reply.OrigFrom {
			s.Errorf("the second Reply is %v", m)
		}
		// Its Replier goes: having read one, and not the next.
		_, read := ask(ksock.StatefulRequest(reply, name, nil))
		unread := a.send(ksock.StatefulRequest(reply, name, nil))
		s.until(func() bool { n, err := r.Unread(); return err != nil || n == 1 })
		r.Close()
		hears(unread, ksock.StatusGoneAway)
		hears(read, ksock.StatusIgnored)
		a.sees(name, false)
		// Another Replier is not the same.
		r = s.open(way[1]).bind(name, ksock.Replier)
		a.sees(name, true)
		a.status(ksock.StatefulRequest(reply, name, nil), ksock.StatusNotSameKsock)
		// One without room refuses, stateful or not.
		r.holds(1)
		_, id = ksock.MessageID{}, a.send(ksock.Request(name, []byte("fills the queue")))
		s.until(func() bool { n, _ := r.Unread(); return n == 1 })
		a.status(ksock.Request(name, nil), fmt.Sprintf("%s%d", ksock.StatusRemoteError, unix.EBUSY))
		r.send(ksock.ReplyTo(r.next(), nil))
		reply = hears(id, name)
		id = a.send(ksock.StatefulRequest(reply, name, nil))
		s.until(func() bool { n, _ := r.Unread(); return n == 1 })
		a.status(ksock.StatefulRequest(reply, name, nil), fmt.Sprintf("%s%d", ksock.StatusRemoteError, unix.EBUSY))
		r.send(ksock.ReplyTo(r.next(), nil))
		hears(id, name)
		if n, err := a.Unread(); n != 0 || err != nil {
			s.Errorf("%d messages more, %v", n, err)
		}
		a.Close()
		r.Close()
	}
	s.idle()
}

// TestMerelyHeard: ten thousand Requests that the other side only hears are heard
// there, if there is room, and hold no place anywhere (R8.9).
func TestMerelyHeard(t *testing.T) {
	s, limpets := chain(t)
	for _, p := range append(slices.Clone(s.sups), limpets...) {
		s.start(p)
	}
	defer s.joined()()
	ears := []*actor{s.open(0).holds(4096).bind("$.Local", ksock.Listener), s.open(2).holds(4096).bind("$.Local", ksock.Listener)}
	a, r := s.open(1), s.open(1)
	r.bind("$.Local", ksock.Replier).answers()
	const n = 10000
	for i := range n {
		a.call(ksock.Request("$.Local", fmt.Append(nil, i)))
		for _, e := range ears { // in step, so that nothing is missed
			for _, kind := range []string{"Request", "Reply"} {
				if m := e.next(); m.Kind() != kind || m.MustReply() {
					t.Fatalf("after %d Requests: heard %v, not a %s", i, m, kind)
				}
			}
		}
	}
	s.idle()
	a.Close()
	r.Close()
	s.endToEnd()
}
