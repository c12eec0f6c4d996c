package ring

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"kbus.internal/shm"
)

// netInterval bounds every sleep: the last net, for a waker and a supervisor
// that are both gone at the wrong moment. What it catches is counted.
const netInterval = 100 * time.Millisecond

// sleepers keeps the words that tell wakers of this Ksock's sleepers: sSleeping,
// and its bit among those who wait for room. Only sleepers change them (T5).
type sleepers struct {
	mu      sync.Mutex
	b       *Bus
	slot    int
	n, room int
}

func (z *sleepers) init(b *Bus, slot int) { z.b, z.slot = b, slot }

func (z *sleepers) enter(room bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.n++; z.n == 1 {
		z.b.w[z.b.slot(z.slot)+sSleeping].Store(1) // SYNC E5: before the last look at the queue
	}
	if room {
		if z.room++; z.room == 1 {
			z.b.waiter(z.slot, true) // SYNC E6: before the last try to send
		}
	}
}

func (z *sleepers) leave(room bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.n--; z.n == 0 {
		z.b.w[z.b.slot(z.slot)+sSleeping].Store(0)
	}
	if room {
		if z.room--; z.room == 0 {
			z.b.waiter(z.slot, false)
		}
	}
}

// waiter sets or clears a slot's bit among those who wait for room.
func (b *Bus) waiter(slot int, on bool) {
	w, bit := &b.w[wWaiters+slot/64], uint64(1)<<(slot%64)
	here := shm.Here()
	for {
		here.Forget()
		old := w.Load()
		n := old &^ bit
		if on {
			n |= bit
		}
		if old == n || w.CompareAndSwap(old, n) {
			break
		}
	}
	here.Forget()
}

// WaitReadable returns nil once there is something to read (R3.4), looking spin
// times before it sleeps. A waiting send is tried whenever it may go on (R6.5,
// R6.6). Otherwise it returns context.Cause(ctx), ErrClosed, or ErrCorrupt.
func (c *Client) WaitReadable(ctx context.Context, spin int) error {
	if !c.pending.Load() {
		c.Reading.Lock()
		if c.unmarked != 0 && !c.closed.Load() {
			c.mark() // there is time now
		}
		g := c.peek()
		c.Reading.Unlock()
		if g.any {
			return nil
		}
		if spin > 0 {
			if _, there := c.spin(g, c.readTurns.spin(spin)); there {
				return nil
			}
		}
	}
	return c.wait(ctx, spin, true, &c.readTurns, c.canRead)
}

// WaitWritable returns nil once no send waits in this Ksock (R3.4), trying it
// whenever it may go on. With spin 0 it sleeps at once. A read-only Ksock never is writable.
func (c *Client) WaitWritable(ctx context.Context, spin int) error {
	return c.wait(ctx, spin, false, &c.sendTurns, c.canWrite)
}

// spin looks n times for something new in a queue that was as g, and tells whether it
// has seen it, and whether that is a copy to take. It watches the place where the
// next copy will come, not the tail, whose line is its senders'; and it has the block
// fetched meanwhile. Between two PAUSEs it looks for longer than a hypervisor takes
// for a loop of PAUSEs, or it would take the CPU away in the middle.
func (c *Client) spin(g glance, n int) (seen, there bool) {
	b := c.b
	read, next, sig := &b.w[c.s+sRead], &b.w[c.s+b.lane+int(g.read.head()&b.qmask)], &b.w[c.s+sSig]
	s := sig.Load()
	for i := range n {
		for range looksPerSpin {
			if e := next.Load(); e != g.next {
				b.willTake(laneHandle(e))
				return true, true
			}
			if read.Load() != uint64(g.read) {
				return true, false
			}
		}
		if i%8 == 0 {
			if sig.Load() != s || c.closed.Load() {
				return true, false
			}
			shm.Pause(1)
		}
	}
	return false, false
}

// willTake begins to fetch a block that is about to be taken and released.
func (b *Bus) willTake(h int) {
	if h <= 0 || h >= b.units {
		return
	}
	b.w[b.block(h)+mHead].WillWrite()
	b.w[b.block(h)+mFlags].WillRead()
	b.w[b.payload+h*unitWords].WillRead()
	b.w[b.payload+h*unitWords+8].WillRead() // a short message's name
}

