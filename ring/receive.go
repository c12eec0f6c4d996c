package ring

import (
	"slices"

	"kbus.internal/shm"
)

// A Message is one that has been read, in place: its data stays as it is until
// Release (I7), even if the sender is gone.
type Message struct {
	Header
	c    *Client
	h    int
	gen  uint64
	idx  int
	held int
	data []byte
	size uint64

	answer bool
}

// Answer tells whether this copy is the answer to a Request of this Ksock: that
// it is a Reply, and bears the right ids, may be true of Listeners' copies too.
func (m *Message) Answer() bool { return m.answer }

// Data is the message's data, in the arena, not to be written. It must not be
// used after Release.
func (m *Message) Data() []byte { return m.data }

// Release gives the memory back. Only the first call counts.
func (m *Message) Release() {
	c := m.c
	if c == nil {
		return
	}
	m.c, m.data = nil, nil
	c.letGo(m.h, m.gen, m.idx, m.size, m.held)
}

func (c *Client) letGo(h int, gen uint64, idx int, size uint64, held int) {
	c.b.release(h, gen, idx) // cannot fail: the message was checked when it was read
	if size >= largeBytes {
		c.b.w[c.s+sBytesOut].Add(size)
		c.b.wakeSenders()
	}
	c.b.w[held].Put(0)
	c.views.put(held)
}

// Take takes the first message off the queue, if there is one (R3.4). A message
// that can't be made sense of is dropped, with ErrCorrupt.
func (c *Client) Take(m *Message) (bool, error) {
	if c.closed.Load() {
		return false, ErrClosed
	}
	if c.unmarked != 0 {
		c.mark() // before the next is taken: at most one has no number
	}
	held, err := c.views.get()
	if err != nil {
		return false, err
	}
	word, err := c.pop(held)
	if err != nil || word == 0 {
		c.b.w[held].Put(0)
		c.views.put(held)
		return false, err
	}
	if err := c.read(m, word, held); err != nil {
		return false, err
	}
	c.received++
	c.b.w[c.s+sReceived].Put(c.received)
	w := &c.b.w[c.s+sBytesRead]
	w.Put(w.Load() + uint64(len(m.data)))
	return true, nil
}

// pop takes a copy off the lanes; 0 if there is none.
func (c *Client) pop(held int) (uint64, error) {
	b, s := c.b, c.s
	frozen, settled := 0, uint64(0)
	for here := shm.Here(); ; {
		here.Forget(uint64(frozen), settled, c.recv.state())
		r := readWord(b.w[s+sRead].Load())
		if r.frozen() {
			// An edit is in progress: finish it, it can't block us.
			a := b.w[wCur].Load()
			if curPhase(a) == curIdle || esStamp(curSeq(a)) != r.es() {
				if frozen++; frozen > 1000 && readWord(b.w[s+sRead].Load()) == r {
					return 0, corrupt("slot %d is frozen by entry %#x, which is over", c.slot, r.es())
				}
				continue
			}
			if err := c.recv.help(a); err != nil {
				return 0, err
			}
			continue
		}
		var e uint64
		var next readWord
		if ud := r.ud(); ud > 0 {
			e = b.w[s+b.urg+int((ud-1)&b.qmask)].Load()
			next = makeRead(r.es(), false, ud-1, r.head())
		} else {
			// The tail is moved last, and its line is its senders': the copy itself
			// tells by its lap whether it is there.
			if e = b.w[s+b.lane+int(r.head()&b.qmask)].Load(); !b.there(e, c.at(r)) {
				if readWord(b.w[s+sRead].Load()) != r {
					continue
				}
				// What others have read of an entry already is not to be missing here.
				if settled == 0 {
					settled = 1
					if err := c.settle(); err != nil {
						return 0, err
					}
					continue
				}
				if flushed, err := c.flush(); err != nil || !flushed {
					return 0, err
				}
				continue
			}
			next = makeRead(r.es(), false, 0, r.head()+1)
		}
		b.w[held].Put(uint64(laneHandle(e)))
		// SYNC E7: the pop. Which lane was right is decided by the same word (T7).
		if !b.w[s+sRead].CompareAndSwap(uint64(r), uint64(next)) {
			continue
		}
		here.Forget(e, uint64(next), c.recv.state())
		wanted := b.roomWanted() && c.wasFull(next)
		if b.w[s+sKeptTail].Load() != b.w[s+sKeptHead].Load() {
			if _, err := c.flush(); err != nil {
				return e, err
			}
		}
		if wanted {
			b.wakeSenders()
		}
		here.Forget(e, c.recv.state())
		return e, nil
	}
}

