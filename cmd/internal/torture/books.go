package torture

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
)

// Classes of messages that clients send.
const (
	announcement = 1 + iota
	chained      // to all Listeners of the chain, or to none
	request
	reply
)

// Names of messages that the bus sends, in record.name; 0: a client sent it.
var busNames = []string{"", ring.GoneAway, ring.Ignored, ring.Unbound, ring.Disappeared, ring.ErrorSending,
	ring.ReplierBindEvent, ring.UnbindEventsLost}

const (
	busGoneAway = 1 + iota
	busIgnored
	busUnbound
	busDisappeared
	busErrorSending
	busBindEvent
	busEventsLost
)

// What became of a message sent.
const (
	begun = iota // nobody knows
	waits        // in its Ksock (R6.5)
	out
	failed
)

// A sent is a message that a client sent, or began to.
type sent struct {
	class, state uint8
	errno        uint8
	read, marked bool // somebody has read it; as its Replier
	hasID        bool
	id           uint64
	chain        int32 // index in account.chain
}

type link struct {
	seq          uint32
	batch        uint32 // 0: in none
	intent, done int64
	hash         uint64 // of the chain up to here, by whoever read it first
}

// An asked is a Request, as its asker's account has it.
type asked struct {
	seq      uint32 // 0: only others have told of it
	replied  bool   // a Reply was accepted
	answered uint8  // 0, 1 by a Reply, else 1+ the Status's number
	dropped  bool   // nobody waits for the answer any more, or it never went out
}

// A life is one process at a place.
type life struct {
	place  int
	killed atomic.Int64 // when its kill was begun; 0: it was not
}

// An account is what is known about one Ksock.
type account struct {
	life, ksock uint32
	process     *life
	closing     bool // in order
	kept        bool // closed, perhaps with messages that a Call had taken from the queue
	unbinds     bool // a Replier's binding of it went
	ended       int64
	msgs        []sent
	chain       []link
	batch       uint32 // the last one
	asks        map[uint64]*asked

	// as reader
	last   uint64 // serial
	lastOf uint64 // origin of that
	floats []uint64
	bound  int64 // listens to the chain since; 0: does not
	next   map[uint32]int32
}

// A span is where in the one order a message is that got its id before its place.
type span struct{ after, before uint64 }

// Counts of a run.
type Counts struct {
	Clients         int   `json:"clients_started"`
	Ksocks          int   `json:"ksocks_opened"`
	Kills           int   `json:"kills"`
	Stops           int   `json:"stops"`
	SupervisorKills int   `json:"supervisor_kills"`
	Sent            int64 `json:"messages_sent"`
	Batches         int64 `json:"batches_sent"`
	Delivered       int64 `json:"messages_delivered"`
	Refused         int64 `json:"sends_refused"`
	CutOff          int64 `json:"sends_cut_off"`
	Waited          int64 `json:"sends_that_waited"`
	Chained         int64 `json:"chain_links_compared"`
	Requests        int64 `json:"requests"`
	Replies         int64 `json:"replies"`
	Statuses        int64 `json:"statuses"`
	Events          int64 `json:"replier_bind_events"`
	NoMemory        int64 `json:"no_memory"`
	Violations      int   `json:"violations"`
}

// books judge.
type books struct {
	Counts
	lives    map[uint32]*account
	byKsock  map[uint32]*account
	recent   []*account // not ended, or not long ago
	spans    map[uint64]*span
	statuses []time.Duration // from a death to its Status
	found    []string        // violations, the first ones

	now, next []func() // what has to be judged once all sending journals were read, and read again
}

func newBooks() *books {
	return &books{lives: map[uint32]*account{}, byKsock: map[uint32]*account{}, spans: map[uint64]*span{}}
}

const mostFound = 50

func (b *books) violation(format string, args ...any) {
	b.Violations++
	if len(b.found) < mostFound {
		b.found = append(b.found, fmt.Sprintf(format, args...))
	}
}

func (b *books) account(r *record) *account {
	a := b.lives[r.life]
	if a == nil {
		b.violation("record %d of Ksock %d, which was not opened", r.kind, r.life)
		a = &account{life: r.life, process: &life{}}
		b.enter(a)
	}
	return a
}

func (b *books) enter(a *account) {
	a.asks, a.next = map[uint64]*asked{}, map[uint32]int32{}
	b.lives[a.life] = a
	b.recent = append(b.recent, a)
}

func name(origin uint64) string { return fmt.Sprintf("message %d/%d", origin>>32, uint32(origin)) }

