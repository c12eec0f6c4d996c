package ring

import (
	"fmt"
	"math/bits"

	"kbus.internal/shm"
)

// Words of the region's header. All but the ready word are written once, before
// it; none changes afterwards.
const (
	hMagic      = 0
	hVersion    = 1
	hKsocks     = 2  // Config.MaxKsocks
	hBindings   = 3  // Config.MaxBindings
	hQueue      = 4  // Config.QueueSlots
	hKept       = 5  // Config.KeptEvents
	hUnits      = 6  // units of the arena
	hMaxSize    = 7  // Config.MaxMessageSize
	hQueueBytes = 8  // Config.QueueBytes
	hRegion     = 9  // size of the region, in bytes
	hReady      = 15 // stored last

	// One line that every send writes; it changes by entries only.
	wCur   = 16
	wSkips = 17 // entries that gave no serial number (R2.2), and numbers that entries gave
	wExtra = 18 // beyond one: with cur they tell the next. Both only grow, as cur does.

	// The bus's settings, changed by control entries only.
	wMsgSize = 32 // stamp[32] limit[32]
	wReports = 33 // stamp[63] on[1]
	wNextID  = 34 // the next Ksock's id
	wNet     = 35 // wake-ups that only a timeout caught, all processes
	wSlots   = 36 // the highest slot and the number of cells that were ever used,
	wCells   = 37 // so that nobody looks at, and so takes memory for, what is beyond
	wVer     = 38 // version of the binding tables; every send reads it, so not in cur's line

	// Where a search for room in the arena begins, by the size sought: stamp[36]
	// block[28], 0 = at the front. Changed by entries.
	wCarve       = 48 // [carveClasses]
	carveClasses = 10

	wWaiters = 64 // a bit for each slot whose sender waits for room; [waiterWords]

	waiterWords = 64
	headerWords = wWaiters + waiterWords

	magic         = 0x6b627573_72696e67 // "kbusring"
	layoutVersion = 3
	readyWord     = 0x7265_6164_7921
)

// Words of a Ksock's slot. Each group of 16 has one kind of writer.
const (
	// entries
	sTail     = 0  // position counter of the normal lane
	sOwing    = 1  // ver[48] n[16]: its unanswered Requests
	sBytesIn  = 2  // bytes of large messages put in its queue
	sLimit    = 3  // stamp[32] max_messages[32]
	sKid      = 4  // state[2]@32 id[32]
	sEdit     = 5  // seq+1 of the last entry that edited sRead, 0 = none yet
	sKeptTail = 8  // position counters of the lane of kept events (R7.4); the reader looks at these
	sKeptHead = 9  // after each message, so they are not in the line that each message changes
	sLosing   = 10 // sKeptTail when events were lost last: more are until what is kept has gone
	sMissed   = 11 // messages missed for want of room

	entryWords = 16 // so many are changed by entries
	// the Ksock's reading side
	sRead      = 16 // es[37] frz[1] ud[13] head[13]
	sBytesOut  = 17 // bytes of large messages released
	sReceived  = 18
	sBytesRead = 19
	sReadCmd   = 20 // the reading side's sCmd and sOut: it may claim an entry beside the sending side
	sReadOut   = 21
	sLast      = 22 // as mLed: the Request that it has read last as Replier; it has no number in its record yet
	// the Ksock, to sleep; wakers add to sSig
	sSig      = 32
	sSleeping = 33
	// the Ksock's sending side
	sCmd       = 48 // kind[4] handle[28] arg[32]: its entry, while claimed
	sOut       = 49 // op[28] code[8] handle[28]: what became of it
	sSent      = 50
	sBytesSent = 51
	sAsked     = 52 // records of the ledger below this one have been used
	sUp        = 53 // state[2]@32 id[32]: whether its process knows of the Ksock
	// the supervisor
	sPid        = 64
	sStart      = 65
	sMode       = 66
	sOnce       = 67 // changed by control entries: stamp[63] on[1]
	sMissedBase = 68 // sMissed when the Ksock was opened
	sHeld       = 80 // blocks that it may own or hold; [heldWords]
)

// Kinds of state in sKid.
const (
	kidFree = iota
	kidOpen
	kidClosing // R4.8 is being carried out
	kidEnded   // closed; its process may still hold messages in place
)

