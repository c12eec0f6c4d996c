package limpet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"

	"kbus.internal/ksock"
)

// Data up to copied bytes is copied next to its header; larger data goes from the
// bus's memory to the link as it lies there.
const copied = 1024

// A batch is leaving by one gathered write.
const (
	mostFrames = 64
	mostBytes  = 256 << 10
)

// batch gathers frames for one write.
type batch struct {
	heads []byte // headers, names, small data, guards
	parts []part
	from  int // the first byte of heads that is in no part yet
	views []ksock.View
	n     int // frames
	bytes int
	iov   net.Buffers
}

// part is a piece of a frame: of heads, or of a view.
type part struct {
	a, b int
	data []byte
}

// add appends a frame and takes the view over; data is its own or the view's.
func (b *batch) add(h *ksock.Header, data []byte, v ksock.View) {
	b.heads = appendHead(b.heads, h, len(data))
	b.n++
	b.bytes += headSize + namePadded(len(h.Name)) + dataPadded(len(data)) + guardSize
	if len(data) <= copied {
		b.heads = append(append(b.heads, data...), tail(len(data))...)
		v.Release()
		return
	}
	b.parts = append(b.parts, part{a: b.from, b: len(b.heads)}, part{data: data})
	b.from = len(b.heads)
	b.heads = append(b.heads, tail(len(data))...)
	b.views = append(b.views, v)
}

func (b *batch) full() bool { return b.n >= mostFrames || b.bytes >= mostBytes }

// buffers are the pieces in their order.
func (b *batch) buffers() net.Buffers {
	b.iov = b.iov[:0]
	for _, p := range b.parts {
		if p.data == nil {
			p.data = b.heads[p.a:p.b]
		}
		b.iov = append(b.iov, p.data)
	}
	if b.from < len(b.heads) {
		b.iov = append(b.iov, b.heads[b.from:])
	}
	return b.iov
}

// reset lets go of what the batch held.
func (b *batch) reset() {
	for i := range b.views {
		b.views[i].Release()
	}
	clear(b.parts)
	clear(b.iov)
	*b = batch{heads: b.heads[:0], parts: b.parts[:0], views: b.views[:0], iov: b.iov[:0]}
}

// fromBus passes on what the bus has for this Limpet, until the link ends.
func (s *session) fromBus() error {
	var b batch
	defer b.reset()
	left := -1 // messages to be passed on before the Limpet ends; -1: it does not
	for {
		s.waits.Store(false)
		s.turns.Add(1)
		var err error
		if left < 0 && s.last.Err() != nil {
			left, err = s.k.Unread()
		}
		var v ksock.View
		var ok bool
		if err == nil && left != 0 {
			v, ok, err = s.k.TryView()
		}
		if err == nil && ok {
			err = s.pass(&b, v)
			left = max(left-1, min(left, 0))
		}
		if ends := err == ErrTerminated; ends || err == nil && left == 0 {
			return cmp.Or(s.flush(&b), ErrTerminated)
		}
		if err == nil && (!ok || b.full()) {
			err = s.flush(&b)
		}
		if err == nil && !ok {
			s.waits.Store(true)
			if err = s.k.WaitReadable(s.last); s.last.Err() != nil && s.ctx.Err() == nil {
				err = nil
			}
		}
		if err != nil {
			return s.busError(err)
		}
	}
}

// busError is why reading the bus ended.
func (s *session) busError(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return err
}

func (s *session) flush(b *batch) error {
	if b.n == 0 {
		return nil
	}
	s.wmu.Lock()
	written, err := gather(s.link, b.buffers())
	s.wmu.Unlock()
	s.l.bytesOut.Add(uint64(written))
	if err != nil {
		return err
	}
	s.l.framesOut.Add(uint64(b.n))
	b.reset()
	return nil
}

func gather(l Link, v net.Buffers) (int64, error) {
	if g, ok := l.(Gatherer); ok {
		return g.WriteBuffers(v)
	}
	return v.WriteTo(l)
}

