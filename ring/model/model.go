package model

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// Limits of SPEC.md.
const (
	MaxName          = 1000   // bytes of a name (R1.1)
	MaxBuses         = 256    // R3.1
	DefaultMessages  = 100    // max_messages of a new Ksock (R3.2)
	MinMessageSize   = 100    // R2.6
	DefaultSize      = 409600 // R2.6: what the recorded traces assume
	DefaultKept      = 1000   // copies of events kept for one Ksock (R7.4)
	headerSize       = 88     // R2.6
	BindEventName    = "$.KBUS.ReplierBindEvent"
	EventsLostName   = "$.KBUS.UnbindEventsLost"
	UnboundName      = "$.KBUS.Replier.Unbound"
	GoneAwayName     = "$.KBUS.Replier.GoneAway"
	IgnoredName      = "$.KBUS.Replier.Ignored"
	DisappearedName  = "$.KBUS.Replier.Disappeared"
	ErrorSendingName = "$.KBUS.ErrorSending"
)

// Flags of a message (R2.4).
const (
	WantReply uint32 = 1 << 0 // a Request
	MustReply uint32 = 1 << 1 // this copy's reader is the one to reply
	Synthetic uint32 = 1 << 2 // made by the bus
	Urgent    uint32 = 1 << 3
	AllOrWait uint32 = 1 << 8
	AllOrFail uint32 = 1 << 9
)

// MessageID is a message's id (R2.1); zero is no id (R2.2).
type MessageID struct{ Network, Serial uint32 }

// EndPoint is a Ksock on some network (R2.1).
type EndPoint struct{ Network, Ksock uint32 }

// Message is a message, as sent or as read (R2.1). Data is a string so that messages can be shared and compared.
type Message struct {
	ID, InReplyTo     MessageID
	To, From          uint32
	OrigFrom, FinalTo EndPoint
	Flags             uint32
	Name, Data        string
}

// IsRequest says whether m wants a reply (R2.4).
func (m *Message) IsRequest() bool { return m.Flags&WantReply != 0 }

// IsReply says whether m answers another message (R2.5).
func (m *Message) IsReply() bool { return m.InReplyTo != MessageID{} }

// Size is the size of a message for R2.6's limit, in bytes.
func Size(nameLen, dataLen int) int {
	return headerSize + 4*((nameLen+4)/4) + 4*((dataLen+3)/4) + 4
}

// Switch is a value given to OnlyOnce and ReportReplierBinds; any but these three is EINVAL (R3.9).
type Switch uint32

// The values of a Switch (R3.9).
const (
	Off Switch = 0
	On  Switch = 1
	Ask Switch = 1<<32 - 1
)

// Config holds what differs between buses; zero values stand for what the recorded traces assume.
type Config struct {
	MaxMessageSize uint32 // absolute maximum, also the limit at the start (R2.6); 0 is DefaultSize
	KeptEvents     int    // copies kept for one Ksock (R7.4); 0 is DefaultKept
}

// Buses is a set of buses, numbered from 0.
type Buses struct {
	config Config
	list   []*Bus
}

// New returns a set with one bus, number 0.
func New(c Config) *Buses {
	if c.MaxMessageSize == 0 {
		c.MaxMessageSize = DefaultSize
	}
	if c.KeptEvents == 0 {
		c.KeptEvents = DefaultKept
	}
	return &Buses{config: c, list: []*Bus{newBus(c)}}
}

// NewBus adds a bus and returns its number, or EINVAL if there are MaxBuses (R3.1).
func (s *Buses) NewBus() (int, error) {
	if len(s.list) == MaxBuses {
		return 0, unix.EINVAL
	}
	s.list = append(s.list, newBus(s.config))
	return len(s.list) - 1, nil
}

// Bus returns bus n, or ENOENT (R3.1).
func (s *Buses) Bus(n int) (*Bus, error) {
	if n < 0 || n >= len(s.list) {
		return nil, unix.ENOENT
	}
	return s.list[n], nil
}

// Clone returns a deep copy.
func (s *Buses) Clone() *Buses {
	c := &Buses{config: s.config, list: slices.Clone(s.list)}
	for i, b := range c.list {
		c.list[i] = b.Clone()
	}
	return c
}

