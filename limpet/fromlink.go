package limpet

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

var errLoop = errors.New("this Limpet's network id is in use elsewhere, or the Limpets form a loop: every id once, and one way only between two buses")

// fromLink puts on the bus what the other side sends, until the link ends.
func (s *session) fromLink() error {
	for {
		h, n, err := s.d.head()
		if err == nil {
			err = s.frame(&h, n)
		}
		switch {
		case s.ctx.Err() != nil:
			return nil
		case err == io.EOF:
			return errors.New("the other Limpet closed the link")
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the link ended within a frame: %w", err)
		case err != nil:
			return err
		}
		s.l.framesIn.Add(1)
	}
}

// frame reads the rest of a frame, n bytes of data, and does what it says (R8.5).
func (s *session) frame(h *ksock.Header, n int) error {
	if h.Name == ksock.ReplierBindEvent {
		if !inBuffer(n) {
			return s.d.skip(n) // no event is that long
		}
		data, err := s.d.small(n)
		if err != nil {
			return err
		}
		s.l.debug("from link", h, data)
		if e, ok := readEvent(data); ok {
			s.names.event(s.ctx, &e)
		}
		return nil
	}
	var body body
	var err error
	if inBuffer(n) {
		body.data, err = s.d.small(n)
	} else if body.loan, body.refused = s.k.Loan(n); body.refused != nil {
		err = s.d.skip(n)
	} else {
		body.data = body.loan.Data()
		err = s.d.into(body.data)
	}
	if err == nil {
		s.l.debug("from link", h, body.data)
		err = s.put(h, &body)
	}
	body.loan.Release()
	return err
}

// body is a frame's data: in the link's buffer, or where the bus will have it, or
// refused by the bus before it was read.
type body struct {
	data    []byte
	loan    ksock.Loan
	refused error
}

// relay puts a message on the bus.
func (s *session) relay(h *ksock.Header, b *body, copy bool) error {
	err := b.refused
	if err == nil {
		if b.loan == (ksock.Loan{}) {
			_, err = s.k.Relay(h, b.data, copy)
		} else {
			_, err = s.k.RelayLoan(h, b.loan, copy)
		}
	}
	if err != nil {
		s.l.refuses(h, err)
		return err
	}
	if h.Name == s.l.o.Terminate { // it would hear it itself (R8.11)
		s.finish()
		<-s.ctx.Done()
	}
	return nil
}

// put does what a frame says that is no bind event.
func (s *session) put(h *ksock.Header, b *body) error {
	if h.ID.Network == s.l.o.NetworkID {
		s.l.loop(h, "from the link")
		return s.dropped(h)
	}
	var err error
	switch {
	case h.IsReply():
		err = s.putReply(h, b)
	case h.Flags&ksock.WantReply == 0:
		err = s.relay(h, b, false)
	case h.Flags&ksock.MustReply == 0:
		err = s.relay(h, b, true) // R8.9
	default:
		return s.putRequest(h, b)
	}
	if err != nil && fatal(err) {
		return err
	}
	return nil // refused, dropped and counted (R8.6)
}

// dropped answers who waits because of a frame that was dropped: the sender of a
// Request, or the asker here of what was its only Reply.
func (s *session) dropped(h *ksock.Header) error {
	switch {
	case h.IsReply():
		if h.InReplyTo.Network == s.l.o.NetworkID {
			h.InReplyTo.Network = 0
		}
		if asker, ok := s.asked.take(h.InReplyTo); ok {
			return s.status(&ksock.Header{ID: h.InReplyTo, From: asker, Name: h.Name}, ksock.StatusIgnored)
		}
	case h.Flags&(ksock.WantReply|ksock.MustReply) == ksock.WantReply|ksock.MustReply:
		return s.answer(h, ksock.StatusIgnored)
	}
	return nil
}

func (s *session) putReply(h *ksock.Header, b *body) error {
	switch h.InReplyTo.Network {
	case 0:
		h.InReplyTo.Network = s.peer.Load() // and matches nothing
		return s.relay(h, b, true)
	case s.l.o.NetworkID:
		h.InReplyTo.Network = 0
	}
	asker, ok := s.asked.take(h.InReplyTo)
	if !ok {
		return s.relay(h, b, true) // R8.9
	}
	h.To, h.ID = asker, ksock.MessageID{}
	return s.relay(h, b, false)
}

// putRequest puts a Request on the bus that is to be answered here.
func (s *session) putRequest(h *ksock.Header, b *body) error {
	if h.ID.Network == 0 {
		h.ID.Network = s.peer.Load()
	}
	from := *h
	if h.To != 0 {
		name, err := s.stateful(h)
		if err != nil {
			return err
		}
		if name != "" {
			return s.answer(&from, name)
		}
	}
	err := s.relay(h, b, false)
	if err == nil {
		return nil
	}
	if fatal(err) {
		return err
	}
	errno := unix.EIO
	errors.As(err, &errno)
	return s.answer(&from, ksock.StatusRemoteError+strconv.Itoa(int(errno))) // R8.6
}

// stateful addresses a stateful Request to its Replier here, or tells the name of
// the answer if that is not the one it was meant for.
func (s *session) stateful(h *ksock.Header) (answer string, err error) {
	id, err := s.names.replier(h.Name)
	switch {
	case err != nil && fatal(err):
		return "", err
	case err != nil || id == 0 || id == s.k.ID():
		return ksock.StatusGoneAway, nil
	case h.FinalTo.Network == s.l.o.NetworkID:
		if id != h.FinalTo.Ksock {
			return ksock.StatusNotSameKsock, nil
		}
		h.FinalTo.Network = 0
	}
	h.To = id
	return "", nil
}

// relayed counts a refusal, and returns the error of a Ksock that is at its end.
func (s *session) relayed(_ ksock.MessageID, err error) error {
	if err != nil && fatal(err) {
		return err
	}
	if err != nil {
		s.l.refused.Add(1)
	}
	return nil
}

// refuses counts a message that the bus did not take, and tells the operator if
// that is for something that he can change.
func (l *Limpet) refuses(h *ksock.Header, err error) {
	l.refused.Add(1)
	switch {
	case fatal(err):
	case errors.Is(err, unix.ENOMEM):
		l.tell("room", unix.ENOMEM, "the bus has no room for messages from the other side, which are refused: read what waits on it, or give it more memory (kbus up --arena)", "message", h.Name)
	case errors.Is(err, unix.EMSGSIZE):
		l.tell("room", unix.EMSGSIZE, "messages from the other side are larger than this bus takes, and refused: raise its limit (kbus up --max-message)", "message", h.Name)
	default:
		l.log.Debug("the bus refused a message", "message", h.Name, "err", err)
	}
}
