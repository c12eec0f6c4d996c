package ring

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Mode says what a Ksock may do (R3.1).
type Mode int

const (
	ReadWrite Mode = iota
	ReadOnly       // may bind and read, not send
)

// A Client is one Ksock's end of the data path. It has two sides with a lock each.
// The methods of the sending side are called with Sending held: Send, Relay, Loan
// and what a Loan does, SendAgain, Discard, Withdraw, LastSent. Those of the
// reading side are called with Reading held: Take, and a Message's Release; and
// Poll with both. Whoever has guards of his own to keep thus needs no second
// lock. All others, the waits above all, are safe for any goroutine without a
// lock, and take what they need: Reading first. Nobody waits with a lock held.
type Client struct {
	b    *Bus
	slot int
	s    int // the slot's words
	id   uint32
	mode Mode

	Sending sync.Mutex
	send    party
	cache   *cache
	hand    draft // the message being sent
	waiting draft // R6.5; h = 0: none
	batch   []*draft
	last    MessageID
	sent    uint64 // for statistics
	loans   heldList
	// copies is how many a message can have at most, by the tables of version copiesOf.
	copies   int
	copiesOf uint64

	Reading   sync.Mutex
	recv      party
	got       view // the message being read
	name      string
	names     map[string]string
	nameBytes int
	pos       uint64 // of the head, as the tail counts
	readSeq   uint32
	unmarked  uint64 // the Request read last, by its ledger word, if it has no number yet
	received  uint64
	views     heldList

	owedMu sync.Mutex // shared by both sides
	owed   []owed

	canRead, canWrite func() (bool, error) // Poll's halves, made once: waiting allocates nothing

	closed   atomic.Bool
	pending  atomic.Bool // a message waits
	sleepers sleepers

	readTurns, sendTurns turns
}

// owed is a Request that this Ksock has read as Replier and not answered.
type owed struct {
	asker uint32
	id    MessageID
	led   uint64
}

// A heldList hands out the words that name blocks for the supervisor, so that it
// finds them after a death (R9.2). Each is written before the block is taken. The
// lock of its side guards it.
type heldList struct{ free []int }

func (l *heldList) init(from, n int) {
	for i := n - 1; i >= 0; i-- {
		l.free = append(l.free, from+i)
	}
}

func (l *heldList) get() (int, error) {
	if len(l.free) == 0 {
		return 0, fmt.Errorf("%w: %d messages are held in place by this Ksock already; release some", unix.ENOBUFS, heldHalf-1)
	}
	w := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	return w, nil
}

func (l *heldList) put(w int) { l.free = append(l.free, w) }

// Client opens the data path of a Ksock that the supervisor has opened. There
// must be only one Client for it in the whole system. ESTALE: the next supervisor
// has withdrawn the Ksock already.
func (b *Bus) Client(slot int, id uint32, mode Mode) (*Client, error) {
	if slot < 1 || slot > b.cfg.MaxKsocks {
		return nil, corrupt("slot %d of %d", slot, b.cfg.MaxKsocks)
	}
	up := &b.w[b.layout.slot(slot)+sUp]
	if !up.CompareAndSwap(upOffered<<32|uint64(id), upTaken<<32|uint64(id)) && up.Load() == upGone<<32|uint64(id) {
		return nil, unix.ESTALE
	}
	c := &Client{b: b, slot: slot, s: b.layout.slot(slot), id: id, mode: mode, cache: newCache(), names: map[string]string{}}
	c.send.init(b, slot, 0)
	c.recv.init(b, slot, 1)
	held := c.s + b.layout.held
	c.loans.init(held+1, heldHalf-1) // word 0 is spare (draft.room)
	c.views.init(held+heldHalf, heldHalf)
	c.sleepers.init(b, slot)
	c.readTurns.count, c.sendTurns.count = &b.w[c.s+sReceived], &b.w[c.s+sSent]
	tail := b.w[c.s+sTail].Load()
	c.pos = tail - (tail-readWord(b.w[c.s+sRead].Load()).head())&(laneMod-1)
	c.canRead = func() (bool, error) { r, _, err := c.Look(); return r, err }
	c.canWrite = func() (bool, error) { _, w, err := c.Look(); return w, err }
	return c, nil
}

// ID is the Ksock's id.
func (c *Client) ID() uint32 { return c.id }

// check makes the checks of R3.8 that need no order, as far as the pending send.
func (c *Client) check() error {
	switch {
	case c.closed.Load():
		return ErrClosed
	case c.mode == ReadOnly:
		return unix.EBADF
	case c.waiting.h != 0:
		return unix.EALREADY
	}
	return nil
}