// Key is equal for two sets if they will answer equally for ever.
func (s *Buses) Key() string {
	var k key
	for _, b := range s.list {
		k.str(b.Key())
	}
	return string(k)
}

// Bus is one bus. Every method that names a Ksock answers EBADF if it is not open or is closing.
type Bus struct {
	config      Config
	serial      uint32    // number of the last id given (R2.2)
	lastKsock   uint32    // id of the Ksock opened last (R3.1)
	lastBinding uint64    // number of the binding made last
	size        uint32    // the limit of R2.6
	reports     bool      // R7.1
	ksocks      []*ksock  // open and closing, by id
	bindings    []binding // oldest first
}

// binding is one binding of a Ksock to a name (R4.1).
type binding struct {
	number  uint64 // tells it from all others on the bus
	owner   uint32
	name    string
	replier bool
}

// ksock is one Ksock. Everything in it belongs to its bus alone but for the messages.
type ksock struct {
	id       uint32
	readOnly bool
	closing  bool
	once     bool // only once (R4.6)
	lost     bool // events are missed, not kept, until kept is empty (R7.4)
	max      uint32
	last     MessageID // R3.7
	asked    int       // its own unanswered Requests: places held in its queue (R3.3)
	waiting  *Message  // R6.5; nil if none
	queue    []item    // unread, first to be read first
	kept     []item    // events kept aside, then perhaps an UnbindEventsLost (R7.4)
	owed     []request // read as Replier and not answered, in the order of reading
	orphans  []request // removed by an unbind that is not finished: a Status is due (R4.5)
}

// item is one copy of a message in a queue.
type item struct {
	msg  *Message // never changed: shared by copies and clones
	mine bool     // the copy whose reader must reply (R2.4)
	via  uint64   // number of the binding that it came by; 0 if none (R4.5)
}

// request is a Request that somebody is to answer.
type request struct {
	asker uint32
	id    MessageID
}

func newBus(c Config) *Bus { return &Bus{config: c, size: c.MaxMessageSize} }

// Open opens a Ksock and returns its id (R3.1).
func (b *Bus) Open(readOnly bool) uint32 {
	b.lastKsock++
	b.ksocks = append(b.ksocks, &ksock{id: b.lastKsock, readOnly: readOnly, max: DefaultMessages})
	return b.lastKsock
}

// Ksocks returns the ids of the Ksocks that are open and not closing, in ascending order.
func (b *Bus) Ksocks() []uint32 {
	var ids []uint32
	for _, k := range b.ksocks {
		if !k.closing {
			ids = append(ids, k.id)
		}
	}
	return ids
}

// find returns the Ksock id, open or closing, or nil.
func (b *Bus) find(id uint32) *ksock {
	i, found := slices.BinarySearchFunc(b.ksocks, id, func(k *ksock, id uint32) int { return cmp.Compare(k.id, id) })
	if !found {
		return nil
	}
	return b.ksocks[i]
}

// open returns the Ksock id, or EBADF if it is not open or is closing.
func (b *Bus) open(id uint32) (*ksock, error) {
	k := b.find(id)
	if k == nil || k.closing {
		return nil, unix.EBADF
	}
	return k, nil
}

// nextID uses up the next id (R2.2).
func (b *Bus) nextID() MessageID {
	b.serial++
	if b.serial == 0 {
		b.serial = 1
	}
	return MessageID{0, b.serial}
}

// hasRoom says whether k's queue can take a message (R3.3), and nothing older waits for that place (R7.4).
func (k *ksock) hasRoom() bool { return k.hasPlace() && len(k.kept) == 0 }

// hasPlace says whether k's queue is below its limit, places held for answers counting (R3.3).
func (k *ksock) hasPlace() bool { return len(k.queue)+k.asked < int(k.max) }

// push puts one copy of m into k's queue (R3.6).
func (k *ksock) push(m *Message, via uint64, mine bool) {
	at := len(k.queue)
	if m.Flags&Urgent != 0 {
		at = 0
	}
	k.queue = slices.Insert(k.queue, at, item{m, mine, via})
}

// settle moves what is kept aside for k into its queue, one copy at a time, while there is room (R7.4).
func (k *ksock) settle() {
	for len(k.kept) > 0 && k.hasPlace() {
		k.queue = append(k.queue, k.kept[0])
		k.kept = slices.Delete(k.kept, 0, 1)
	}
	if len(k.kept) == 0 {
		k.lost = false
	}
}

