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
	record bool // before() is played on the model, too
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
		if q := s.k[i+1].cache[1]; q != nil {
			d.cached[i+1] = append([]freed(nil), q.items[q.head:]...)
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
	b := must(Attach(s.mem))
	s.admin = must(b.Admin())
	b.mu.Lock()
	must0(b.update())
	b.mu.Unlock()
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
		return name(map[int]string{wCur: "cur", wSerial: "serial", wVer: "bver", wMsgSize: "msgsize", wReports: "reports", wWaiters: "waiters"}, i, "header")
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

// An act is an operation of a history as the model knows it: one or more steps,
// with others between them. Each tells a part of its result, and whether there
// are more.
type act func(m *model.Bus, step int) (out string, more bool)

func once(f func(m *model.Bus) string) act {
	return func(m *model.Bus, _ int) (string, bool) { return f(m), false }
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

// judge looks for an order of the operations that the model explains: one that
// keeps those apart which did not overlap, and after which the queues hold what
// they hold. What a dead process was doing may have happened in part or not.
func (s *checkSim) judge() error {
	if n := must(Attach(s.mem)).w[wNet].Load(); n != 0 {
		return fmt.Errorf("%d nets", n)
	}
	if err := s.invariants(); err != nil {
		return err
	}
	h := s.w.History()
	var rest []string
	var slots []int
	for i := range s.def.bus.ksocks {
		slot := i + 1
		if s.dead[slot] {
			continue
		}
		c := s.k[slot]
		kid := c.b.w[c.s+sKid].Load()
		l := []string{}
		if kid>>32 == kidOpen {
			d := s.client(slot)
			for {
				x := drain(d)
				if x == "none" {
					break
				}
				if l = append(l, x); len(l) > 100 {
					return fmt.Errorf("the queue of %d never ends", slot)
				}
			}
		} else {
			l = append(l, "closed")
		}
		rest, slots = append(rest, strings.Join(l, "\n")), append(slots, slot)
	}
	j := judge{s: s, h: h, at: make([]int, len(h)), out: make([]string, len(h)), rest: rest, slots: slots, seen: map[string]bool{}}
	if !j.search(s.def.model.Clone()) {
		var b strings.Builder
		fmt.Fprintf(&b, "no order explains the history:\n")
		for _, op := range h {
			fmt.Fprintf(&b, "  %3d..%3d %s: %s = %v\n", op.Call, op.Return, op.Process, op.Name, op.Out)
		}
		for i, slot := range slots {
			fmt.Fprintf(&b, "  left for %d:\n%s\n", slot, rest[i])
		}
		b.WriteString(j.why)
		return fmt.Errorf("%s", strings.TrimRight(b.String(), "\n"))
	}
	return nil
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

// drain takes a message and lets it go.
func drain(c *Client) string {
	var m Message
	ok, err := c.Take(&m)
	if err != nil {
		return err.Error()
	}
	if !ok {
		return "none"
	}
	x := describe(&m)
	m.Release()
	return x
}

func describe(m *Message) string {
	return fmt.Sprint(model.Message{
		ID: model.MessageID(m.ID), InReplyTo: model.MessageID(m.InReplyTo), To: m.To, From: m.From,
		OrigFrom: model.EndPoint(m.OrigFrom), FinalTo: model.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name, Data: string(m.Data()),
	})
}

type judge struct {
	s     *checkSim
	h     []check.Op
	at    []int // steps played; -1: complete
	out   []string
	rest  []string
	slots []int
	seen  map[string]bool
	why   string
	best  int
}

func (j *judge) search(m *model.Bus) bool {
	key := m.Key() + fmt.Sprint(j.at, j.out)
	if j.seen[key] {
		return false
	}
	j.seen[key] = true
	all, count := true, 0
	for i, op := range j.h {
		if j.at[i] == -1 {
			count++
			continue
		}
		all = all && !op.Done()
	}
	if all && j.ends(m.Clone(), count) {
		return true
	}
	for i, op := range j.h {
		if j.at[i] == -1 {
			continue
		}
		may := true
		for k, o := range j.h {
			if k != i && j.at[k] != -1 && o.Done() && o.Return < op.Call {
				may = false // that one comes first
			}
		}
		if !may {
			continue
		}
		step, before := j.at[i], j.out[i]
		n := m.Clone()
		out, more := op.In.(act)(n, step)
		out = before + out
		if more {
			j.at[i]++
			j.out[i] = out
		} else {
			if op.Done() && out != op.Out {
				if count >= j.best {
					j.best = count
					j.why = fmt.Sprintf("  after %v the model's %s of %s = %s", j.at, op.Name, op.Process, out)
				}
				continue
			}
			j.at[i] = -1
		}
		if j.search(n) {
			return true
		}
		j.at[i], j.out[i] = step, before
	}
	return false
}

func (j *judge) ends(m *model.Bus, count int) bool {
	for i, slot := range j.slots {
		l := []string{}
		for {
			x, ok, err := m.Next(uint32(slot))
			if err != nil {
				l = append(l, "closed")
				break
			}
			if !ok {
				break
			}
			l = append(l, fmt.Sprint(x))
		}
		if got := strings.Join(l, "\n"); got != j.rest[i] {
			j.best, j.why = count, fmt.Sprintf("  the model leaves for %d:\n%s", slot, got)
			return false
		}
	}
	return true
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

func sent(id MessageID, err error) string {
	if err != nil {
		return errno(err)
	}
	return fmt.Sprint(id)
}

// keep tells the explorer what of the last operation stays in a Ksock's process:
// its Client's state.
func (s *checkSim) keep(slot int) {
	if s.w == nil || s.def.bus.sides {
		return
	}
	c := s.k[slot]
	var blocks []freed
	for n := range 8 {
		if q := c.cache[n]; q != nil {
			blocks = append(blocks, q.items[q.head:]...)
		}
	}
	d := &c.waiting
	s.w.Keep(blocks, c.hand.version, c.b.tables.version, c.last, c.sent, c.readSeq, c.received, c.owed,
		d.h, d.head, d.units, d.opts, d.version, d.tried, d.hdr.ID, len(c.loans.free), len(c.views.free))
}

// send sends as the Ksock of a slot.
func (s *checkSim) send(slot int, h Header, data string) string {
	defer s.keep(slot)
	return s.do("send "+h.Name, once(func(m *model.Bus) string {
		id, err := m.Send(uint32(slot), model.Message{
			InReplyTo: model.MessageID(h.InReplyTo), To: h.To, Flags: h.Flags, Name: h.Name, Data: data,
		})
		return sent(MessageID(id), err)
	}), func() string { return sent(s.k[slot].Send(&h, []byte(data))) })
}

func (s *checkSim) sendAgain(slot int) string {
	defer s.keep(slot)
	return s.do("send again", once(func(m *model.Bus) string {
		id, err := m.SendAgain(uint32(slot))
		return sent(MessageID(id), err)
	}), func() string { return sent(s.k[slot].SendAgain()) })
}

func (s *checkSim) poll(slot int) string {
	defer s.keep(slot)
	// Whether it is writable, and then whether it is readable: two moments.
	return s.do("poll", func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			_, wr, err := m.Poll(uint32(slot))
			return fmt.Sprintln(wr, err), true
		}
		n, err := m.Unread(uint32(slot))
		return fmt.Sprintln(n > 0, err), false
	}, func() string {
		rd, wr, err := s.k[slot].Poll()
		return fmt.Sprintln(wr, err) + fmt.Sprintln(rd, err)
	})
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
	x := s.do("take", once(func(m *model.Bus) string {
		x, ok, err := m.Next(uint32(slot))
		if err != nil {
			return errno(err)
		}
		if !ok {
			return "none"
		}
		return fmt.Sprint(x)
	}), func() string {
		ok, err := s.k[slot].Take(&m)
		if err != nil {
			return errno(err)
		}
		if !ok {
			return "none"
		}
		return describe(&m)
	})
	kept := m
	if m.c != nil {
		if again := describe(&m); s.w != nil && again != x {
			s.w.Fail("message changes in its reader's hands: %s becomes %s", x, again)
		}
		m.Release()
	}
	return &kept, x
}

// reply reads as Replier and answers.
func (s *checkSim) reply(slot int, flags uint32) {
	if m, _ := s.read(slot); m.Flags&MustReply != 0 {
		s.send(slot, Header{Name: m.Name, To: m.From, InReplyTo: m.ID, Flags: flags}, "re")
	}
}

func (s *checkSim) bind(a *Admin, slot int, name string, replier bool) string {
	id := uint32(slot)
	return s.do("bind "+name, func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			if err := m.BindBegin(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		}
		return errno(m.BindEnd(id, name, replier)), false
	}, func() string { return errno(a.Bind(slot, name, replier)) })
}

func (s *checkSim) unbind(a *Admin, slot int, name string, replier bool) string {
	id := uint32(slot)
	return s.do("unbind "+name, func(m *model.Bus, step int) (string, bool) {
		switch step {
		case 0:
			if err := m.UnbindBegin(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		case 1:
			if err := m.UnbindEdit(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		}
		if m.UnbindStep(id) {
			return "", true
		}
		return "ok", false
	}, func() string { return errno(a.Unbind(slot, name, replier)) })
}

func (s *checkSim) maxMessages(a *Admin, slot int, n uint32) string {
	return s.do("max_messages", once(func(m *model.Bus) string {
		n, err := m.MaxMessages(uint32(slot), n)
		return fmt.Sprint(n, errno(err))
	}), func() string {
		n, err := a.SetMaxMessages(slot, n)
		return fmt.Sprint(n, errno(err))
	})
}

// reap closes the Ksock of a slot, whose process is dead.
func (s *checkSim) reap(a *Admin, slot int) string {
	id := uint32(slot)
	return s.do("reap", func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			// Of one that was reaped before, in part, the rest.
			_ = m.CloseBegin(id)
			return "", true
		}
		if m.CloseStep(id) {
			return "", true
		}
		m.CloseEnd(id)
		return "ok", false
	}, func() string { return errno(a.Reap(slot)) })
}
