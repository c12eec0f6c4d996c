package bench

import (
	"context"
	"fmt"
	"time"

	"kbus.internal/ksock"
)

// fanQueue is how many messages each Listener's queue holds: the most there is.
const fanQueue = 4096

// Fan measures announcements of one process to Listeners in processes of their
// own. The sender waits for the slowest (AllOrWait), so none may be missed.
func Fan(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "fan", func(s *stage) error {
		o, r := &s.o, s.result
		r.ofMessages(*o)
		r.Wait, r.Listeners, r.MaxMessages = o.Wait, o.Listeners, fanQueue
		if err := s.bus(); err != nil {
			return err
		}
		// The sender enters last, but is to have the first of the CPUs.
		if n := len(o.Pin); n > 0 {
			pin := make([]int, o.Listeners+1)
			for i := range pin {
				pin[i] = o.Pin[(i+1)%n]
			}
			pin[o.Listeners] = o.Pin[0]
			o.Pin = pin
		}
		for range o.Listeners {
			if _, _, err := s.enter("listener"); err != nil {
				return err
			}
		}
		if _, _, err := s.enter("announcer"); err != nil {
			return err
		}
		reports, err := s.play()
		if err == nil {
			r.count(reports[:o.Listeners], reports[o.Listeners].Messages)
		}
		return err
	})
}

// count takes over what Listeners got of the messages sent.
func (r *Result) count(listeners []*report, sent int64) {
	r.Sent = sent
	for i, l := range listeners {
		r.Missed += sent - l.Messages
		rate := float64(l.Messages) / l.Elapsed.Seconds()
		if i == 0 || rate < r.PerSecond {
			r.PerSecond = rate
		}
	}
}

func announcer(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	defer e.k.Close()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	h := ksock.Header{Name: fanName, Flags: ksock.AllOrWait}
	n := uint64(0)
	for begin := now(); now()-begin < int64(w.Duration); {
		for range 16 {
			n++
			if err := e.send(&h, n); err != nil {
				return nil, err
			}
		}
	}
	return &report{Messages: int64(n)}, e.finish()
}

func listener(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	defer e.k.Close()
	if _, err := e.k.SetMaxMessages(w.ctx, fanQueue); err != nil {
		return nil, err
	}
	for _, name := range []string{fanName, endName} {
		if err := e.k.Bind(w.ctx, name, ksock.Listener); err != nil {
			return nil, err
		}
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	n, begin, over := uint64(0), int64(0), false
	check := func(h *ksock.Header, is bool) error {
		switch {
		case h.Name == endName:
			over = true
		case !is:
			return fmt.Errorf("another message than number %d", n+1)
		default:
			n++
		}
		return nil
	}
	for !over {
		if err := e.receive(n+1, check); err != nil {
			return nil, err
		}
		if begin == 0 {
			begin = now()
		}
	}
	return &report{Messages: int64(n), Elapsed: time.Duration(now() - begin)}, nil
}
