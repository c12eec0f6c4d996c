package bench

import (
	"errors"
	"io"
)

// link is an end of a connection of two processes that carries messages of a
// size that both know.
type link interface {
	send(message []byte) error
	receive(message []byte) error // io.EOF: the other end has closed
	close() error
}

// linker makes links. listen prepares at an address, and accept completes it
// when the other side has dialled.
type linker struct {
	listen func(t *PeerTask, i int) (accept func() (link, error), err error)
	dial   func(t *PeerTask, i int) (link, error)
}

// peer adds to p what a peer does, all with links: one to each Listener.
func (l linker) peer(p Peer) Peer {
	// accepted listens, lets all begin, and returns the link.
	accepted := func(t *PeerTask, i int) (link, error) {
		accept, err := l.listen(t, i)
		if err != nil {
			return nil, err
		}
		if err := t.Begin(); err != nil {
			return nil, err
		}
		return accept()
	}
	p.Answer = func(t *PeerTask) (int64, error) {
		link, err := accepted(t, 0)
		if err != nil {
			return 0, err
		}
		message := make([]byte, t.Size)
		for n := int64(0); ; n++ {
			err := link.receive(message)
			if err == nil {
				err = link.send(message)
			}
			if errors.Is(err, io.EOF) {
				return n, link.close()
			}
			if err != nil {
				return n, err
			}
		}
	}
	p.Ask = func(t *PeerTask) (func([]byte) ([]byte, error), func() error, error) {
		link, err := l.dial(t, 0)
		if err != nil {
			return nil, nil, err
		}
		answer := make([]byte, t.Size)
		return func(message []byte) ([]byte, error) {
			if err := link.send(message); err != nil {
				return nil, err
			}
			err := link.receive(answer)
			return answer, err
		}, link.close, nil
	}
	p.Listen = func(t *PeerTask, got func([]byte) error) error {
		link, err := accepted(t, t.Index)
		if err != nil {
			return err
		}
		for message := make([]byte, t.Size); ; {
			err := link.receive(message)
			if err == nil {
				err = got(message)
			}
			if errors.Is(err, io.EOF) {
				return link.close()
			}
			if err != nil {
				return err
			}
		}
	}
	p.Announce = func(t *PeerTask) (func([]byte) error, func() error, error) {
		links := make([]link, t.Listeners)
		for i := range links {
			var err error
			if links[i], err = l.dial(t, i); err != nil {
				return nil, nil, err
			}
		}
		send := func(message []byte) error {
			for _, link := range links {
				if err := link.send(message); err != nil {
					return err
				}
			}
			return nil
		}
		end := func() (err error) {
			for _, link := range links {
				err = errors.Join(err, link.close())
			}
			return err
		}
		return send, end, nil
	}
	return p
}
