package bench

import "encoding/binary"

// channels are what goroutines of one process share: a channel to each Listener,
// and one back. Messages are passed by reference, as Go programs do.
type channels struct {
	there []chan []byte
	back  chan []byte
}

// channelDepth is how many messages a channel to a Listener holds.
func channelDepth(size int) int { return min(max(socketBuffer*16/size, 16), 4096) }

func newChannels(t *PeerTask) *channels {
	// With room in it the one who answers does not wait, and both keep their CPUs.
	c := &channels{back: make(chan []byte, 1)}
	for range t.Listeners {
		c.there = append(c.there, make(chan []byte, channelDepth(t.Size)))
	}
	return c
}

// receiveFrom receives in the way to wait; nil is the end.
func receiveFrom(c <-chan []byte, w Wait) []byte {
	for n := 0; w == Spin || w == Adaptive && n < looks; n++ {
		select {
		case message := <-c:
			return message
		default:
			relax(n)
		}
	}
	return <-c
}

func channelPeer(p Peer) Peer {
	p.Answer = func(t *PeerTask) (int64, error) {
		c := t.local.(*channels)
		if err := t.Begin(); err != nil {
			return 0, err
		}
		for n := int64(0); ; n++ {
			message := receiveFrom(c.there[0], t.Wait)
			if message == nil {
				return n, nil
			}
			c.back <- message
		}
	}
	p.Ask = func(t *PeerTask) (func([]byte) ([]byte, error), func() error, error) {
		c := t.local.(*channels)
		return func(message []byte) ([]byte, error) {
				c.there[0] <- message
				return receiveFrom(c.back, t.Wait), nil
			}, func() error {
				close(c.there[0])
				return nil
			}, nil
	}
	p.Listen = func(t *PeerTask, got func([]byte) error) error {
		c := t.local.(*channels)
		if err := t.Begin(); err != nil {
			return err
		}
		for {
			message := receiveFrom(c.there[t.Index], t.Wait)
			if message == nil {
				return nil
			}
			if err := got(message); err != nil {
				return err
			}
		}
	}
	p.Announce = func(t *PeerTask) (func([]byte) error, func() error, error) {
		c := t.local.(*channels)
		// A message is used again when all Listeners must have taken the next one.
		buffers := make([][]byte, channelDepth(t.Size)+2)
		for i := range buffers {
			buffers[i] = make([]byte, t.Size)
		}
		return func(message []byte) error {
				n := binary.LittleEndian.Uint64(message)
				own := buffers[n%uint64(len(buffers))]
				mark(own, n)
				for _, to := range c.there {
					to <- own
				}
				return nil
			}, func() error {
				for _, to := range c.there {
					close(to)
				}
				return nil
			}, nil
	}
	return p
}