func (c *Client) checkHeader(h *Header, data int) error {
	switch {
	case h.Name == "":
		return unix.EINVAL
	case len(h.Name) > MaxName:
		return unix.ENAMETOOLONG
	case h.Flags&AllOrFail != 0 && h.Flags&AllOrWait != 0, h.IsRequest() && h.IsReply():
		return unix.EINVAL
	case Size(len(h.Name), data) > int(c.b.MessageSize()):
		return unix.EMSGSIZE
	}
	if h.Name == c.hand.routed {
		return nil // it was checked before
	}
	return CheckName(h.Name)
}

// Send copies data into the arena, once, and sends the message; it never blocks.
// From, and the flags that are the bus's, are set by it (R2.3, R2.4). Errors are
// those of R3.8, in its order, or ENOMEM. After EAGAIN the message waits in this
// Ksock (R6.5). The id is that of the message if it got one, also with an error.
func (c *Client) Send(h *Header, data []byte) (MessageID, error) {
	return c.sendCopied(h, data, kindMessage, 0)
}

// Relay is Send for a message that comes from another bus: it never waits, since
// ALL_OR_WAIT acts as ALL_OR_FAIL (R8.5). A copy goes to Listeners alone, whatever
// kind of message it is, and creates no obligation (R8.9). The sender itself gets
// no Listener's copy, of which a Limpet would make nothing (R8.4); but it has to
// have room for it, as any other.
func (c *Client) Relay(h *Header, data []byte, copy bool) (MessageID, error) {
	return c.sendCopied(h, data, relayed(copy), optRelayed)
}

// RelayLoan is to Relay as SendLoan is to Send.
func (c *Client) RelayLoan(h *Header, l *Loan, copy bool) (MessageID, error) {
	return c.sendLoan(h, l, relayed(copy), optRelayed)
}

func relayed(copy bool) int {
	if copy {
		return kindCopy
	}
	return kindMessage
}

func (c *Client) sendCopied(h *Header, data []byte, kind int, opts uint32) (MessageID, error) {
	if err := c.check(); err != nil {
		return MessageID{}, err
	}
	d := &c.hand
	if err := c.draw(d, h, data, kind, opts); err != nil {
		return MessageID{}, err
	}
	return c.sendDrawn(d)
}

// draw makes a draft of a message, in a block of its own.
func (c *Client) draw(d *draft, h *Header, data []byte, kind int, opts uint32) error {
	if err := c.checkHeader(h, len(data)); err != nil {
		return err
	}
	held, err := c.loans.get()
	if err != nil {
		return err
	}
	c.cache.willTake(c.b, c.cache.units, 1)
	c.compose(d, h, kind, opts)
	d.held, d.data = held, len(data)
	err = d.resolve(c.b)
	if err == nil {
		if d == &c.hand { // those that go with it in a batch need the same lines
			c.willSend(d)
		}
		err = d.room(&c.send, unitsFor(d.data, len(h.Name), len(d.route.listeners)+1))
	}
	if err != nil {
		c.loans.put(held)
		return err
	}
	copy(c.b.bytesAt(d.h, 0, len(data)), data)
	return nil
}

// sendDrawn sends what draw has made, or drops it, unless it waits.
func (c *Client) sendDrawn(d *draft) (MessageID, error) {
	id, err := c.transmit(d)
	if err != nil && d.h != 0 {
		c.drop(d)
	}
	return id, err
}

// drop lets go of a draft, and of the word that named it for the supervisor.
func (c *Client) drop(d *draft) {
	held := d.held
	d.drop(&c.send)
	c.loans.put(held)
}

// willSend begins to fetch the lines that others wrote last and the send is going
// to write, while it does what it can without them.
func (c *Client) willSend(d *draft) {
	b, here := c.b, shm.Here()
	b.w[wCur].WillWrite()
	to := c.send.plan.willSend
	switch {
	case d.kind != kindMessage:
	case d.hdr.IsRequest():
		b.w[c.s+sTail].WillWrite()
		b.w[c.s+b.rec].WillWrite() // the lowest word of the ledger is usually free
		if s := d.route.replier.slot; s != 0 {
			to(s)
		}
	case d.led != 0:
		if slot, idx, _ := ledRefSplit(d.led); slot >= 1 && slot <= b.cfg.MaxKsocks && idx <= b.lmask {
			b.w[b.slot(slot)+b.rec+idx*recWords].WillWrite()
			to(slot)
		}
	}
	for _, w := range d.route.listeners[:min(fetched, len(d.route.listeners))] {
		to(copySlot(w))
	}
	here.Forget()
}