// send takes a record of a sending journal.
func (b *books) send(p *life, r *record) {
	if r.kind == recOpened {
		a := &account{life: r.life, ksock: uint32(r.id), process: p}
		if other := b.byKsock[a.ksock]; other != nil {
			b.violation("Ksock id %d was given twice, to %d and %d (R3.1)", a.ksock, other.life, a.life)
		}
		b.enter(a)
		b.byKsock[a.ksock] = a
		b.Ksocks++
		return
	}
	a := b.account(r)
	switch r.kind {
	case recIntent:
		if int(r.seq()) != len(a.msgs)+1 {
			b.violation("%s comes after number %d: the journal is torn", name(r.origin), len(a.msgs))
			return
		}
		m := sent{class: r.class, id: r.reply}
		if r.class == chained {
			m.chain = int32(len(a.chain))
			a.chain = append(a.chain, link{seq: r.seq(), batch: r.flags, intent: r.at})
		}
		if r.flags != a.batch {
			a.batch = r.flags
			b.Batches++
		}
		a.msgs = append(a.msgs, m)
	case recOutcome, recLater:
		if n := int(r.seq()); n < 1 || n > len(a.msgs) {
			b.violation("outcome of %s, which was not begun", name(r.origin))
			return
		}
		b.outcome(a, &a.msgs[r.seq()-1], r)
	case recUnbind:
		a.unbinds = true
	case recClosing:
		a.closing, a.kept = true, r.code == 1
	case recDropped:
		a.ask(r.id).dropped = true
	case recWrong:
		b.violation("Ksock %d (%d of the bus), process at place %d: %s (%#x, %#x)", a.life, a.ksock, p.place, wrongs[r.code], r.reply, r.origin)
	default:
		b.violation("record %d in a sending journal", r.kind)
	}
}

func (a *account) ask(id uint64) *asked {
	q := a.asks[id]
	if q == nil {
		q = &asked{}
		a.asks[id] = q
	}
	return q
}

// gone tells whether a has closed or died, or is about to.
func (a *account) gone() bool { return a.closing || a.process.killed.Load() != 0 }

func (b *books) outcome(a *account, m *sent, r *record) {
	answers := m.id // what a Reply answers, until it has its own id
	later := r.kind == recLater
	if !later {
		if m.read && m.hasID && r.code == 0 && m.id != r.id && r.flags != noID {
			b.violation("%s was read with id %#x, sent with %#x (R2.2)", name(r.origin), m.id, r.id)
		}
		if r.id != 0 {
			m.id, m.hasID = r.id, true
		}
	}
	switch code := unix.Errno(r.code); code {
	case 0, unix.ENOMSG: // ENOMSG: it waited, and has left its Ksock
		m.state = out
		b.Sent++
	case unix.EAGAIN:
		m.state, m.errno = waits, uint8(code)
		b.Waited++
	default:
		m.state, m.errno = failed, uint8(code)
		b.Refused++
		if code == unix.ENOMEM {
			b.NoMemory++
		}
		if m.read {
			b.violation("%s was read, but its send failed with %v (I3)", name(r.origin), code)
		}
	}
	if m.class == chained && m.state == out {
		a.chain[m.chain].done = r.at
	}
	switch {
	case m.class == request && later && m.state == failed:
		a.ask(m.id).dropped = true // discarded, or its failure was returned
		if a.ask(m.id).answered != 0 {
			b.violation("the Request %s was answered, but had failed with %v", name(r.origin), unix.Errno(r.code))
		}
	case m.class == request && !later && m.state != failed:
		q := a.ask(r.id)
		if q.seq != 0 {
			b.violation("%s has the id %#x of Request %d (R2.2)", name(r.origin), r.id, q.seq)
		}
		q.seq = r.seq()
		b.Requests++
	case m.class == reply && !later:
		// The asker's journal may have been read before it closed: judge next time.
		state, rec := m.state, *r
		b.next = append(b.next, func() { b.replied(answers, state, &rec) })
	}
}

// replied judges the outcome of a Reply.
func (b *books) replied(answers uint64, state uint8, r *record) {
	asker := b.byKsock[r.to]
	switch {
	case asker == nil: // killed before it could write down that it was open
	case state == out:
		q := asker.ask(answers)
		if q.replied || q.answered > 1 {
			b.violation("%s was accepted, but the Request %#x of Ksock %d had an answer already (R5.6)", name(r.origin), answers, r.to)
		}
		q.replied = true
	case unix.Errno(r.code) == unix.EADDRNOTAVAIL && !asker.gone():
		b.violation("%s was refused since its asker, Ksock %d, is gone; but it is not", name(r.origin), r.to)
	}
}

// sentAll: all sending journals have been read, to ends that are later than
// those of the last time.
func (b *books) sentAll() {
	now := b.now
	b.now, b.next = b.next, now[:0]
	for _, f := range now {
		f()
	}
}

