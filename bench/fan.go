package bench

import (
	"context"
	"fmt"
	"time"

	"kbus.internal/ksock"
)

// fanQueue is how many messages each Listener's queue holds: the most there is.
const fanQueue = 4096

// FanResult is how many announcements each of the Listeners got.
type FanResult struct {
	Run
	Size        int     `json:"size"`
	InPlace     bool    `json:"in_place"`
	Listeners   int     `json:"listeners"`
	PerSecond   float64 `json:"per_second"`       // to every Listener: the rate of the slowest
	Bytes       float64 `json:"bytes_per_second"` // of data, to every Listener
	Sent        int64   `json:"sent"`
	Missed      int64   `json:"missed"` // by all Listeners together
	MaxMessages int     `json:"max_messages"`
}

// Fan measures announcements of one process to Listeners in processes of their
// own. The sender waits for the slowest (AllOrWait), so none may be missed.
func Fan(ctx context.Context, o Options) (*FanResult, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	f := &FanResult{Size: o.Size, InPlace: !o.Copy, Listeners: o.Listeners, MaxMessages: fanQueue}
	f.Run, err = measure(ctx, o, "fan", func(s *stage) error {
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
			s.o.Pin = pin
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
			f.count(reports[:o.Listeners], reports[o.Listeners].Messages)
		}
		return err
	})
	return f, err
}

func (f *FanResult) count(listeners []*report, sent int64) {
	f.Sent = sent
	for i, r := range listeners {
		f.Missed += sent - r.Messages
		rate := float64(r.Messages) / r.Elapsed.Seconds()
		if i == 0 || rate < f.PerSecond {
			f.PerSecond = rate
		}
	}
	f.Bytes = f.PerSecond * float64(f.Size)
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
