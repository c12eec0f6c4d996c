package bench

import (
	"context"
	"fmt"

	"kbus.internal/ksock"
)

// Local measures sending and receiving in one process that has the bus for
// itself: no other CPU touches it, nobody waits.
func Local(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "local", func(s *stage) error {
		s.result.ofMessages(s.o)
		l, err := s.alone("local")
		if err == nil {
			s.result.Latency = l[""]
		}
		return err
	})
}

// Send measures sending alone, and receiving alone, in one process: a few
// announcements are sent, then these are received.
func Send(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "send", func(s *stage) error {
		s.result.ofMessages(s.o)
		l, err := s.alone("sender")
		if err == nil {
			s.result.Latency, s.result.Receive = l["send"], l["receive"]
		}
		return err
	})
}

// alone is a bus with one process in one role.
func (s *stage) alone(role string) (map[string]*Latency, error) {
	if err := s.set(role); err != nil {
		return nil, err
	}
	reports, err := s.play()
	if err != nil {
		return nil, err
	}
	s.result.PerSecond = reports[0].Rate
	return reports[0].Latencies, nil
}

// pair is a sender and a Listener in one process.
type pair struct {
	from, to *end
	h        ksock.Header
	sent, n  uint64 // n: received
	check    func(*ksock.Header, []byte) error
}

func (w *worker) openPair() (*pair, error) {
	p := &pair{h: ksock.Header{Name: w.name(fanName)}}
	p.check = func(_ *ksock.Header, data []byte) error {
		if p.n++; !marked(data, w.Size, p.n) {
			return fmt.Errorf("another message than number %d", p.n)
		}
		return nil
	}
	var err error
	if p.from, err = w.openEnd(); err != nil {
		return nil, err
	}
	if p.to, err = w.openEnd(); err != nil {
		return nil, err
	}
	if err = p.to.k.Bind(w.ctx, w.bound(fanName), ksock.Listener); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pair) send() error {
	p.sent++
	return p.from.send(&p.h, p.sent)
}

func (p *pair) receive() error { return p.to.receive(p.check) }

// pass sends one message and receives it.
func (p *pair) pass() error {
	if err := p.send(); err != nil {
		return err
	}
	return p.receive()
}

func local(w *worker) (*report, error) {
	p, err := w.openPair()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	return w.timed(batch, step{"", batched(p.pass)})
}

// batch is how often what is short is done between two readings of the clock,
// which are small beside it then.
const batch = 16

func batched(do func() error) func() error {
	return func() error {
		for range batch {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	}
}

func sender(w *worker) (*report, error) {
	p, err := w.openPair()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	return w.timed(batch, step{"send", batched(p.send)}, step{"receive", batched(p.receive)})
}