// receive takes a record of a reading journal.
func (b *books) receive(r *record) {
	a := b.account(r)
	switch r.kind {
	case recBound:
		a.bound = r.at
	case recMessage:
		b.message(a, r)
	case recDrained:
		b.drained(a, r)
	default:
		b.violation("record %d in a reading journal", r.kind)
	}
}

func (b *books) message(a *account, r *record) {
	b.Delivered++
	var m *sent
	var s *account
	if r.name == 0 {
		if s = b.lives[uint32(r.origin>>32)]; s == nil || int(r.seq()) > len(s.msgs) || r.seq() == 0 {
			b.violation("Ksock %d has read %s, which nobody sent (I3)", a.life, name(r.origin))
			return
		}
		m = &s.msgs[r.seq()-1]
		switch {
		case m.state == failed:
			b.violation("Ksock %d has read %s, but its send failed with %v (I3)", a.life, name(r.origin), unix.Errno(m.errno))
		case s.ksock != r.from:
			b.violation("%s says that it is from Ksock %d, but is from %d (R2.3)", name(r.origin), r.from, s.ksock)
		case m.hasID && m.id != r.id:
			b.violation("%s was read with id %#x, sent with %#x (R2.2)", name(r.origin), r.id, m.id)
		}
		m.read = true
		if !m.hasID && m.class != reply {
			m.id, m.hasID = r.id, true
		}
		if r.flags&ring.MustReply != 0 {
			if m.marked {
				b.violation("the marked copy of %s was read twice (R5.6)", name(r.origin))
			}
			m.marked = true
		}
	}
	b.order(a, r)
	switch {
	case r.name >= busBindEvent:
		b.Events++
	case r.reply != 0 && r.to == a.ksock:
		b.answer(a, m, r)
	case r.name != 0:
		b.violation("Ksock %d has read a Status for Ksock %d (R5.7)", a.ksock, r.to)
	case m.class == chained:
		b.follow(a, s, m, r)
	}
}

// order checks I1 for what has its place in the order by its id, and narrows
// down the place of what has not.
func (b *books) order(a *account, r *record) {
	switch {
	case r.flags&ring.Urgent != 0, r.name >= busBindEvent, r.code == 1:
		return
	case r.id>>32 != 0 || r.flags&ring.AllOrWait != 0:
		if s := b.spans[r.origin]; s == nil {
			b.spans[r.origin] = &span{a.last, 1 << 32}
		} else {
			s.after = max(s.after, a.last)
			b.checkSpan(a, r.origin, s)
		}
		if len(a.floats) == 0 || a.floats[len(a.floats)-1] != r.origin {
			a.floats = append(a.floats, r.origin)
		}
		return
	}
	switch {
	case r.id < a.last:
		b.violation("Ksock %d has read id %d after %d (I1)", a.life, r.id, a.last)
	case r.id == a.last && (r.origin != a.lastOf || r.origin == 0):
		b.violation("Ksock %d has read two messages of id %d (I1)", a.life, r.id)
	}
	a.last, a.lastOf = r.id, r.origin
	for _, o := range a.floats {
		if s := b.spans[o]; s != nil {
			s.before = min(s.before, r.id)
			b.checkSpan(a, o, s)
		}
	}
	a.floats = a.floats[:0]
}

func (b *books) checkSpan(a *account, origin uint64, s *span) {
	if s.after >= s.before {
		b.violation("Ksock %d has read %s before %d, others after %d (I1)", a.life, name(origin), s.before, s.after)
	}
}

// answer is the Reply or Status to a Request of a.
func (b *books) answer(a *account, m *sent, r *record) {
	q := a.ask(r.reply)
	switch {
	case q.seq == 0:
		b.violation("Ksock %d has an answer to %#x, which it did not ask (R5.6)", a.life, r.reply)
	case q.dropped:
		b.violation("Ksock %d has %s to its Request %d, which it was told had failed (R5.6)", a.life, answerName(r), q.seq)
	case q.answered != 0:
		b.violation("Ksock %d has a second answer to its Request %d: %s after %d (R5.6)", a.life, q.seq, answerName(r), q.answered)
	}
	q.answered = uint8(1 + r.name)
	if r.name == 0 {
		b.Replies++
		if m.class != reply {
			b.violation("%s answers Request %#x, but was not sent as a Reply", name(r.origin), r.reply)
		}
		return
	}
	b.Statuses++
	if q.replied {
		b.violation("Ksock %d has %s to its Request %d, but a Reply was accepted before (R5.6)", a.life, busNames[r.name], q.seq)
	}
	if r.name > busUnbound {
		return
	}
	from := b.byKsock[r.from]
	if from == nil {
		return // killed before it could write down that it was open
	}
	switch killed := from.process.killed.Load(); {
	case r.name == busUnbound:
		if !from.unbinds {
			b.violation("Ksock %d has %s from Ksock %d, which did not unbind", a.life, busNames[r.name], r.from)
		}
	case !from.gone():
		b.violation("Ksock %d has %s from Ksock %d, which is not gone", a.life, busNames[r.name], r.from)
	case r.name == busGoneAway && a.marked(q):
		b.violation("Ksock %d has %s from Ksock %d for its Request %d, which that had read (R5.6)", a.life, busNames[r.name], r.from, q.seq)
	case r.name == busIgnored && killed == 0 && !from.kept:
		// The reading of it may be in a journal that is read next time.
		rec := *r
		b.next = append(b.next, func() {
			b.next = append(b.next, func() {
				if q.seq != 0 && !a.marked(q) {
					b.violation("Ksock %d has %s from Ksock %d for its Request %d, which that had not read (R5.6)", a.life, busNames[rec.name], rec.from, q.seq)
				}
			})
		})
	case killed != 0 && !from.closing:
		b.statuses = append(b.statuses, time.Duration(r.at-killed))
	}
}

