package bench

import (
	"context"
	"encoding/binary"
	"fmt"

	"kbus.internal/ksock"
)

// Names of the messages.
const (
	askName  = "$.Bench.Ask"
	fanName  = "$.Bench.Fan"
	endName  = "$.Bench.End"
	bindName = "$.Bench.Bind"
)

// RTT measures Request and Reply between two processes. In place the data is
// not touched but for its first and last eight bytes, at both ends.
func RTT(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "rtt", func(s *stage) error {
		s.result.ofMessages(s.o)
		s.result.Wait = s.o.Wait
		if err := s.bus(); err != nil {
			return err
		}
		l, err := s.roundTrip()
		s.result.Latency = l
		return err
	})
}

// mark writes n to the first and last bytes of data.
func mark(data []byte, n uint64) {
	if len(data) >= 8 {
		binary.LittleEndian.PutUint64(data, n)
		binary.LittleEndian.PutUint64(data[len(data)-8:], n)
	}
}

// marked tells whether data has size bytes and was marked with n.
func marked(data []byte, size int, n uint64) bool {
	return len(data) == size && (size < 8 ||
		binary.LittleEndian.Uint64(data) == n && binary.LittleEndian.Uint64(data[size-8:]) == n)
}

// An end is a Ksock that sends and receives as the task says.
type end struct {
	w    *worker
	k    *ksock.Ksock
	data []byte // if it copies
}

func (w *worker) openEnd() (*end, error) {
	k, err := w.open()
	return &end{w, k, make([]byte, w.Size)}, err
}

// send sends message n.
func (e *end) send(h *ksock.Header, n uint64) error {
	if e.w.Copy {
		mark(e.data, n)
		_, err := e.k.Send(e.w.ctx, &ksock.Message{Header: *h, Data: e.data})
		return err
	}
	loan, err := e.k.Loan(e.w.Size)
	if err != nil {
		return err
	}
	mark(loan.Data(), n)
	if _, err := e.k.SendLoan(e.w.ctx, h, loan); err != nil {
		loan.Release()
		return err
	}
	return nil
}

// receive waits for message n, and gives its header and that it is n to f.
func (e *end) receive(n uint64, f func(h *ksock.Header, is bool) error) error {
	if e.w.Copy {
		m, err := e.k.Next(e.w.ctx)
		if err != nil {
			return err
		}
		return f(&m.Header, marked(m.Data, e.w.Size, n))
	}
	v, err := e.k.View(e.w.ctx)
	if err != nil {
		return err
	}
	h := v.Header()
	err = f(&h, marked(v.Data(), e.w.Size, n))
	v.Release()
	return err
}

// finish tells the others that there will be no more.
func (e *end) finish() error {
	m := ksock.Announce(endName, nil)
	m.Flags |= ksock.AllOrWait
	_, err := e.k.Send(e.w.ctx, m)
	return err
}

func asker(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	defer e.k.Close()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	if err := w.joined(e.k, askName); err != nil {
		return nil, err
	}
	n := uint64(0)
	request := ksock.Header{Name: askName, Flags: ksock.WantReply}
	check := func(h *ksock.Header, is bool) error {
		if !is || h.Name != askName || h.InReplyTo == (ksock.MessageID{}) {
			return fmt.Errorf("instead of Reply %d came a message %s", n, h.Name)
		}
		return nil
	}
	r, err := w.timed(1, step{do: func() error {
		n++
		if err := e.send(&request, n); err != nil {
			return err
		}
		return e.receive(n, check)
	}})
	if err != nil {
		return nil, err
	}
	return r, e.finish()
}

func replier(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	defer e.k.Close()
	if err := e.k.Bind(w.ctx, askName, ksock.Replier); err != nil {
		return nil, err
	}
	if err := e.k.Bind(w.ctx, endName, ksock.Listener); err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	n, over := uint64(0), false
	answer := func(h *ksock.Header, is bool) error {
		switch {
		case h.Name == endName:
			over = true
			return nil
		case !is:
			return fmt.Errorf("instead of Request %d came a message %s", n+1, h.Name)
		}
		n++
		reply := ksock.ReplyHeader(h)
		return e.send(&reply, n)
	}
	for !over {
		if err := e.receive(n+1, answer); err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n)}, nil
}