// pass puts a message read from the bus into the batch, or drops it (R8.4). The
// view is its own.
func (s *session) pass(b *batch, v ksock.View) error {
	l := s.l
	h, data := v.Header(), v.Data()
	if h.Name == l.o.Terminate && l.o.Terminate != "" {
		v.Release()
		return ErrTerminated // R8.11
	}
	if h.From == s.k.ID() {
		var err error
		if v.MustReply() {
			err = s.ownRequest(&h)
		}
		v.Release()
		return err
	}
	mustReply := v.MustReply()
	switch {
	case h.Name == ksock.ReplierBindEvent:
		e, ok := ksock.ParseBindEvent(&ksock.Message{Header: h, Data: data})
		if h.From != 0 || !ok || e.Binder == s.k.ID() {
			v.Release()
			return s.ignore(&h, mustReply)
		}
		data = appendEvent(nil, &e)
		if e.Bound {
			s.told[e.Name] = true
		} else {
			delete(s.told, e.Name)
		}
	case h.ID.Network == s.peer.Load():
		v.Release()
		return s.ignore(&h, mustReply)
	case h.ID.Network == l.o.NetworkID:
		v.Release()
		l.loop(&h, "from the bus")
		return s.ignore(&h, mustReply)
	}
	if mustReply {
		s.asked.add(h.ID, h.From)
	}
	if h.ID.Network == 0 {
		h.ID.Network = l.o.NetworkID
	}
	if h.OrigFrom.Network == 0 {
		h.OrigFrom = ksock.EndPoint{Network: l.o.NetworkID, Ksock: h.From}
	}
	if h.IsReply() && h.To != s.k.ID() && h.InReplyTo.Network == 0 {
		h.InReplyTo.Network = l.o.NetworkID
	}
	l.debug("to link", &h, data)
	lost := h.Name == ksock.UnbindEventsLost && h.From == 0
	b.add(&h, data, v)
	if lost {
		return s.tellLost(b)
	}
	return nil
}

// tellLost tells the other side of unbindings whose events this Limpet has missed
// (R7.4): it would go on as proxy for names that nobody replies to.
func (s *session) tellLost(b *batch) error {
	for name := range s.told {
		id, err := s.k.Replier(name)
		if err != nil {
			return err
		}
		if id != 0 && id != s.k.ID() {
			continue
		}
		delete(s.told, name)
		e := ksock.BindEvent{Name: name}
		h := ksock.Header{Name: ksock.ReplierBindEvent, OrigFrom: ksock.EndPoint{Network: s.l.o.NetworkID}, Flags: ksock.Synthetic | ksock.AllOrFail}
		b.add(&h, appendEvent(nil, &e), ksock.View{})
	}
	return nil
}

// ignore answers a Request that is dropped, if this Limpet was to reply to it: as
// the bus would when the Limpet closes, which its asker need not wait for (R5.6).
func (s *session) ignore(h *ksock.Header, mustReply bool) error {
	if !mustReply {
		return nil
	}
	return s.status(h, ksock.StatusIgnored)
}

// status answers a Request that was read from the bus.
func (s *session) status(h *ksock.Header, name string) error {
	reply := ksock.ReplyHeader(h)
	reply.Name = name
	return s.relayed(s.k.Relay(&reply, nil, false))
}

// ownRequest answers a Request from the other side whose Replier here turned out
// to be this Limpet, so that it would only come back: a binding was given up over
// there and could not be here, yet.
func (s *session) ownRequest(h *ksock.Header) error {
	if err := s.status(h, ksock.StatusGoneAway); err != nil {
		return err
	}
	return s.answer(&ksock.Header{ID: h.ID, From: h.OrigFrom.Ksock}, ksock.StatusGoneAway)
}

// loop is R8.8.
func (l *Limpet) loop(h *ksock.Header, from string) {
	l.looped.Add(1)
	l.tell("loop", errLoop, fmt.Sprintf("a message came %s that had been here before; dropped", from), "message", h.Name, "id", h.ID)
}

func (l *Limpet) debug(where string, h *ksock.Header, data []byte) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		const most = 1000
		m := &ksock.Message{Header: *h, Data: data[:min(len(data), most)]}
		l.log.Debug(where, "message", m.String(), "bytes", len(data))
	}
}