// wasFull tells whether there was no room before the pop that left next. Whoever
// found it so waits: the tail is read after the pop, so it counts all that they
// counted. It may lag behind the head. Nobody looks at it unless somebody waits: its
// line is better left with the senders.
func (c *Client) wasFull(next readWord) bool {
	w := (*[entryWords]shm.Word)(c.b.w[c.s:])
	owing, limit := w[sOwing].Load()&0xffff, w[sLimit].Load()&0xffffffff
	used := c.b.unread(c.s, c.at(next)) + next.ud() + owing
	return used+1 >= min(limit, uint64(c.b.cfg.QueueSlots))
}

// at is the position that a value of sRead stands for, counted as the tail is.
func (c *Client) at(r readWord) uint64 {
	c.pos += (r.head() - c.pos) & (laneMod - 1)
	return c.pos
}

// there tells whether a word of the normal lane is the copy at a position.
func (b *Bus) there(word, pos uint64) bool {
	return word != 0 && laneStamp(word) == (pos>>b.qbits+1)&stampMask
}

// unread counts the copies from a position of the normal lane on. None, if the
// reader is ahead of the tail of an entry whose steps are being carried out.
func (b *Bus) unread(s int, pos uint64) uint64 {
	return uint64(max(0, int64(b.w[s+sTail].Load()-pos)))
}

// settle finishes the entry whose plan is being carried out, if there is one, and
// its own process has not done so in the meantime.
func (c *Client) settle() error {
	here := shm.Here()
	defer here.Forget()
	a := c.b.w[wCur].Load()
	if curPhase(a) != curPlanned {
		return nil
	}
	for range spinBeforeHelp {
		shm.Pause(1)
		if c.b.w[wCur].Load() != a {
			return nil
		}
	}
	return c.recv.carryOut(a)
}

// flush moves kept events into the queue if there is room (R7.4), and tells
// whether it did.
func (c *Client) flush() (bool, error) {
	q, err := c.recv.plan.queue(c.slot)
	if err != nil || q.flush == 0 {
		return false, err
	}
	_, err = c.recv.append(entry{kind: kindFlush, arg: uint64(c.slot), from: c.slot}, true, nil)
	return err == nil, err
}

// Names that messages had are kept, so that reading allocates nothing: this many
// bytes of them, with what the map takes for each.
const (
	mostNameBytes = 1 << 20
	nameCost      = 48
)

// read makes sense of a copy that has been taken off the queue.
func (c *Client) read(m *Message, word uint64, held int) error {
	b, v := c.b, &c.got
	err := b.read(v, laneHandle(word))
	var cw uint64
	if err == nil && laneIdx(word) >= v.copies {
		err = corrupt("copy %d of %d of block %d", laneIdx(word), v.copies, v.h)
	}
	if err == nil {
		cw, err = v.copy(laneIdx(word))
	}
	if err == nil && copySlot(cw) != c.slot {
		err = corrupt("block %d: copy %d is not for slot %d", v.h, laneIdx(word), c.slot)
	}
	if err != nil {
		b.w[held].Put(0)
		c.views.put(held)
		return err
	}
	w := b.header(v.h)
	m.ID, m.InReplyTo = MessageID{v.network, uint32(v.serw)}, unpairID(v.reply)
	m.To, m.From, m.Flags = v.to, v.from, v.flags
	m.OrigFrom, m.FinalTo = unpairEnd(w[mOrig].Load()), unpairEnd(w[mFinal].Load())
	m.Name = c.intern(b.bytesAt(v.h, v.dataLen, v.nameLen))
	m.c, m.h, m.gen, m.idx, m.held = c, v.h, headGen(v.head), laneIdx(word), held
	m.data, m.size = b.bytesAt(v.h, 0, v.dataLen), v.bytes
	m.answer = copyRole(cw) == roleDirect && v.reply != 0
	if copyRole(cw) == roleReplier && v.flags&WantReply != 0 {
		m.Flags |= MustReply
		c.owe(v, m)
	} else if m.answer {
		// Whoever got an answer is likely to ask the same Ksock again.
		b.w[wCur].WillWrite()
		b.w[c.s+sTail].WillWrite()
		b.w[c.s+b.rec].WillWrite()
		b.w[b.slot(min(v.fromSlot, b.cfg.MaxKsocks))+sTail].WillWrite()
	}
	return nil
}

