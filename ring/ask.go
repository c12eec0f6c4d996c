package ring

import "context"

// What a Ksock that waits for answers asks of its own end, beside what is to be read.

// Outstanding counts this Ksock's Requests of that id that have no answer yet. An
// answer is in the queue, or about to be, once it no longer counts here. Reading is held.
func (c *Client) Outstanding(id MessageID) int {
	n := c.outstanding(id)
	if n > 0 && c.settle() == nil { // the answer may be here, and its entry half carried out
		n = c.outstanding(id)
	}
	return n
}

func (c *Client) outstanding(id MessageID) int {
	b, n := c.b, 0
	if b.w[c.s+sOwing].Load()&0xffff == 0 {
		return 0
	}
	// All that were ever used: this Ksock may be asking more meanwhile, so it
	// is no use to count up to sOwing.
	for i := range b.asked(c.s) {
		w := b.w[c.s+b.rec+i*recWords].Load()
		if ledState(w) == ledFree {
			continue
		}
		if uint32(w) == id.Serial && uint32(b.w[c.s+b.rec+i*recWords+recNetwork].Load()) == id.Network {
			n++
		}
	}
	return n
}

// asked is the number of records of a slot's ledger that were ever used.
func (b *Bus) asked(s int) int {
	return int(min(b.w[s+sAsked].Load(), uint64(b.lmask+1)))
}

// WaitUntil waits, as WaitReadable does, until ready says so or fails. It asks
// ready whenever something has come into the queue or may be sent.
func (c *Client) WaitUntil(ctx context.Context, spin int, ready func() (bool, error)) error {
	return c.wait(ctx, spin, false, &c.readTurns, ready)
}

// Nudge makes everybody who waits in this end look again whether the wait is over.
func (c *Client) Nudge() { c.nudge() }

// Withdraw discards the waiting message (R6.5) if it is the one of that id, and
// tells whether it did: if not, it is no longer waiting.
func (c *Client) Withdraw(id MessageID) bool {
	if c.waiting.h == 0 || c.waiting.hdr.ID != id {
		return false
	}
	c.Discard()
	return true
}
