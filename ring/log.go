package ring

import "kbus.internal/shm"

// Kinds of entries.
const (
	kindMessage = 1 + iota // a user's message
	kindStatus             // a Status, from the supervisor or for an asker's own waiting Request
	kindEvent              // an event of R7.2 or R7.1; goes out with a control entry
	kindControl            // edits that the supervisor prepared, with an event perhaps
	kindFlush              // moves kept events into a queue (R7.4)
	kindCarve              // takes a block from the free space of the arena
	kindCopy               // a message from another bus for Listeners only (R8.9)
)

// An entry of the log: what its sender wants done. All else is in the block.
type entry struct {
	kind, handle int
	arg          uint64 // kindFlush: slot; kindCarve: units
	from         int    // the slot that appends it
}

func (e entry) cmd() uint64 { return uint64(e.kind)<<60 | uint64(e.handle)<<32 | e.arg }

// outcome of an entry, as its plan decided it.
type outcome struct {
	code   uint8
	handle int    // kindCarve
	serial uint32 // a message's, if it was planned by its own sender
}

// Codes of outcomes: an errno, or one of these.
const (
	codeOK        = 0
	codeUndecided = 0xff
	codeAgain     = 0xfe // kindCarve: space was tidied, try again
	codeNothing   = 0xfd // a Status that nobody waits for
	codeFlush     = 0xfc // kindControl: a kindFlush must come first
)

func outWord(op uint64, code uint8, h int) uint64 {
	return op<<36 | uint64(code)<<28 | uint64(h)
}

// append brings e into the log and sees it through. d, if not nil, is the block
// that the entry is about: it is made good for the version of the tables first.
//
// A sender first tries to plan and publish in one step (IDLE to PLANNED); what
// its plan read stands still until then, or the step fails. After two failures,
// and for entries that freeze queues, it claims the entry, and whoever comes
// plans it: a large fan-out can't starve behind small sends.
func (p *party) append(e entry, direct bool, d *draft) (outcome, error) {
	b := p.b
	for try, here := 0, shm.Here(); direct && try < 2; {
		here.Forget(uint64(try), d.made(), p.state())
		a, err := p.idle()
		if err != nil {
			return outcome{}, err
		}
		if d != nil {
			if err := d.prepare(p); err != nil {
				return outcome{}, err
			}
			e.handle = d.h
		}
		p.plan.begin(curSeq(a))
		o, err := p.plan.entry(e, true, d)
		if err != nil {
			if b.w[wCur].Load() != a {
				continue // planned from words that were changing
			}
			return outcome{}, err
		}
		mine := curWord(curSeq(a), p.area, curPlanned)
		p.plan.end()
		// SYNC E1 release: the plan.
		if b.w[wCur].CompareAndSwap(a, mine) {
			if d != nil {
				d.tried, d.gone = true, o.code == codeOK
			}
			p.plan.remember()
			o.serial = p.plan.last
			here.Forget(uint64(o.code), uint64(o.handle), uint64(o.serial), d.state(), p.state())
			return o, p.finish(mine)
		}
		try++
	}
	return p.claim(e, d)
}

// claim is append's second way.
func (p *party) claim(e entry, d *draft) (outcome, error) {
	b, cmd := p.b, p.b.cmd(p.area)
	for here := shm.Here(); ; here.Forget(d.made(), p.state()) {
		a, err := p.idle()
		if err != nil {
			return outcome{}, err
		}
		if d != nil {
			if err := d.prepare(p); err != nil {
				return outcome{}, err
			}
			e.handle = d.h
		}
		op := (b.w[cmd+1].Load()>>36 + 1) & (1<<28 - 1)
		b.w[cmd].Put(e.cmd())
		b.w[cmd+1].Put(outWord(op, codeUndecided, 0))
		mine := curWord(curSeq(a), p.area, curClaimed)
		// SYNC E2 release: sCmd, sOut and the block.
		if !b.w[wCur].CompareAndSwap(a, mine) {
			continue
		}
		if d != nil {
			d.tried = true
		}
		for here := shm.Here(); ; here.Forget(p.state()) {
			c := b.w[wCur].Load()
			if curSeq(c) != curSeq(a) {
				break
			}
			if err := p.help(c); err != nil {
				return outcome{}, err
			}
		}
		o := b.w[cmd+1].Load()
		if code := uint8(o >> 28); o>>36 == op && code != codeUndecided {
			here.Forget(o&(1<<36-1), d.state(), p.state())
			return outcome{code: code, handle: laneHandle(o)}, nil
		}
		return outcome{}, corrupt("slot %d's entry has no outcome", p.slot)
	}
}

// idle returns cur once no entry is in progress, helping as it must.
func (p *party) idle() (uint64, error) {
	spins := 0
	here := shm.Here()
	for {
		here.Forget(p.state())
		a := p.b.w[wCur].Load()
		if curPhase(a) == curIdle {
			return a, nil
		}
		if spins < spinBeforeHelp {
			spins++
			shm.Pause(1)
			continue
		}
		if err := p.help(a); err != nil {
			return 0, err
		}
	}
}