// compose makes a draft of a header.
func (c *Client) compose(d *draft, h *Header, kind int, opts uint32) {
	d.hdr = *h
	d.kind, d.version, d.opts, d.led, d.tried, d.gone, d.cache = kind, 0, opts, 0, false, false, c.cache
	d.h, d.units = 0, 0
	d.hdr.From = c.id
	d.hdr.Flags &^= MustReply | Synthetic
	if d.hdr.ID.Network != 0 {
		d.opts |= optHasID
	} else {
		d.hdr.ID = MessageID{}
	}
	if h.IsReply() && kind == kindMessage {
		d.led = c.owedFor(h.To, h.InReplyTo)
	}
}

// transmit sends a draft. On success the block is let go; after EAGAIN it waits;
// after any other error it is still the caller's.
func (c *Client) transmit(d *draft) (MessageID, error) {
	o, err := c.send.append(entry{kind: d.kind, from: c.slot}, d.hdr.Flags&Urgent == 0, d)
	if err != nil {
		return MessageID{}, err
	}
	if o.code == uint8(unix.ENOLCK) {
		return MessageID{}, unix.ENOLCK // uses no id (R3.8)
	}
	id := MessageID{d.hdr.ID.Network, o.serial}
	if id.Serial == 0 {
		id.Serial = uint32(c.b.w[c.b.block(d.h)+mSerw].Load())
	}
	c.last = id
	switch unix.Errno(o.code) {
	case 0:
		if d.hdr.IsReply() && d.kind == kindMessage {
			c.settled(d.led)
		}
		c.count(d)
		c.drop(d)
		if d == &c.waiting {
			c.pending.Store(false)
		}
		return id, nil
	case unix.EAGAIN:
		d.hdr.ID = id
		d.opts |= optHasID
		d.version = 0
		if d != &c.waiting {
			c.waiting, d.h = *d, 0
			c.waiting.copies = nil // d's own, as it goes on being used
			c.pending.Store(true)
		}
	}
	return id, unix.Errno(o.code)
}

func (c *Client) count(d *draft) {
	c.sent++
	c.b.w[c.s+sSent].Put(c.sent)
	w := &c.b.w[c.s+sBytesSent]
	w.Put(w.Load() + uint64(d.data))
}

// A Loan is memory of the arena for the data of one message, to be filled in
// place and sent with SendLoan, or released. It must not be used after either.
type Loan struct {
	c *Client
	d draft
}

// Loan lends size bytes. EMSGSIZE if no message of this bus can be that large,
// ENOMEM if the arena has no room.
func (c *Client) Loan(size int) (*Loan, error) {
	l := new(Loan)
	return l, c.LoanInto(l, size)
}

// LoanInto is Loan for a caller who keeps the Loan's own memory.
func (c *Client) LoanInto(l *Loan, size int) error {
	if most := int(c.b.cfg.MaxMessageSize); size < 0 || size > most || Size(1, size) > most { // Size of a size near the largest int wraps
		return unix.EMSGSIZE
	}
	if c.closed.Load() {
		return ErrClosed
	}
	if c.mode == ReadOnly {
		return unix.EBADF
	}
	held, err := c.loans.get()
	if err != nil {
		return err
	}
	c.cache.willTake(c.b, c.cache.units, 1)
	c.send.plan.willSendAgain()
	l.c = c
	d := &l.d
	d.h, d.held, d.data, d.cache, d.tried, d.gone = 0, held, size, c.cache, false, false
	if c.copiesOf == 0 || c.copiesOf != c.b.w[wVer].Load() {
		c.copies, c.copiesOf, err = c.b.mostCopies()
	}
	if err == nil {
		err = d.room(&c.send, unitsFor(size, MaxName, c.copies))
	}
	if err != nil {
		l.c = nil
		c.loans.put(held)
	}
	return err
}

// Data is the lent memory. It holds whatever was in it before.
func (l *Loan) Data() []byte {
	if l.d.h == 0 {
		return nil
	}
	return l.c.b.bytesAt(l.d.h, 0, l.d.data)
}

// Release gives the memory back unsent.
func (l *Loan) Release() {
	if l.c == nil || l.d.h == 0 {
		return
	}
	l.c.drop(&l.d)
}

// SendLoan sends a message whose data is already in place. The Loan is used up by
// success and by EAGAIN, and stays the caller's after any other error.
func (c *Client) SendLoan(h *Header, l *Loan) (MessageID, error) {
	return c.sendLoan(h, l, kindMessage, 0)
}