// Kinds of state in sUp. A supervisor may die after it has opened a Ksock and
// before it has said so to anybody.
const (
	upOffered = 1
	upTaken   = 2
	upGone    = 3 // the next supervisor came first
)

// Words of a binding's cell.
const (
	bBorn = 0 // first version of the tables that has it; 0: none
	bDied = 1 // first version that does not
	bInfo = 2 // slot[12]@16 replier[1]@12 name length[10]
	bKid  = 3 // Ksock id
	bName = 4

	cellWords = 136
	never     = ^uint64(0)
)

// Words of a record of the ledger, written by the asker while its ledger word
// is free; then by the Replier (recRead) and by entries (recOrder).
const (
	recLed     = 0 // the ledger word itself
	recNetwork = 1
	recReplier = 2 // slot[12]@32 Ksock id[32]
	recRead    = 3 // ver[32] order in which its Replier read it[32]; 0 = not yet, or it was the last
	recOrder   = 4 // seq[48] n[16]: order in which an unbind orphaned it

	recWords = 8 // a cache line: asker and Replier pass it to and fro
)

// Words of a block's header. Those of a block's later units are unused but for
// hGroup.
const (
	mHead  = 0  // gen[34] owner[12] armed[1] sender[1] mask[16]
	mSpan  = 1  // stamp[36] units[28]
	mSerw  = 2  // gen[32] serial[32]; serial 0 = none yet
	mNet   = 3  // network[32] data length[32]
	mReply = 4  // in_reply_to
	mTo    = 5  // to[32] from[32]
	mOrig  = 6  // orig_from
	mFinal = 7  // final_to
	mFlags = 8  // flags[32] kind[4]@28 name length[10]@15 copies[15]
	mLed   = 9  // slot[12]@52 index[14]@32 ver[32]: the ledger word that it opens or closes
	mFrom  = 10 // slot[12]@32 opts[32]
	mCopy  = 11 // the first inlineCopies copies
	mGroup = 14 // two group words of the tree of bits; never used for anything else

	inlineCopies = 3
	blockWords   = 16
	unitBytes    = 256
	unitWords    = unitBytes / 8
)

const (
	areaHead   = 2
	laneMod    = 8192 // head of the normal lane is kept mod this
	heldHalf   = heldWords / 2
	maxSlots   = 4096
	maxCopies  = 16384
	largeBytes = 4096
)

// Config is the geometry of a bus. Zero fields mean the defaults.
type Config struct {
	MaxKsocks      int    // Ksocks at one time, 1 to 4095; default 256
	MaxBindings    int    // bindings at one time, 1 to 16384 (default)
	ArenaBytes     int64  // memory for messages; default 256 MiB, at most 64 GiB
	MaxMessageSize uint32 // largest size limit that may be set, by R2.6; default 16 MiB
	MessageSize    uint32 // size limit at the start; default MaxMessageSize
	KeptEvents     int    // copies kept aside for one Ksock (R7.4), 1 to 4000; default 1000
	QueueSlots     int    // messages that a queue can hold, a power of two from 2 to 4096 (default); max_messages above it acts as it
	QueueBytes     int64  // bytes of large messages that one Ksock may have unread or in use; default a quarter of the arena
}

func (c *Config) fill() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxKsocks, 256)
	def(&c.MaxBindings, 16384)
	def(&c.KeptEvents, 1000)
	def(&c.QueueSlots, 4096)
	if c.ArenaBytes == 0 {
		c.ArenaBytes = 256 << 20
	}
	if c.MaxMessageSize == 0 {
		c.MaxMessageSize = 16 << 20
	}
	if c.MessageSize == 0 {
		c.MessageSize = c.MaxMessageSize
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = c.ArenaBytes / 4
	}
}