// help brings the entry of a, a value of cur, one step on. It returns at once if
// the log has gone on meanwhile.
func (p *party) help(a uint64) error {
	b, here := p.b, shm.Here()
	switch curPhase(a) {
	case curIdle:
		return nil
	case curPlanned:
		return p.carryOut(a)
	case curClaimed:
	default:
		return corrupt("cur is %#x", a)
	}
	from := curArea(a) / 2
	if from > b.cfg.MaxKsocks {
		return corrupt("cur names slot %d", from)
	}
	// SYNC E2 acquire.
	at := b.cmd(curArea(a))
	cmd := b.w[at].Load()
	e := entry{kind: int(cmd >> 60), handle: int(cmd >> 32 & 0xfffffff), arg: cmd & 0xffffffff, from: from}
	p.plan.begin(curSeq(a))
	o, err := p.plan.entry(e, false, nil)
	if b.w[wCur].Load() != a {
		return nil
	}
	if err != nil {
		return err
	}
	out := b.w[at+1].Load()
	p.plan.set(at+1, out, outWord(out>>36, o.code, o.handle))
	p.plan.end()
	mine := curWord(curSeq(a), p.area, curPlanned)
	// SYNC E1 release: the plan. Only one plan of an entry is ever published.
	if !b.w[wCur].CompareAndSwap(a, mine) {
		return nil
	}
	here.Forget(mine, p.state())
	return p.finish(mine)
}

// finish carries out the plan that this process has just published as a. It has
// the steps at hand; they are the same in its area.
func (p *party) finish(a uint64) error {
	b, here := p.b, shm.Here()
	for i := range p.plan.steps {
		here.Forget(p.left(i))
		s := &p.plan.steps[i]
		if err := b.take(a, s[0], s[1], s[2]); err != nil {
			return err
		}
	}
	here.Forget()
	b.w[wCur].Advance(a, curWord(curSeq(a)+1, 0, curIdle))
	return nil
}

// carryOut does what the plan named by a, a value of cur, says.
func (p *party) carryOut(a uint64) error {
	b, area := p.b, curArea(a)
	if area/2 > b.cfg.MaxKsocks {
		return corrupt("cur names area %d", area)
	}
	base := b.layout.area(area)
	seq, n := b.w[base].Load(), b.w[base+1].Load()
	// SYNC E1 acquire. Check after reading (T2): only while cur is a is this its plan.
	if b.w[wCur].Load() != a {
		return nil
	}
	if seq != curSeq(a) || n > uint64(b.areaCap) {
		return corrupt("plan of entry %d: sequence %d, %d steps", curSeq(a), seq, n)
	}
	here := shm.Here()
	for t := b.w[base+areaHead:][:3*n]; len(t) >= 3; t = t[3:] {
		here.Forget(uint64(len(t)))
		where, old, new := t[0].Load(), t[1].Load(), t[2].Load()
		if b.w[wCur].Load() != a {
			return nil
		}
		if err := b.take(a, where, old, new); err != nil {
			return err
		}
	}
	here.Forget()
	b.w[wCur].Advance(a, curWord(curSeq(a)+1, 0, curIdle))
	return nil
}

// take takes a step of the plan named by a. Each is a compare-and-swap whose
// expected value can't recur, or a waking: any number of helpers may take it at any
// time, and a late one changes nothing. A corrupt region can lead a planner anywhere.
func (b *Bus) take(a, where, old, new uint64) error {
	switch at := int(where & stepWord); where >> 56 {
	case stepSet:
		if !b.changes(at) {
			return corrupt("plan of entry %d changes word %d", curSeq(a), at)
		}
		b.w[at].Advance(old, new)
	case stepRelease:
		return b.release(at, old, int(new))
	case stepWake:
		if at > b.cfg.MaxKsocks {
			return corrupt("plan of entry %d wakes slot %d", curSeq(a), at)
		}
		b.wake(at)
	default:
		return corrupt("plan of entry %d has step %#x", curSeq(a), where)
	}
	return nil
}

// changes tells whether entries may change a word.
func (b *Bus) changes(at int) bool {
	return uint(at) < uint(b.payload) && (at >= headerWords || changing(at))
}

// changing tells whether entries change a word of the header.
func changing(at int) bool {
	return at == wSkips || at == wExtra || at == wVer || at == wMsgSize || at == wReports || at == wNextID || at >= wCarve && at < wCarve+carveClasses
}

// wake wakes the Ksock of a slot if it sleeps: every helper does, before cur
// moves on, and only the sleeper clears the flag (T5). The lane's words were
// changed by compare-and-swap before, the sleeper looks at them after it has
// stored the flag: one of both sees the other.
func (b *Bus) wake(slot int) {
	s, here := b.slot(slot), shm.Here()
	if b.w[s+sSleeping].Load() != 0 { // SYNC E5
		b.w[s+sSig].Add(1)
		b.w[s+sSig].Wake()
	}
	here.Forget()
}

// roomWanted tells whether anybody waits for room in any queue (SYNC E6).
func (b *Bus) roomWanted() bool {
	for i := range (b.slotsUsed() + 64) / 64 {
		if b.w[wWaiters+i].Load() != 0 {
			return true
		}
	}
	return false
}

// wakeSenders wakes whoever waits for room (R6.6).
func (b *Bus) wakeSenders() {
	here := shm.Here()
	for i := range (b.slotsUsed() + 64) / 64 {
		for m := b.w[wWaiters+i].Load(); m != 0; m &= m - 1 { // SYNC E6
			if s := 64*i + trailing(m); s <= b.cfg.MaxKsocks {
				b.w[b.slot(s)+sSig].Add(1)
				b.w[b.slot(s)+sSig].Wake()
			}
		}
	}
	here.Forget()
}