// turns decides whether a Ksock gives its turn on the CPU away before it sleeps.
// Where there are more Listeners than CPUs each wake-up puts the sender off, and
// a stream advances by one message for each change of process. If a Listener lets
// the others go on once, the sender fills the queues meanwhile; and so the other way
// round for a sender who waits for room. Only in a stream; and ever more rarely
// while turns are long and bring little: a stranger has them.
type turns struct {
	count  *shm.Word     // messages read, or sent, so far
	stream atomic.Bool   // the last sleep was short
	crowd  atomic.Bool   // turns are long and bring much
	took   atomic.Int64  // the last turn, if it was long
	was    atomic.Uint64 // count then
	bad    atomic.Uint32 // turns in a row that a stranger had, at most maxBad
	not    atomic.Uint32 // how often not to give one
}

const (
	shortSleep = time.Millisecond
	longTurn   = 300 * time.Microsecond
	streamGap  = 20 * time.Microsecond // between the messages of a stream, at most
	maxBad     = 10
)

func (t *turns) slept(d time.Duration) { t.stream.Store(d < shortSleep) }

// spin is how long to spin instead of n: it keeps the others from the CPU.
func (t *turns) spin(n int) int {
	if t.crowd.Load() {
		return n/32 + 1
	}
	return n
}

// give gives the turn away, and tells whether it did.
func (t *turns) give() bool {
	if !t.stream.Load() {
		return false
	}
	n := t.count.Load()
	if took := t.took.Swap(0); took > 0 {
		much := n-t.was.Load() >= uint64(took)/uint64(streamGap)
		t.crowd.Store(much)
		if much {
			t.bad.Store(0)
		} else {
			bad := min(t.bad.Load()+1, maxBad)
			t.bad.Store(bad)
			t.not.Store(1<<bad - 1)
		}
	}
	if not := t.not.Load(); not > 0 {
		t.not.Store(not - 1)
		return false
	}
	start := time.Now()
	shm.Yield()
	if d := time.Since(start); d > longTurn {
		t.was.Store(n)
		t.took.Store(int64(d))
	}
	return true
}

// wait waits until ready says so or fails: spinning first, unless the caller has spun
// or there is nothing in the queue to spin for, then giving its turn away, then asleep.
func (c *Client) wait(ctx context.Context, spin int, spun bool, t *turns, ready func() (bool, error)) error {
	if ctx.Done() == nil {
		return c.sleep(ctx, spin, spun, t, ready)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.Nudge()
		close(done)
	})
	defer func() {
		if !stop() {
			<-done // the region may be unmapped once wait has returned
		}
	}()
	return c.sleep(ctx, spin, spun, t, ready)
}

// sleep is wait for a context whose end is a nudge.
func (c *Client) sleep(ctx context.Context, spin int, spun bool, t *turns, ready func() (bool, error)) error {
	b, sig := c.b, &c.b.w[c.s+sSig]
	gaveTurn := false
	for here := shm.Here(); ; here.Forget(c.state()) {
		if ok, err := ready(); err != nil || ok {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if spin > 0 && !gaveTurn {
			if !spun && t != &c.sendTurns {
				c.Reading.Lock()
				g := c.peek()
				c.Reading.Unlock()
				if !g.any { // else a Call waits for more than a message
					if seen, _ := c.spin(g, t.spin(spin)); seen {
						continue
					}
				}
			}
			spun = false
			if gaveTurn = byTheClock && t.give(); gaveTurn {
				continue
			}
		}
		gaveTurn = false
		room := c.mode == ReadWrite && c.Waiting()
		here.Forget(c.state())
		s := sig.Load()
		c.sleepers.enter(room)
		ok, err := ready() // SYNC E5, E6: after the flags
		if ok || err != nil || ctx.Err() != nil || c.closed.Load() {
			c.sleepers.leave(room)
			if ok || err != nil {
				return err
			}
			continue
		}
		start := time.Now()
		err = sig.Wait(uint32(s), netInterval)
		c.sleepers.leave(room)
		if err != nil {
			return err
		}
		slept := time.Since(start)
		t.slept(slept)
		if byTheClock && sig.Load() == s && slept >= netInterval {
			if ok, err := ready(); ok || err != nil {
				b.w[wNet].Add(1)
				return err
			}
		}
	}
}

// nudge ends all sleeps of this Ksock, for their callers to look again.
func (c *Client) nudge() {
	c.b.w[c.s+sSig].Add(1)
	c.b.w[c.s+sSig].Wake()
}

// Interrupt ends this Client for good: every call returns ErrClosed, now and
// later. It may be called at any time, also while others wait.
func (c *Client) Interrupt() {
	c.closed.Store(true)
	c.nudge()
}