func (c *Client) sendLoan(h *Header, l *Loan, kind int, opts uint32) (MessageID, error) {
	if err := c.check(); err != nil {
		return MessageID{}, err
	}
	if l.c != c || l.d.h == 0 {
		return MessageID{}, fmt.Errorf("%w: the loan is not this Ksock's, or used up", unix.EINVAL)
	}
	if err := c.checkHeader(h, l.d.data); err != nil {
		return MessageID{}, err
	}
	d := &c.hand
	c.compose(d, h, kind, opts)
	if d.resolve(c.b) == nil {
		c.willSend(d)
	}
	d.h, d.head, d.held, d.units, d.data, d.tried = l.d.h, l.d.head, l.d.held, l.d.units, l.d.data, l.d.tried
	id, err := c.transmit(d)
	l.d.h = d.h
	if d.h != 0 { // not used up
		l.d.units, l.d.head, l.d.tried = d.units, d.head, d.tried
		d.h = 0
	}
	return id, err
}

// LastSent is the id of the last message that was sent or tried (R3.7, R3.8).
func (c *Client) LastSent() MessageID { return c.last }

// Waiting tells whether a send waits in this Ksock (R6.5).
func (c *Client) Waiting() bool { return c.pending.Load() }

// SendAgain tries the waiting message once more (R6.5): EAGAIN if it waits on,
// ENOMSG if there is none.
func (c *Client) SendAgain() (MessageID, error) {
	if c.closed.Load() {
		return MessageID{}, ErrClosed
	}
	if c.waiting.h == 0 {
		return MessageID{}, unix.ENOMSG
	}
	c.waiting.opts &^= optNoPlace
	id, err := c.transmit(&c.waiting)
	if err != nil && err != error(unix.EAGAIN) {
		c.Discard()
	}
	return id, err
}

// Discard drops the waiting message, if there is one (R6.5).
func (c *Client) Discard() {
	if c.waiting.h != 0 {
		c.drop(&c.waiting)
		c.pending.Store(false)
	}
}

// retry tries the waiting message as waiting and polling do: a failure is
// silent, or a Status for a Request (R6.5).
func (c *Client) retry() error {
	d := &c.waiting
	if d.h == 0 {
		return nil
	}
	d.opts |= optNoPlace
	_, err := c.transmit(d)
	switch errno, ok := err.(unix.Errno); {
	case err == nil, errno == unix.EAGAIN, errno == unix.ENOMEM:
		return nil // it has gone out, or waits on
	case !ok:
		return err
	case !d.hdr.IsRequest():
		c.Discard()
		return nil
	default:
		return c.statusToSelf(errno)
	}
}

// statusToSelf answers this Ksock's own waiting Request, in the block that the
// Request waited in: so it needs no memory that might not be there.
func (c *Client) statusToSelf(errno unix.Errno) error {
	d := &c.waiting
	name := ErrorSending
	if errno == unix.EADDRNOTAVAIL {
		name = Disappeared
	}
	b := c.b
	d.head = headWord(headGen(d.head)+1, c.slot, headSender)
	b.w[b.block(d.h)+mHead].Store(d.head)
	d.kind, d.version, d.opts, d.data = kindStatus, 0, optNoLedger, 0
	d.led = ledRef(c.slot, 0, 0)
	d.hdr = Header{InReplyTo: d.hdr.ID, To: c.id, Flags: Synthetic, Name: name}
	last := c.last
	_, err := c.send.append(entry{kind: kindStatus, from: c.slot}, true, d)
	c.last = last
	c.Discard()
	return err
}

func (c *Client) owedFor(asker uint32, id MessageID) uint64 {
	c.owedMu.Lock()
	defer c.owedMu.Unlock()
	for i := len(c.owed) - 1; i >= 0; i-- { // of equal ones that read last
		if c.owed[i].asker == asker && c.owed[i].id == id {
			return c.owed[i].led
		}
	}
	return 0
}

func (c *Client) settled(led uint64) {
	c.owedMu.Lock()
	defer c.owedMu.Unlock()
	for i := range c.owed {
		if c.owed[i].led == led {
			c.owed = append(c.owed[:i], c.owed[i+1:]...)
			return
		}
	}
}

// Unreplied is the number of Requests that this Ksock has read as Replier and
// not answered (R3.7).
func (c *Client) Unreplied() int {
	c.owedMu.Lock()
	defer c.owedMu.Unlock()
	return len(c.owed)
}

// MaxMessages is the limit of the queue (R3.2), as it was set.
func (c *Client) MaxMessages() uint32 { return uint32(c.b.w[c.s+sLimit].Load()) }