func (c *Config) check() error {
	bad := func(what string, got, lo, hi int64) error {
		return fmt.Errorf("ring: %s is %d, must be %d to %d", what, got, lo, hi)
	}
	in := func(v, lo, hi int64) bool { return v >= lo && v <= hi }
	switch {
	case !in(int64(c.MaxKsocks), 1, maxSlots-1):
		return bad("MaxKsocks", int64(c.MaxKsocks), 1, maxSlots-1)
	case !in(int64(c.MaxBindings), 1, maxCopies):
		return bad("MaxBindings", int64(c.MaxBindings), 1, maxCopies)
	case !in(int64(c.KeptEvents), 1, 4000):
		return bad("KeptEvents", int64(c.KeptEvents), 1, 4000)
	case !in(int64(c.QueueSlots), 2, 4096) || c.QueueSlots&(c.QueueSlots-1) != 0:
		return fmt.Errorf("ring: QueueSlots is %d, must be a power of two from 2 to 4096", c.QueueSlots)
	case !in(c.ArenaBytes, 4*unitBytes, 64<<30):
		return bad("ArenaBytes", c.ArenaBytes, 4*unitBytes, 64<<30)
	case !in(int64(c.MaxMessageSize), MinSize, 1<<30):
		return bad("MaxMessageSize", int64(c.MaxMessageSize), MinSize, 1<<30)
	case !in(int64(c.MessageSize), MinSize, int64(c.MaxMessageSize)):
		return bad("MessageSize", int64(c.MessageSize), MinSize, int64(c.MaxMessageSize))
	case !in(c.QueueBytes, 1, 1<<40):
		return bad("QueueBytes", c.QueueBytes, 1, 1<<40)
	}
	return nil
}

// A layout says where everything is, in words from the start of the region. It
// follows from the geometry alone.
type layout struct {
	cfg   Config
	qmask uint64 // lanes hold qmask+1 copies: twice QueueSlots, so that Statuses and several copies at once fit (R5.7, R6.1)
	qbits int    // the number of bits in qmask
	kmask uint64 // the lane of kept events
	lmask int    // ledger words of one Ksock

	slots, slotWords          int
	held, lane, urg, kept     int // within a slot
	rec                       int
	cells                     int
	journal                   int
	areas, areaWords, areaCap int
	blocks                    int // block headers, one for each unit
	payload                   int // units
	units                     int
	reserve                   int // units that only the supervisor takes, from unit 1 on
	words                     int
}

func newLayout(c Config) (layout, error) {
	c.fill()
	if err := c.check(); err != nil {
		return layout{}, err
	}
	l := layout{cfg: c}
	l.qmask = uint64(2*c.QueueSlots - 1)
	l.qbits = bits.Len64(l.qmask)
	l.kmask = uint64(1)<<bits.Len(uint(c.KeptEvents+2)) - 1
	l.lmask = c.QueueSlots - 1
	at := sHeld
	take := func(n int) int { p := at; at += (n + 15) &^ 15; return p }
	l.held = take(heldWords)
	l.lane = take(int(l.qmask) + 1)
	l.urg = take(int(l.qmask) + 1)
	l.kept = take(int(l.kmask) + 1)
	l.rec = take(c.QueueSlots * recWords)
	l.slotWords = at

	at = headerWords
	l.slots = take((c.MaxKsocks + 1) * l.slotWords)
	l.cells = take(c.MaxBindings * cellWords)
	l.journal = take(journalWords)
	// The largest plans: an event for everybody with its UnbindEventsLost (each copy,
	// twice the tree of bits, and up to 8 steps for each Ksock) and the kept ones of
	// one; a removal (up to 3 steps for each message in a queue); the events of R7.2.
	l.areaCap = max(c.MaxBindings+c.MaxBindings/8+8*(c.MaxKsocks+1)+c.KeptEvents, 6*c.QueueSlots+3*(c.KeptEvents+1)) + 64
	l.areaWords = (areaHead + 3*l.areaCap + 15) &^ 15
	l.areas = take(2 * (c.MaxKsocks + 1) * l.areaWords)
	l.units = int(c.ArenaBytes / unitBytes)
	l.reserve = min(4096, max(1, l.units/16))
	l.blocks = take(l.units * blockWords)
	at = (at + 511) &^ 511 // the arena begins on a page
	l.payload = take(l.units * unitWords)
	l.words = (at + 511) &^ 511
	return l, nil
}

// RegionSize is the size of a region with this geometry, in bytes. Most of it
// is never touched, and so never takes memory.
func (c Config) RegionSize() (int64, error) {
	l, err := newLayout(c)
	return int64(l.words) * 8, err
}