// marked tells whether a Replier has read the Request.
func (a *account) marked(q *asked) bool { return q.seq != 0 && a.msgs[q.seq-1].marked }

func answerName(r *record) string {
	if r.name == 0 {
		return "a Reply"
	}
	return busNames[r.name]
}

// follow checks the chain at a, which has read m of s.
func (b *books) follow(a, s *account, m *sent, r *record) {
	next := a.next[s.life]
	switch {
	case a.bound == 0:
		return // heard it by another binding
	case m.chain+1 < next:
		b.violation("Ksock %d has read %s of the chain after a later one (I1)", a.life, name(r.origin))
	case m.chain+1 == next:
		return // a further copy
	}
	b.missing(a, s, next, m.chain, r.at, s.chain[m.chain].batch)
	a.next[s.life] = m.chain + 1
	if r.hash == 0 {
		return // it has not read enough yet
	}
	switch l := &s.chain[m.chain]; {
	case l.hash == 0:
		l.hash = r.hash
	case l.hash != r.hash:
		b.violation("Ksock %d: the chain up to %s is another than for others (I1)", a.life, name(r.origin))
		fallthrough
	default:
		b.Chained++
	}
}

// skew is by how much the clocks of two processes may differ, in nanoseconds.
const skew = 100_000

// missing looks for chain messages of s from index i up to before end that a
// must have read: they went out before that time, or are of a batch of which a later
// message has.
func (b *books) missing(a, s *account, i, end int32, before int64, batch uint32) {
	for ; i < end; i++ {
		l := &s.chain[i]
		wentOut := s.msgs[l.seq-1].state == out && l.done < before-skew || batch != 0 && l.batch == batch
		if wentOut && l.intent > a.bound+skew {
			b.violation("Ksock %d (%d of the bus) has not read %s, sent to all of the chain (I3)", a.life, a.ksock, name(uint64(s.life)<<32|uint64(l.seq)))
		}
	}
}

// drained: a has read all that was in its queue at a time.
func (b *books) drained(a *account, r *record) {
	if a.bound != 0 {
		for _, s := range b.recent {
			b.missing(a, s, a.next[s.life], int32(len(s.chain)), int64(r.reply), 0)
		}
	}
	if r.code == 1 {
		for id, q := range a.asks {
			if q.seq != 0 && q.answered == 0 && !q.dropped {
				b.violation("Request %d (%#x) of Ksock %d was never answered (R5.6)", q.seq, id, a.life)
			}
		}
	}
	b.end(a, r.at)
}

// end is the end of a Ksock.
func (b *books) end(a *account, at int64) {
	if a.ended == 0 {
		a.ended = at
	}
	a.floats, a.next = nil, map[uint32]int32{}
}

// died is the end of a process, however it ended, after its journals were read.
func (b *books) died(p *life, at int64) {
	for _, a := range b.recent {
		if a.process != p || a.ended != 0 {
			continue
		}
		for n := len(a.msgs); n > 0 && a.msgs[n-1].state == begun; n-- { // one, or the end of a batch
			b.CutOff++
		}
		b.end(a, at)
		a.asks = map[uint64]*asked{}
	}
}

// tidy forgets what can't matter any more.
func (b *books) tidy() {
	oldest := int64(1<<63 - 1)
	for _, a := range b.recent {
		if a.ended == 0 && a.bound != 0 {
			oldest = min(oldest, a.bound)
		}
	}
	b.recent = slices.DeleteFunc(b.recent, func(a *account) bool { return a.ended != 0 && a.ended < oldest })
}
