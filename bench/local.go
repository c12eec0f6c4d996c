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

// alone is a bus with one process in one role.
func (s *stage) alone(role string) (map[string]*Latency, error) {
	if err := s.bus(); err != nil {
		return nil, err
	}
	if _, _, err := s.enter(role); err != nil {
		return nil, err
	}
	reports, err := s.play()
	if err != nil {
		return nil, err
	}
	return reports[0].Latencies, nil
}

// pair is a sender and a Listener in one process.
type pair struct {
	from, to *end
	h        ksock.Header
	n        uint64
	check    func(*ksock.Header, bool) error
}

func (w *worker) openPair() (*pair, error) {
	p := &pair{h: ksock.Header{Name: fanName}}
	p.check = func(_ *ksock.Header, is bool) error {
		if !is {
			return fmt.Errorf("another message than number %d", p.n)
		}
		return nil
	}
	var err error
	if p.from, err = w.openEnd(); err != nil {
		return nil, err
	}
	if p.to, err = w.openEnd(); err != nil {
		p.from.k.Close()
		return nil, err
	}
	if err = p.to.k.Bind(w.ctx, fanName, ksock.Listener); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// pass sends one message and receives it.
func (p *pair) pass() error {
	p.n++
	if err := p.from.send(&p.h, p.n); err != nil {
		return err
	}
	return p.to.receive(p.n, p.check)
}

func (p *pair) close() {
	p.from.k.Close()
	p.to.k.Close()
}

func local(w *worker) (*report, error) {
	p, err := w.openPair()
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	const batch = 16 // such that reading the clock is small beside it
	return w.timed(batch, step{do: func() error {
		for range batch {
			if err := p.pass(); err != nil {
				return err
			}
		}
		return nil
	}})
}