// intern makes a name a string without allocating one for each message.
func (c *Client) intern(name []byte) string {
	if c.name == string(name) {
		return c.name
	}
	s, ok := c.names[string(name)]
	if !ok {
		if c.nameBytes += len(name) + nameCost; c.nameBytes > mostNameBytes {
			clear(c.names)
			c.nameBytes = len(name) + nameCost
		}
		s = string(name)
		c.names[s] = s
	}
	c.name = s
	return s
}

// owe notes a Request read as Replier, to answer it.
func (c *Client) owe(v *view, m *Message) {
	b := c.b
	if slot, idx, _ := ledRefSplit(v.led); slot >= 1 && slot <= b.cfg.MaxKsocks && idx <= b.lmask {
		// Its Reply will need these.
		b.w[b.slot(slot)+b.rec+idx*recWords].WillWrite()
		b.w[b.slot(slot)+sTail].WillWrite()
		b.w[wCur].WillWrite()
		c.unmarked = v.led
		b.w[c.s+sLast].Put(v.led) // for statistics
	}
	c.owedMu.Lock()
	c.owed = append(c.owed, owed{m.From, m.ID, v.led})
	c.owedMu.Unlock()
}

// mark numbers the Request that was read last, unless it is answered: in its
// record, for whoever answers for this Ksock should it end (R4.8). Not when it is
// read: the record's line is then on its way from the asker.
func (c *Client) mark() {
	led := c.unmarked
	c.unmarked = 0
	c.owedMu.Lock()
	open := slices.ContainsFunc(c.owed, func(o owed) bool { return o.led == led })
	c.owedMu.Unlock()
	if open {
		c.readSeq++
		b := c.b
		slot, idx, ver := ledRefSplit(led)
		b.w[b.slot(slot)+b.rec+idx*recWords+recRead].CompareAndSwap(ver<<32, ver<<32|uint64(c.readSeq))
	}
}

// Unread is the number of unread messages, with those kept aside (R3.7). Reading
// is held.
func (c *Client) Unread() int {
	b := c.b
	for {
		r := readWord(b.w[c.s+sRead].Load())
		kept := b.w[c.s+sKeptTail].Load() - b.w[c.s+sKeptHead].Load()
		n := b.unread(c.s, c.at(r)) + r.ud() + kept
		if readWord(b.w[c.s+sRead].Load()) == r {
			return int(n)
		}
	}
}

// readable tells whether the queue is not empty, kept events that find room
// included (R3.4).
func (c *Client) readable() (bool, error) {
	if c.Any() {
		return true, nil
	}
	if c.closed.Load() {
		return false, ErrClosed
	}
	if err := c.settle(); err != nil || c.Any() {
		return err == nil, err
	}
	if c.b.w[c.s+sKeptTail].Load() == c.b.w[c.s+sKeptHead].Load() {
		return false, nil
	}
	return c.flush()
}

// Any tells whether a message is in the queue: a look that disturbs nobody. An
// entry that others have seen already may be about to put one there, and kept
// events may have found room. Reading is held.
func (c *Client) Any() bool { return c.peek().any }

// A glance is how a queue was at a look: sRead, and the place where the next copy
// comes. A change of either is something new.
type glance struct {
	read readWord
	next uint64
	any  bool // as Any
}

// peek is Any with all that it saw.
func (c *Client) peek() (g glance) {
	b := c.b
	g.read = readWord(b.w[c.s+sRead].Load())
	g.next = b.w[c.s+b.lane+int(g.read.head()&b.qmask)].Load()
	g.any = g.read.ud() > 0 || b.there(g.next, c.at(g.read))
	return g
}

// Poll tries a waiting send, and then tells whether the Ksock is readable and
// writable (R3.4, R6.5).
func (c *Client) Poll() (readable, writable bool, err error) {
	if c.closed.Load() {
		return false, false, ErrClosed
	}
	if c.mode == ReadWrite {
		if err = c.retry(); err != nil {
			return false, false, err
		}
		writable = c.waiting.h == 0
	}
	readable, err = c.readable()
	return readable, writable, err
}

// Look is Poll for whoever holds no lock.
func (c *Client) Look() (readable, writable bool, err error) {
	c.Reading.Lock()
	defer c.Reading.Unlock()
	c.Sending.Lock()
	defer c.Sending.Unlock()
	return c.Poll()
}