// Next takes the first message off k's queue and has it read; ok is false if there is none (R3.4). A Request marked for k
// is from now on one that k is to answer (R5.9).
func (b *Bus) Next(id uint32) (m Message, ok bool, err error) {
	k, err := b.open(id)
	if err != nil || len(k.queue) == 0 {
		return Message{}, false, err
	}
	first := k.queue[0]
	k.queue = slices.Delete(k.queue, 0, 1)
	m = *first.msg
	if first.mine {
		m.Flags |= MustReply
		k.owed = append(k.owed, request{m.From, m.ID})
	}
	k.settle()
	return m, true, nil
}

// Poll first tries a waiting send again (R6.5), then says whether k has something to read and may send (R3.4).
func (b *Bus) Poll(id uint32) (readable, writable bool, err error) {
	k, err := b.open(id)
	if err != nil {
		return false, false, err
	}
	b.retry(k)
	return len(k.queue) > 0, !k.readOnly && k.waiting == nil, nil
}

// Unread is the number of messages that k has not read, events kept aside included (R3.7, R7.4).
func (b *Bus) Unread(id uint32) (int, error) {
	k, err := b.open(id)
	if err != nil {
		return 0, err
	}
	return len(k.queue) + len(k.kept), nil
}

// Unreplied is the number of Requests that k has read as Replier and not answered (R3.7).
func (b *Bus) Unreplied(id uint32) (int, error) {
	k, err := b.open(id)
	if err != nil {
		return 0, err
	}
	return len(k.owed), nil
}

// LastSent is the id of the last message that k sent or tried to send; zero before the first (R3.7, R3.8).
func (b *Bus) LastSent(id uint32) (MessageID, error) {
	k, err := b.open(id)
	if err != nil {
		return MessageID{}, err
	}
	return k.last, nil
}

// Pending says whether a send of k's is waiting (R6.5).
func (b *Bus) Pending(id uint32) (bool, error) {
	k, err := b.open(id)
	if err != nil {
		return false, err
	}
	return k.waiting != nil, nil
}

// MaxMessages sets the limit of k's queue, or leaves it if n is 0, and returns it (R3.2).
func (b *Bus) MaxMessages(id, n uint32) (uint32, error) {
	k, err := b.open(id)
	if err != nil {
		return 0, err
	}
	if n != 0 {
		k.max = n
		k.settle()
	}
	return k.max, nil
}

// MaxMessageSize sets the bus's limit on the size of a message and returns it; 0 asks for it, 1 for the largest that it may
// be (R2.6).
func (b *Bus) MaxMessageSize(id, n uint32) (uint32, error) {
	if _, err := b.open(id); err != nil {
		return 0, err
	}
	switch {
	case n == 0:
		return b.size, nil
	case n == 1:
		return b.config.MaxMessageSize, nil
	case n < MinMessageSize || n > b.config.MaxMessageSize:
		return 0, unix.EINVAL
	}
	b.size = n
	return n, nil
}

// OnlyOnce sets or asks whether k gets but one copy of each send (R4.6); it returns the setting before (R3.9).
func (b *Bus) OnlyOnce(id uint32, v Switch) (was bool, err error) {
	k, err := b.open(id)
	if err != nil {
		return false, err
	}
	was = k.once
	return was, v.set(&k.once)
}

// set carries out R3.9 on one switch.
func (v Switch) set(s *bool) error {
	switch v {
	case Off, On:
		*s = v == On
	case Ask:
	default:
		return unix.EINVAL
	}
	return nil
}

// Clone returns a deep copy of b; the messages in it are shared, they never change.
func (b *Bus) Clone() *Bus {
	c := *b
	c.bindings = slices.Clone(b.bindings)
	c.ksocks = slices.Clone(b.ksocks)
	for i, k := range c.ksocks {
		k := *k
		k.queue = slices.Clone(k.queue)
		k.kept = slices.Clone(k.kept)
		k.owed = slices.Clone(k.owed)
		k.orphans = slices.Clone(k.orphans)
		c.ksocks[i] = &k
	}
	return &c
}
