package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"kbus.internal/ksock"
)

// Names of the messages.
const (
	askName  = "$.Bench.Ask"
	fanName  = "$.Bench.Fan"
	endName  = "$.Bench.End"
	bindName = "$.Bench.Bind"
)

// RTT measures Request and Reply between Senders askers, each in a process of its
// own, and one Replier. In place the data is not touched but for its first and last
// eight bytes, at both ends.
func RTT(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "rtt", func(s *stage) error {
		s.result.ofMessages(s.o)
		s.result.Wait, s.result.Senders = s.o.Wait, s.o.Senders
		askers := slices.Repeat([]string{"asker"}, s.o.Senders)
		err := s.set(append(askers, "replier")...)
		if err == nil {
			s.result.Latency, s.result.PerSecond, err = s.ask()
		}
		return err
	})
}

// ask plays what begins with askers.
func (s *stage) ask() (l *Latency, perSecond float64, err error) {
	reports, err := s.play()
	if err != nil {
		return nil, 0, err
	}
	var all []*Latency
	for _, r := range reports[:s.o.Senders] {
		all = append(all, r.Latencies[""])
		perSecond += r.Rate
	}
	l, err = together(all)
	return l, perSecond, err
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
	h    ksock.Header
}

func (w *worker) openEnd() (*end, error) {
	k, err := w.open()
	return &end{w: w, k: k, data: make([]byte, w.Size)}, err
}

// send sends message n.
func (e *end) send(h *ksock.Header, n uint64) error { return e.put(h, n, func([]byte) {}) }

// put sends message n with what fill writes into it.
func (e *end) put(h *ksock.Header, n uint64, fill func(data []byte)) error {
	if e.w.Copy {
		fill(e.data)
		mark(e.data, n)
		_, err := e.k.Send(e.w.ctx, &ksock.Message{Header: *h, Data: e.data})
		return err
	}
	loan, err := e.k.Loan(e.w.Size)
	if err != nil {
		return err
	}
	data := loan.Data()
	fill(data)
	mark(data, n)
	if _, err := e.k.SendLoan(e.w.ctx, h, loan); err != nil {
		loan.Release()
		return err
	}
	return nil
}

// receive waits for a message, and gives its header and its data to f.
func (e *end) receive(f func(h *ksock.Header, data []byte) error) error {
	if e.w.Copy {
		m, err := e.k.Next(e.w.ctx)
		if err != nil {
			return err
		}
		return f(&m.Header, m.Data)
	}
	v, err := e.k.View(e.w.ctx)
	if err != nil {
		return err
	}
	e.h = v.Header() // not a variable, which would be allocated for each message
	err = f(&e.h, v.Data())
	v.Release()
	return err
}

// receiveBatch is receive for as many messages as there are, at most len(vs).
func (e *end) receiveBatch(vs []ksock.View, f func(h *ksock.Header, data []byte) error) error {
	n, err := e.k.ViewBatch(e.w.ctx, vs)
	for _, v := range vs[:n] {
		if err == nil {
			e.h = v.Header()
			err = f(&e.h, v.Data())
		}
	}
	e.k.ReleaseAll(vs[:n])
	return err
}

// finish tells whoever listens to name that this process sends no more.
func (e *end) finish(name string) error {
	m := ksock.Announce(name, nil)
	m.Flags |= ksock.AllOrWait
	_, err := e.k.Send(e.w.ctx, m)
	return err
}

// An order is that in which one process gets the messages of others, each of
// which numbers its own.
type order struct {
	senders []numbered
	at      int // of the last message: mostly the next one's, too
	ends    int
}

type numbered struct {
	from uint32
	n    uint64
}

// next tells the number that the next message from a Ksock is to have.
func (o *order) next(from uint32) uint64 {
	if o.at >= len(o.senders) || o.senders[o.at].from != from {
		o.at = slices.IndexFunc(o.senders, func(s numbered) bool { return s.from == from })
		if o.at < 0 {
			o.at = len(o.senders)
			o.senders = append(o.senders, numbered{from: from})
		}
	}
	o.senders[o.at].n++
	return o.senders[o.at].n
}

// over counts an end, and tells whether it was the last of n.
func (o *order) over(n int) bool {
	o.ends++
	return o.ends == n
}

func asker(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	if err := w.joined(e.k, w.bound(askName)); err != nil {
		return nil, err
	}
	n := uint64(0)
	request := ksock.Header{Name: w.name(askName), Flags: ksock.WantReply}
	check := func(h *ksock.Header, data []byte) error {
		if !marked(data, w.Size, n) || h.Name != request.Name || h.InReplyTo == (ksock.MessageID{}) {
			return fmt.Errorf("instead of Reply %d came a message %s", n, h.Name)
		}
		return nil
	}
	r, err := w.timed(1, step{do: func() error {
		n++
		if err := e.send(&request, n); err != nil {
			return err
		}
		return e.receive(check)
	}})
	if err != nil {
		return nil, err
	}
	return r, e.finish(endName)
}

func replier(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if err := e.k.Bind(w.ctx, w.bound(askName), ksock.Replier); err != nil {
		return nil, err
	}
	if err := e.k.Bind(w.ctx, endName, ksock.Listener); err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	count, over := int64(0), false
	var askers order
	answer := func(h *ksock.Header, data []byte) error {
		if h.Name == endName {
			over = askers.over(w.Senders)
			return nil
		}
		n := askers.next(h.From)
		if !marked(data, w.Size, n) {
			return fmt.Errorf("instead of Request %d came a message %s", n, h.Name)
		}
		count++
		reply := ksock.ReplyHeader(h)
		return e.send(&reply, n)
	}
	for !over {
		if err := e.receive(answer); err != nil {
			return nil, err
		}
	}
	return &report{Messages: count}, nil
}