func (l *layout) slot(s int) int  { return l.slots + s*l.slotWords }
func (l *layout) cell(i int) int  { return l.cells + i*cellWords }
func (l *layout) block(h int) int { return l.blocks + h*blockWords }
func (l *layout) area(a int) int  { return l.areas + a*l.areaWords }

// cmd is where the side that area a belongs to says what it claims; the word
// behind it is for the outcome.
func (l *layout) cmd(a int) int {
	if a&1 != 0 {
		return l.slot(a/2) + sReadCmd
	}
	return l.slot(a/2) + sCmd
}

// Format writes a new bus into a fresh region, which must be all zeros. The
// ready word comes last.
func Format(mem *shm.Memory, c Config) error {
	l, err := newLayout(c)
	if err != nil {
		return err
	}
	if mem.Size() < int64(l.words)*8 {
		return fmt.Errorf("ring: the region has %d bytes, the geometry needs %d", mem.Size(), l.words*8)
	}
	w, c := mem.Words(), l.cfg
	for _, p := range [...][2]uint64{
		{hMagic, magic}, {hVersion, layoutVersion},
		{hKsocks, uint64(c.MaxKsocks)}, {hBindings, uint64(c.MaxBindings)},
		{hQueue, uint64(c.QueueSlots)}, {hKept, uint64(c.KeptEvents)},
		{hUnits, uint64(l.units)}, {hMaxSize, uint64(c.MaxMessageSize)},
		{hQueueBytes, uint64(c.QueueBytes)}, {hRegion, uint64(l.words) * 8},
		{wMsgSize, uint64(c.MessageSize)}, {wNextID, 1}, {wCur, curWord(1, 0, curIdle)}, {wVer, 1},
	} {
		w[p[0]].Store(p[1])
	}
	// Unit 0 is never given out, so that handle 0 is none; the rest is free.
	w[l.block(1)+mSpan].Store(uint64(l.reserve))
	w[l.block(1)+mHead].Store(headPool)
	w[l.block(1+l.reserve)+mSpan].Store(uint64(l.units - 1 - l.reserve))
	w[l.block(1+l.reserve)+mHead].Store(headPool)
	w[hReady].Store(readyWord)
	return nil
}

// readLayout checks a region's header and works out its layout.
func readLayout(mem *shm.Memory) (layout, error) {
	w := mem.Words()
	if len(w) < headerWords {
		return layout{}, fmt.Errorf("%w: %d bytes are too few for a header", ErrCorrupt, mem.Size())
	}
	if m := w[hMagic].Load(); m != magic {
		return layout{}, fmt.Errorf("%w: magic %#x is not a bus's %#x", ErrCorrupt, m, uint64(magic))
	}
	if v := w[hVersion].Load(); v != layoutVersion {
		return layout{}, fmt.Errorf("ring: the region has layout version %d, this program speaks %d: use one version of kbus for the supervisor and its clients", v, layoutVersion)
	}
	if w[hReady].Load() != readyWord {
		return layout{}, fmt.Errorf("%w: not ready", ErrCorrupt)
	}
	small := func(i int) int { return int(min(w[i].Load(), 1<<40)) }
	c := Config{
		MaxKsocks: small(hKsocks), MaxBindings: small(hBindings), QueueSlots: small(hQueue),
		KeptEvents: small(hKept), ArenaBytes: int64(small(hUnits)) * unitBytes,
		MaxMessageSize: uint32(min(w[hMaxSize].Load(), 1<<31)), QueueBytes: int64(small(hQueueBytes)),
	}
	c.MessageSize = c.MaxMessageSize
	if c.MaxKsocks == 0 || c.MaxBindings == 0 || c.QueueSlots == 0 || c.KeptEvents == 0 || c.ArenaBytes == 0 || c.MaxMessageSize == 0 || c.QueueBytes == 0 {
		return layout{}, fmt.Errorf("%w: empty geometry", ErrCorrupt)
	}
	l, err := newLayout(c)
	if err != nil {
		return layout{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if mem.Size() < int64(l.words)*8 || w[hRegion].Load() != uint64(l.words)*8 {
		return layout{}, fmt.Errorf("%w: geometry needs %d bytes, header says %d, region has %d", ErrCorrupt, l.words*8, w[hRegion].Load(), mem.Size())
	}
	return l, nil
}
