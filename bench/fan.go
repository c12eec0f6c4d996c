package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kbus.internal/ksock"
)

// fanQueue is how many messages each Listener's queue holds: the most there is.
const fanQueue = 4096

// Fan measures announcements of Senders processes, all to the same name, to
// Listeners in processes of their own, one by one or in batches. Senders wait for the slowest (AllOrWait),
// so none may be missed.
func Fan(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "fan", func(s *stage) error {
		r, senders := s.result, s.o.Senders
		r.ofMessages(s.o)
		r.Wait, r.Senders, r.Listeners, r.MaxMessages = s.o.Wait, senders, s.o.Listeners, fanQueue
		if s.o.Batch > 1 {
			r.BatchSize, r.InPlace = s.o.Batch, false // SendBatch copies
		}
		roles := append(slices.Repeat([]string{"announcer"}, senders), slices.Repeat([]string{"listener"}, s.o.Listeners)...)
		if err := s.set(roles...); err != nil {
			return err
		}
		reports, err := s.play()
		if err != nil {
			return err
		}
		sent := int64(0)
		for _, a := range reports[:senders] {
			sent += a.Messages
		}
		r.count(reports[senders:], sent)
		return nil
	})
}

// count takes over what Listeners got of the messages sent.
func (r *Result) count(listeners []*report, sent int64) {
	r.Sent = sent
	for i, l := range listeners {
		r.Missed += sent - l.Messages
		if each := rate(l.Messages, l.Elapsed); i == 0 || each < r.PerSecond {
			r.PerSecond = each
		}
	}
}

func announcer(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	h := ksock.Header{Name: w.name(fanName), Flags: ksock.AllOrWait}
	n := uint64(0)
	some := func() error {
		for range 16 {
			n++
			if err := e.send(&h, n); err != nil {
				return err
			}
		}
		return nil
	}
	if w.Batch > 1 {
		ms := make([]*ksock.Message, w.Batch)
		for i := range ms {
			ms[i] = &ksock.Message{Header: h, Data: make([]byte, w.Size)}
		}
		some = func() error {
			for _, m := range ms {
				n++
				mark(m.Data, n)
			}
			_, err := e.k.SendBatch(w.ctx, ms)
			return err
		}
	}
	for begin := now(); now()-begin < int64(w.Duration); {
		if err := some(); err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n)}, e.finish(endName)
}

func listener(w *worker) (*report, error) {
	e, err := w.openListener(fanQueue, fanName, endName)
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	count, begin, over := int64(0), int64(0), false
	var senders order
	check := func(h *ksock.Header, data []byte) error {
		if h.Name == endName {
			over = senders.over(w.Senders)
			return nil
		}
		if n := senders.next(h.From); !marked(data, w.Size, n) {
			return fmt.Errorf("another message than number %d", n)
		}
		count++
		return nil
	}
	receive := e.receive
	if w.Batch > 1 {
		vs := make([]ksock.View, w.Batch)
		receive = func(f func(*ksock.Header, []byte) error) error { return e.receiveBatch(vs, f) }
	}
	for !over {
		if err := receive(check); err != nil {
			return nil, err
		}
		if begin == 0 {
			begin = now()
		}
	}
	return &report{Messages: count, Elapsed: time.Duration(now() - begin)}, nil
}

// openListener opens a Listener to messages of a name, and to their end.
func (w *worker) openListener(queue uint32, name, last string) (*end, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if _, err := e.k.SetMaxMessages(w.ctx, queue); err != nil {
		return nil, err
	}
	for _, name := range []string{w.bound(name), last} {
		if err := e.k.Bind(w.ctx, name, ksock.Listener); err != nil {
			return nil, err
		}
	}
	return e, nil
}
