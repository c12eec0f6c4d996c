//go:build kbuscheck

package ring

import (
	"fmt"
	"strings"

	"kbus.internal/ring/check"
	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

// A checkBus describes the bus of a configuration: Ksock i+1 in slot i+1 for
// ksocks[i].
type checkBus struct {
	cfg     Config
	ksocks  []checkKsock
	reports bool
	sides   bool              // a Ksock's two sides are processes of their own
	before  func(s *checkSim) // what has happened before, one thing after the other
	open    bool              // before leaves an entry open: no supervisor, who would finish it
}

type checkKsock struct {
	binds  []checkBind
	max    uint32 // 0: as many as the queue can hold
	once   bool
	blocks int // that it has used before and can take again
}

type checkBind struct {
	name    string
	replier bool
}

// checkSim is one execution of a configuration.
type checkSim struct {
	w     *check.World
	def   *checkDef
	mem   *shm.Memory
	k     []*Client // by slot
	admin *Admin
	dead  []bool // nobody reaps it
}

// checkDef is what the executions of a configuration share.
type checkDef struct {
	bus    checkBus
	size   int64
	layout layout
	cached [][]freed // by slot
	model  *model.Bus
	record bool            // before() is played on the model, too
	ends   map[string]bool // if not nil, how executions ended is noted here
}

func (b checkBus) def() *checkDef {
	c := &b.cfg
	if c.MaxKsocks == 0 {
		c.MaxKsocks = len(b.ksocks)
	}
	if c.MaxBindings == 0 {
		for _, k := range b.ksocks {
			c.MaxBindings += len(k.binds)
		}
		c.MaxBindings = max(1, c.MaxBindings)
	}
	if c.ArenaBytes == 0 {
		c.ArenaBytes = 32 * unitBytes
	}
	if c.MaxMessageSize == 0 {
		c.MaxMessageSize = 4096
	}
	if c.QueueSlots == 0 {
		c.QueueSlots = 4
	}
	if c.KeptEvents == 0 {
		c.KeptEvents = 2
	}
	l, err := newLayout(*c)
	if err != nil {
		panic(err)
	}
	return &checkDef{bus: b, size: int64(l.words) * 8, layout: l, cached: make([][]freed, c.MaxKsocks+1)}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func must0(err error) {
	if err != nil {
		panic(err)
	}
}

// format makes the region and the model as they are before an execution.
func (d *checkDef) format(mem *shm.Memory) {
	must0(Format(mem, d.bus.cfg))
	b := must(Attach(mem))
	a := must(b.Admin())
	m := must(model.New(model.Config{MaxMessageSize: d.bus.cfg.MaxMessageSize, KeptEvents: d.bus.cfg.KeptEvents}).Bus(0))
	s := &checkSim{def: d, mem: mem, k: make([]*Client, d.bus.cfg.MaxKsocks+1), admin: a}
	d.model = m
	for i, k := range d.bus.ksocks {
		slot, id, err := a.Open(i+1, uint64(i+1), ReadWrite)
		if err != nil || slot != i+1 || m.Open(false) != id {
			panic(fmt.Sprint(slot, id, err))
		}
		if k.max == 0 {
			k.max = uint32(d.bus.cfg.QueueSlots) // which the model does not know
		}
		must(a.SetMaxMessages(slot, k.max))
		must(m.MaxMessages(id, k.max))
		if k.once {
			must(a.SetOnlyOnce(slot, On))
			must(m.OnlyOnce(id, model.On))
		}
		s.k[slot] = must(must(Attach(mem)).Client(slot, id, ReadWrite))
	}
	for i, k := range d.bus.ksocks {
		for _, x := range k.binds {
			must0(a.Bind(i+1, x.name, x.replier))
			must0(m.Bind(uint32(i+1), x.name, x.replier))
		}
	}
	if d.bus.reports {
		must(a.SetReports(1, On))
		must(m.ReportReplierBinds(1, model.On))
		for s.take(1) != "none" {
		}
	}
	for i, k := range d.bus.ksocks {
		c := s.k[i+1]
		var l []*draft
		for range k.blocks {
			x := &draft{held: must(c.loans.get()), cache: c.cache}
			must0(x.room(&c.send, 1))
			l = append(l, x)
		}
		for _, x := range l {
			x.drop(&c.send)
			c.loans.put(x.held)
		}
	}
	if d.bus.before != nil {
		d.record = true
		d.bus.before(s)
		d.record = false
	}
	for i := range d.bus.ksocks {
		if q := s.k[i+1].cache.of[1]; q != nil {
			d.cached[i+1] = q.all()
		}
	}
}

// sim sets up an execution: each Ksock, and the supervisor, in a process of its
// own, with a region mapped, tables read, and blocks used before.
func (d *checkDef) sim(w *check.World) *checkSim {
	s := &checkSim{w: w, def: d, k: make([]*Client, d.bus.cfg.MaxKsocks+1), dead: make([]bool, d.bus.cfg.MaxKsocks+1)}
	s.mem = w.Memory(d.size, d.format)
	w.Plain(s.mem, d.layout.payload*8, d.layout.words*8)
	w.Label(s.mem, d.layout.wordName)
	// A plan that cur does not name nobody acts on (T2).
	words := s.mem.Words()
	for a := range 2 * (d.bus.cfg.MaxKsocks + 1) {
		w.While(s.mem, d.layout.area(a), d.layout.area(a)+d.layout.areaWords, func() bool {
			c := words[wCur].Load()
			return curPhase(c) == curPlanned && curArea(c) == a
		})
	}
	for i := range d.bus.ksocks {
		s.k[i+1] = s.client(i + 1)
	}
	if !d.bus.open {
		s.admin = s.takeOver()
		b := s.admin.b
		b.mu.Lock()
		must0(b.update())
		b.mu.Unlock()
	}
	w.AtEnd(s.judge)
	return s
}

// client is the Client of the Ksock of that slot in a process of its own.
func (s *checkSim) client(slot int) *Client {
	b := must(Attach(s.mem))
	c := must(b.Client(slot, uint32(slot), ReadWrite))
	b.mu.Lock()
	must0(b.update())
	b.mu.Unlock()
	for _, f := range s.def.cached[slot] {
		c.cache.add(1, f)
	}
	return c
}

// wordName names words in traces.
func (l *layout) wordName(i int) string {
	name := func(m map[int]string, i int, rest string) string {
		if s, ok := m[i]; ok {
			return s
		}
		return fmt.Sprintf("%s+%d", rest, i)
	}
	switch {
	case i < headerWords:
		return name(map[int]string{wCur: "cur", wSkips: "skips", wExtra: "extra", wVer: "bver", wMsgSize: "msgsize", wReports: "reports", wWaiters: "waiters"}, i, "header")
	case i >= l.payload:
		return fmt.Sprintf("payload of %d, word %d", (i-l.payload)/unitWords, (i-l.payload)%unitWords)
	case i >= l.blocks:
		k := i - l.blocks
		return fmt.Sprintf("block %d.%s", k/blockWords, name(map[int]string{mHead: "head", mSpan: "span", mSerw: "serial", mFlags: "flags"}, k%blockWords, ""))
	case i >= l.areas:
		k := i - l.areas
		return fmt.Sprintf("plan %d word %d", k/l.areaWords, k%l.areaWords)
	case i >= l.journal:
		return fmt.Sprintf("journal %d", i-l.journal)
	case i >= l.cells:
		return fmt.Sprintf("cell %d word %d", (i-l.cells)/cellWords, (i-l.cells)%cellWords)
	}
	k := (i - l.slots) % l.slotWords
	return fmt.Sprintf("slot %d.%s", (i-l.slots)/l.slotWords, func() string {
		switch {
		case k < l.held:
			return name(map[int]string{sTail: "tail", sOwing: "owing", sLimit: "limit", sKid: "kid", sRead: "read", sSig: "sig", sSleeping: "sleeping",
				sCmd: "cmd", sOut: "out", sKeptTail: "keptTail", sKeptHead: "keptHead"}, k, "")
		case k < l.lane:
			return fmt.Sprintf("held[%d]", k-l.held)
		case k < l.urg:
			return fmt.Sprintf("lane[%d]", k-l.lane)
		case k < l.kept:
			return fmt.Sprintf("urgent[%d]", k-l.urg)
		case k < l.rec:
			return fmt.Sprintf("kept[%d]", k-l.kept)
		}
		return fmt.Sprintf("record[%d]", k-l.rec)
	}())
}

// do is one operation, on the bus and for the model.
func (s *checkSim) do(name string, a act, real func() string) string {
	if s.w == nil {
		// Before the executions: both at once.
		got, want := real(), ""
		for i := 0; ; i++ {
			out, more := a(s.def.model, i)
			want += out
			if !more {
				if s.def.record && got != want {
					panic(fmt.Sprintf("%s: %s, model %s", name, got, want))
				}
				return got
			}
		}
	}
	return s.w.Do(name, a, func() any { return real() }).(string)
}

// judge looks for an order of the operations that the model explains (judge). What
// a dead process was doing may have happened in part or not.
func (s *checkSim) judge() error {
	if n := must(Attach(s.mem)).w[wNet].Load(); n != 0 {
		return fmt.Errorf("%d nets", n)
	}
	if err := s.invariants(); err != nil {
		return err
	}
	var j judge
	for _, op := range s.w.History() {
		out, _ := op.Out.(string)
		j.h = append(j.h, happened{who: op.Process, what: op.Name, act: op.In.(act), out: out, call: op.Call, ret: op.Return})
	}
	for i := range s.def.bus.ksocks {
		slot := i + 1
		if s.dead[slot] {
			continue
		}
		x := "closed"
		if c := s.k[slot]; c.b.w[c.s+sKid].Load()>>32 == kidOpen {
			var err error
			if x, err = left(s.client(slot)); err != nil {
				return err
			}
		}
		j.rest, j.ids = append(j.rest, x), append(j.ids, uint32(slot))
	}
	if s.def.ends != nil {
		s.def.ends[ending(s.w.History(), j.rest)] = true
	}
	return j.explain(s.def.model)
}

// ending is all that can be told of an execution.
func ending(h []check.Op, rest []string) string {
	var b strings.Builder
	for _, op := range h {
		fmt.Fprintf(&b, "%s: %s = %v, behind", op.Process, op.Name, op.Out)
		for i, o := range h {
			if o.Done() && o.Return < op.Call {
				fmt.Fprint(&b, " ", i)
			}
		}
		b.WriteByte('\n')
	}
	return b.String() + strings.Join(rest, "\n--\n")
}

// invariants looks at queues and blocks: what is queued has its bit, in a block
// that is not free, and no queue is frozen, once the log is idle.
func (s *checkSim) invariants() error {
	b := must(Attach(s.mem))
	var p party
	p.init(b, 0, 1)
	if _, err := p.idle(); err != nil {
		return err
	}
	a := &Admin{b: b}
	for i := range s.def.bus.cfg.MaxKsocks {
		at := b.slot(i + 1)
		if b.w[at+sKid].Load()>>32 != kidOpen {
			continue
		}
		if readWord(b.w[at+sRead].Load()).frozen() {
			return fmt.Errorf("the queue of slot %d is frozen, and nobody edits it", i+1)
		}
		if err := a.queued(i+1, func(w uint64) error {
			head := b.w[b.block(laneHandle(w))+mHead].Load()
			if laneIdx(w) < 16 && head>>laneIdx(w)&1 == 0 {
				return fmt.Errorf("slot %d has copy %d of block %d in its queue, the block's head is %#x", i+1, laneIdx(w), laneHandle(w), head)
			}
			return nil
		}); err != nil {
			return err
		}
		owing := 0
		for k := range b.lmask + 1 {
			if ledState(b.w[at+b.rec+k*recWords].Load()) != ledFree {
				owing++
			}
		}
		if n := int(b.w[at+sOwing].Load() & 0xffff); n != owing {
			return fmt.Errorf("slot %d: %d places held, %d Requests on the ledger", i+1, n, owing)
		}
	}
	return nil
}

// noLeaks wants all blocks to be free again, but for messages that wait.
func (s *checkSim) noLeaks() error {
	for _, c := range s.k {
		if c != nil && c.b.w[c.s+sKid].Load()>>32 == kidOpen {
			c.Discard()
		}
	}
	st, err := s.k[1].b.arenaStats()
	if err != nil {
		return err
	}
	if st.UsedBlocks != 0 {
		return fmt.Errorf("%d blocks are not free at the end", st.UsedBlocks)
	}
	return nil
}

// clean has an execution judged for leaks, too.
func (s *checkSim) clean() *checkSim {
	s.w.AtEnd(func() error {
		if err := s.judge(); err != nil {
			return err
		}
		return s.noLeaks()
	})
	return s
}

// keep tells the explorer what of the last operation stays in a Ksock's process:
// its Client's state.
func (s *checkSim) keep(slot int) {
	if s.w == nil || s.def.bus.sides {
		return
	}
	s.w.Keep(s.k[slot].state())
}

// send sends as the Ksock of a slot.
func (s *checkSim) send(slot int, h Header, data string) string {
	defer s.keep(slot)
	return s.do("send "+h.Name, sendAct(uint32(slot), h, data), func() string {
		return sent(s.k[slot].Send(&h, []byte(data)))
	})
}

// sendBatch sends n announcements of one name.
func (s *checkSim) sendBatch(slot, n int, name string, flags uint32) string {
	defer s.keep(slot)
	var hs []Header
	var data []string
	for i := range n {
		hs, data = append(hs, Header{Name: name, Flags: flags}), append(data, fmt.Sprint(slot, ".", i))
	}
	return s.do("send a batch "+name, batchAct(uint32(slot), hs, data), func() string { return batchSent(s.k[slot], hs, data) })
}

func (s *checkSim) sendAgain(slot int) string {
	defer s.keep(slot)
	return s.do("send again", againAct(uint32(slot)), func() string { return sent(s.k[slot].SendAgain()) })
}

func (s *checkSim) poll(slot int) string {
	defer s.keep(slot)
	return s.do("poll", pollAct(uint32(slot)), func() string { return polled(s.k[slot]) })
}

// take takes a message, in one operation, and then looks at its bytes once more
// (I7) and lets it go.
func (s *checkSim) take(slot int) string {
	_, x := s.read(slot)
	return x
}

func (s *checkSim) read(slot int) (*Message, string) {
	defer s.keep(slot)
	var m Message
	x := s.do("take", takeAct(uint32(slot)), func() string { return taken(s.k[slot], &m) })
	kept := m
	if m.c != nil {
		if again := describe(&m); s.w != nil && again != x {
			s.w.Fail("message changes in its reader's hands: %s becomes %s", x, again)
		}
		m.Release()
	}
	return &kept, x
}

// hold takes a message and keeps it in place.
func (s *checkSim) hold(slot int) string {
	defer s.keep(slot)
	return s.do("take", takeAct(uint32(slot)), func() string { return taken(s.k[slot], new(Message)) })
}

// reply reads as Replier and answers.
func (s *checkSim) reply(slot int, flags uint32) {
	if m, _ := s.read(slot); m.Flags&MustReply != 0 {
		s.send(slot, Header{Name: m.Name, To: m.From, InReplyTo: m.ID, Flags: flags}, "re")
	}
}

func (s *checkSim) bind(a *Admin, slot int, name string, replier bool) string {
	return s.do("bind "+name, bindAct(uint32(slot), name, replier), func() string { return errno(a.Bind(slot, name, replier)) })
}

func (s *checkSim) unbind(a *Admin, slot int, name string, replier bool) string {
	return s.do("unbind "+name, unbindAct(uint32(slot), name, replier), func() string { return errno(a.Unbind(slot, name, replier)) })
}

func (s *checkSim) maxMessages(a *Admin, slot int, n uint32) string {
	return s.do("max_messages", maxAct(uint32(slot), n), func() string {
		n, err := a.SetMaxMessages(slot, n)
		return fmt.Sprint(n, errno(err))
	})
}

// reap closes the Ksock of a slot, whose process is dead.
func (s *checkSim) reap(a *Admin, slot int) string {
	return s.do("reap", closeAct(uint32(slot)), func() string { return errno(a.Reap(slot)) })
}

// close closes the Ksock of a slot, whose process may still hold messages.
func (s *checkSim) close(a *Admin, slot int) string {
	return s.do("close", closeAct(uint32(slot)), func() string { return errno(a.Close(slot)) })
}
