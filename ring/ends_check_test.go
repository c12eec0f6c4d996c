//go:build kbuscheck

package ring

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

// An op is one operation of a history, for the bus and for the model.
type op struct {
	kind    string
	k       int // index of the Ksock
	name    string
	replier bool
	n       uint32
	h       Header
	data    int
}

func (o op) String() string {
	switch o.kind {
	case "send", "sendloan":
		return fmt.Sprintf("%d: %s %+v, %d bytes", o.k, o.kind, o.h, o.data)
	case "bind", "unbind":
		return fmt.Sprintf("%d: %s %s %v", o.k, o.kind, o.name, o.replier)
	}
	return fmt.Sprintf("%d: %s %d", o.k, o.kind, o.n)
}

// A ksock is one simulated process with one Ksock.
type simKsock struct {
	b    *Bus
	c    *Client
	slot int
	id   uint32
	gone bool // closed, dead or stopped
	loan *Loan
	held []*Message
	owed []answerable
}

// A endWorld is a bus, its processes, and the models of all that may have
// become of it: an operation that was cut off may have been done or not.
type endWorld struct {
	t       *testing.T
	c       *cutter
	r       *rand.Rand
	mem     *shm.Memory
	ab      *Bus
	a       *Admin
	ks      []*simKsock
	models  []maybe
	pending []op
	log     []string
	most    map[string]int // steps of an operation that nobody ended
}

var endConfig = Config{MaxKsocks: 5, MaxBindings: 48, ArenaBytes: 128 << 10, KeptEvents: 3, QueueSlots: 32, MaxMessageSize: 8192, QueueBytes: 1 << 30}

// endImage is a fresh region, to start each execution from.
var endImage = func() []byte {
	n, err := endConfig.RegionSize()
	if err != nil {
		panic(err)
	}
	m := shm.Heap(n)
	if err := Format(m, endConfig); err != nil {
		panic(err)
	}
	return slices.Clone(m.Bytes())
}()

func newEndWorld(t *testing.T, c *cutter, mem *shm.Memory, r *rand.Rand, most map[string]int) *endWorld {
	copy(mem.Bytes(), endImage)
	w := &endWorld{t: t, c: c, r: r, mem: mem, most: most}
	w.newAdmin()
	m, _ := model.New(model.Config{MaxMessageSize: endConfig.MaxMessageSize, KeptEvents: endConfig.KeptEvents}).Bus(0)
	w.models = []maybe{{m, 0}}
	return w
}

func (w *endWorld) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", strings.Join(w.log, "\n"), fmt.Sprintf(format, args...))
}

func (w *endWorld) attach() *Bus {
	b, err := Attach(w.mem)
	if err != nil {
		w.fail("attach: %v", err)
	}
	return b
}

func (w *endWorld) newAdmin() {
	w.ab = w.attach()
	a, err := w.ab.Admin()
	if err != nil {
		w.fail("new supervisor: %v", err)
	}
	w.a = a
}

// do does o on the bus and describes the result.
func (w *endWorld) do(o op) string {
	var k *simKsock
	if o.kind != "open" {
		k = w.ks[o.k]
	}
	switch o.kind {
	case "open":
		mode := Mode(o.n)
		slot, id, err := w.a.Open(1, 1, mode)
		if err != nil {
			return errno(err)
		}
		k := &simKsock{b: w.attach(), slot: slot, id: id}
		if k.c, err = k.b.Client(slot, id, mode); err != nil {
			w.fail("client: %v", err)
		}
		w.ks = append(w.ks, k)
		return fmt.Sprint(id)
	case "close":
		return errno(w.a.Reap(k.slot))
	case "bind":
		return errno(w.a.Bind(k.slot, o.name, o.replier))
	case "unbind":
		return errno(w.a.Unbind(k.slot, o.name, o.replier))
	case "max":
		n, err := w.a.SetMaxMessages(k.slot, o.n)
		return fmt.Sprint(n, errno(err))
	case "once":
		was, err := w.a.SetOnlyOnce(k.slot, o.n)
		return fmt.Sprint(was && err == nil, errno(err))
	case "reports":
		was, err := w.a.SetReports(k.slot, o.n)
		return fmt.Sprint(was && err == nil, errno(err))
	case "size":
		n, err := w.a.SetMessageSize(o.n)
		return fmt.Sprint(n, errno(err))
	case "send":
		id, err := k.c.Send(&o.h, make([]byte, o.data))
		return sentText(model.MessageID(id), err)
	case "loan":
		l, err := k.c.Loan(int(o.n))
		if err != nil {
			return errno(err)
		}
		k.loan = l
		return "ok"
	case "unloan":
		k.loan.Release()
		k.loan = nil
		return "ok"
	case "sendloan":
		clear(k.loan.Data())
		id, err := k.c.SendLoan(&o.h, k.loan)
		if k.loan.Data() == nil {
			k.loan = nil
		}
		return sentText(model.MessageID(id), err)
	case "take":
		var m Message
		ok, err := k.c.Take(&m)
		if err != nil || !ok {
			return fmt.Sprint(ok, errno(err))
		}
		got := messageText(model.Message{
			ID: model.MessageID(m.ID), InReplyTo: model.MessageID(m.InReplyTo), To: m.To, From: m.From,
			OrigFrom: model.EndPoint(m.OrigFrom), FinalTo: model.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name, Data: string(m.Data()),
		})
		if m.Flags&MustReply != 0 {
			k.owed = append(k.owed, answerable{m.From, m.ID})
		}
		if o.n == 0 {
			m.Release()
		} else {
			k.held = append(k.held, &m)
		}
		return got
	case "release":
		m := k.held[0]
		k.held = k.held[1:]
		m.Release()
		return "ok"
	case "poll":
		r, wr, err := k.c.Poll()
		return fmt.Sprint(r, wr, errno(err))
	case "again":
		id, err := k.c.SendAgain()
		return sentText(model.MessageID(id), err)
	case "discard":
		k.c.Discard()
		return "ok"
	case "unread":
		return fmt.Sprint(k.c.Unread())
	}
	panic(o.kind)
}

func sentText(id model.MessageID, err error) string {
	if err != nil {
		id = model.MessageID{}
	}
	return fmt.Sprint(id, errno(err))
}

func messageText(m model.Message) string {
	data := m.Data
	if strings.Trim(data, "\x00") == "" {
		data = fmt.Sprint(len(data), " zeros")
	}
	m.Data = ""
	return fmt.Sprintf("%+v %q", m, data)
}

// doModel does o on a model.
func (w *endWorld) doModel(m *model.Bus, o op) string {
	id := uint32(0)
	if o.kind != "open" {
		id = w.ks[o.k].id
	}
	switch o.kind {
	case "open":
		return fmt.Sprint(m.Open(Mode(o.n) == ReadOnly))
	case "close":
		return errno(m.Close(id))
	case "bind":
		return errno(m.Bind(id, o.name, o.replier))
	case "unbind":
		return errno(m.Unbind(id, o.name, o.replier))
	case "max":
		n, err := m.MaxMessages(id, o.n)
		return fmt.Sprint(n, errno(err))
	case "once":
		was, err := m.OnlyOnce(id, model.Switch(o.n))
		return fmt.Sprint(was && err == nil, errno(err))
	case "reports":
		was, err := m.ReportReplierBinds(id, model.Switch(o.n))
		return fmt.Sprint(was && err == nil, errno(err))
	case "size":
		n, err := m.MaxMessageSize(id, o.n)
		return fmt.Sprint(n, errno(err))
	case "send", "sendloan":
		got, err := m.Send(id, model.Message{
			ID: model.MessageID(o.h.ID), InReplyTo: model.MessageID(o.h.InReplyTo), To: o.h.To,
			Flags: o.h.Flags, Name: o.h.Name, Data: string(make([]byte, o.data)),
		})
		return sentText(got, err)
	case "loan", "unloan", "release":
		return "ok"
	case "take":
		got, ok, err := m.Next(id)
		if err != nil || !ok {
			return fmt.Sprint(ok, errno(err))
		}
		return messageText(got)
	case "poll":
		r, wr, err := m.Poll(id)
		return fmt.Sprint(r, wr, errno(err))
	case "again":
		got, err := m.SendAgain(id)
		return sentText(got, err)
	case "discard":
		return errno(m.Discard(id))
	case "unread":
		n, _ := m.Unread(id)
		return fmt.Sprint(n)
	}
	panic(o.kind)
}

// both does o on the bus and on the models: one at least must agree.
func (w *endWorld) both(o op) {
	w.t.Helper()
	w.log = append(w.log, o.String())
	w.c.steps = 0
	got := w.do(o)
	if w.most != nil {
		w.most[o.kind] = max(w.most[o.kind], w.c.steps)
	}
	w.log[len(w.log)-1] += " = " + got
	w.expand()
	w.agree(o, got)
	if o.kind == "close" {
		w.ks[o.k].gone = true
	}
}

func (w *endWorld) agree(o op, got string) {
	w.t.Helper()
	var left []maybe
	var wants []string
	for _, m := range w.models {
		if want := w.doModel(m.Bus, o); want == got {
			left = append(left, m)
		} else {
			wants = append(wants, want)
		}
	}
	if len(left) == 0 {
		w.fail("%v: got %s, the models say %q", o, got, wants)
	}
	w.models = left
}

// A maybe is what may have become of the bus: an operation that was cut off has
// gone so many stages.
type maybe struct {
	*model.Bus
	stage int
}

// cut notes that o was cut off. What of it is in the log others may carry out at
// any time, so from now on the models may go on with it at any time.
func (w *endWorld) cut(o op) { w.pending = append(w.pending, o) }

// expand adds what may have happened since to the models.
func (w *endWorld) expand() {
	if len(w.pending) == 0 {
		return
	}
	known := map[string]bool{}
	var all []maybe
	for todo := w.models; len(todo) > 0; todo = todo[1:] {
		m := todo[0]
		if k := fmt.Sprint(m.stage, m.Key()); known[k] {
			continue
		} else {
			known[k] = true
		}
		all = append(all, m)
		for i, o := range w.pending {
			if n, ok := w.advance(m, i, o); ok {
				todo = append(todo, n)
			}
		}
	}
	w.models = all
}

// advance does the next stage of an operation that was cut off. For what takes
// several entries each is a stage. Operation i's count is the i-th digit.
func (w *endWorld) advance(m maybe, i int, o op) (maybe, bool) {
	unit := 1
	for range i {
		unit *= 100
	}
	stage := m.stage / unit % 100
	n := maybe{m.Clone(), m.stage + unit}
	id := uint32(0)
	if o.kind != "open" {
		id = w.ks[o.k].id
	}
	switch {
	case o.kind == "close":
		if stage == 0 {
			return n, n.CloseBegin(id) == nil
		}
		if stage >= 98 {
			return n, false
		}
		if !n.CloseStep(id) {
			n.CloseEnd(id)
			n.stage += (98 - stage) * unit
		}
		return n, true
	case o.kind == "unbind":
		if stage > 0 {
			return n, n.UnbindStep(id)
		}
		if n.UnbindBegin(id, o.name, o.replier) != nil {
			n.stage += 98 * unit // EAGAIN uses an id (R7.3)
			return n, true
		}
		if err := n.UnbindEdit(id, o.name, o.replier); err != nil {
			panic(err)
		}
		return n, true
	case stage > 0:
		return n, false
	default:
		w.doModel(n.Bus, o)
		return n, true
	}
}

// finish has the models do what a new supervisor does first.
func (w *endWorld) finish(o op) {
	w.expand()
	if o.kind == "unbind" {
		for _, m := range w.models {
			for m.UnbindStep(w.ks[o.k].id) {
			}
		}
	}
	w.pending = nil
}

var endNames = []string{"$.A", "$.B", "$.A.X", ReplierBindEvent}
var endBinds = []string{"$.A", "$.B", "$.A", "$.*", "$.A.%", ReplierBindEvent}

// some picks one of the Ksocks that f accepts; -1 if there is none.
func (w *endWorld) some(f func(k *simKsock) bool) int {
	var l []int
	for i, k := range w.ks {
		if !k.gone && (f == nil || f(k)) {
			l = append(l, i)
		}
	}
	if l == nil {
		return -1
	}
	return l[w.r.IntN(len(l))]
}

// make makes a random operation of a kind; false if there is none now.
func (w *endWorld) make(kind string) (o op, ok bool) {
	r := w.r
	o = op{kind: kind}
	writer := func(k *simKsock) bool { return k.c.mode == ReadWrite }
	switch kind {
	case "send", "urgent", "request", "wait", "sendloan":
		o.kind = "send"
		o.k = w.some(writer)
		o.h = Header{Name: pick(r, endNames), Flags: pick(r, []uint32{0, 0, Urgent, AllOrFail, AllOrWait})}
		if r.IntN(3) == 0 {
			o.data = r.IntN(100)
			if r.IntN(4) == 0 {
				o.data = r.IntN(5000)
			}
		}
		switch kind {
		case "urgent":
			o.h.Flags = Urgent
		case "request":
			o.h.Flags |= WantReply
		case "wait":
			o.h.Flags = AllOrWait
		case "sendloan":
			o.kind = kind
			o.k = w.some(func(k *simKsock) bool { return k.loan != nil })
			if o.k >= 0 {
				o.data = w.ks[o.k].loan.d.data
			}
		}
	case "reply":
		o.kind = "send"
		o.k = w.some(func(k *simKsock) bool { return len(k.owed) > 0 && writer(k) })
		if o.k >= 0 {
			k := w.ks[o.k]
			j := r.IntN(len(k.owed))
			o.h = Header{Name: pick(r, endNames), To: k.owed[j].asker, InReplyTo: k.owed[j].id}
			if r.IntN(4) == 0 {
				o.h.Flags = Urgent
			}
			if r.IntN(3) > 0 {
				k.owed = slices.Delete(slices.Clone(k.owed), j, j+1)
			}
		}
	case "take", "hold":
		o.kind = "take"
		if kind == "hold" {
			o.n = 1
		}
		o.k = w.some(func(k *simKsock) bool { return k.c.Unread() > 0 })
	case "release":
		o.k = w.some(func(k *simKsock) bool { return len(k.held) > 0 })
	case "loan":
		o.k = w.some(func(k *simKsock) bool { return writer(k) && k.loan == nil })
		o.n = uint32(r.IntN(6000))
	case "unloan":
		o.k = w.some(func(k *simKsock) bool { return k.loan != nil })
	case "poll", "again", "discard":
		o.k = w.some(func(k *simKsock) bool { return k.c.Waiting() })
		if o.k < 0 && kind == "poll" && r.IntN(2) == 0 {
			o.k = w.some(nil)
		}
	case "open":
		n := 0
		for _, k := range w.ks {
			if !k.gone {
				n++
			}
		}
		if n == endConfig.MaxKsocks {
			return o, false
		}
		if r.IntN(10) == 0 {
			o.n = uint32(ReadOnly)
		}
	case "close":
		o.k = w.some(nil)
	case "bind":
		o.k = w.some(nil)
		o.name, o.replier = pick(r, endBinds), r.IntN(3) == 0
	case "unbind":
		o.k = w.some(nil)
		o.name, o.replier = pick(r, endBinds), r.IntN(2) == 0
		l, err := w.ab.Stats()
		if err != nil {
			w.fail("stats: %v", err)
		}
		slices.SortFunc(l.Bindings, func(a, b BindingStats) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
		if len(l.Bindings) > 0 && r.IntN(8) > 0 {
			x := pick(r, l.Bindings)
			o.k = slices.IndexFunc(w.ks, func(k *simKsock) bool { return k.id == x.ID && !k.gone })
			o.name, o.replier = x.Name, x.Replier
		}
	case "max":
		o.k, o.n = w.some(nil), uint32(1+r.IntN(6))
	case "once":
		o.k, o.n = w.some(nil), uint32(r.IntN(2))
	case "reports":
		o.k, o.n = w.some(nil), uint32(min(1, r.IntN(3)))
	case "size":
		o.k, o.n = w.some(nil), pick(r, []uint32{100, 8192})
	default:
		panic(kind)
	}
	return o, o.k >= 0
}

var clientKinds = []string{"send", "urgent", "request", "reply", "wait", "take", "hold", "release", "loan", "unloan", "sendloan", "poll", "again", "discard"}
var adminKinds = []string{"open", "close", "bind", "unbind", "max", "once", "reports", "size"}
var often = []string{"send", "urgent", "request", "request", "reply", "reply", "wait", "wait", "take", "take", "take", "hold", "release", "release", "loan", "sendloan", "poll", "again", "discard",
	"bind", "bind", "bind", "unbind", "max", "once", "reports", "reports"}

// history does n random operations.
func (w *endWorld) history(n int, kinds []string) {
	for done := 0; done < n; {
		kind := pick(w.r, kinds)
		if kind == "open" || kind == "close" {
			continue
		}
		o, ok := w.make(kind)
		done++
		if !ok {
			continue
		}
		w.both(o)
		// What is decided and not yet carried out is not counted, though others
		// have seen it decided.
		if curPhase(w.mem.Words()[wCur].Load()) == curIdle {
			w.both(op{kind: "unread", k: o.k})
		}
	}
}

func (w *endWorld) begin() {
	for range 4 {
		w.both(op{kind: "open"})
		w.both(op{kind: "max", k: len(w.ks) - 1, n: uint32(1 + w.r.IntN(6))})
	}
	if w.r.IntN(3) == 0 { // many copies: the tree of bits has two levels
		for range 20 {
			w.both(op{kind: "bind", k: w.r.IntN(4), name: "$.A"})
		}
	}
	for range 3 {
		if o, ok := w.make("bind"); ok {
			w.both(o)
		}
	}
	w.history(10+w.r.IntN(30), often)
}

// end reads everything, closes everything, and wants all memory and all slots
// back and working.
func (w *endWorld) end() {
	w.t.Helper()
	for i, k := range w.ks {
		if k.gone {
			continue
		}
		for range 100 {
			n := len(w.log)
			w.both(op{kind: "take", k: i})
			if strings.HasSuffix(w.log[n], "= falseok") {
				break
			}
		}
	}
	for i, k := range w.ks {
		if !k.gone {
			w.both(op{kind: "close", k: i})
		}
	}
	st, err := w.ab.Stats()
	if err != nil {
		w.fail("stats: %v", err)
	}
	if st.Arena.UsedBlocks != 0 || len(st.Ksocks) != 0 || len(st.Bindings) != 0 {
		w.fail("left behind: %+v", st)
	}
	if l := w.ab.Slots(); len(l) != 0 {
		w.fail("slots are left: %+v", l)
	}
	// Every slot is as good as new.
	first := len(w.ks)
	for range endConfig.MaxKsocks {
		w.both(op{kind: "open"})
		w.both(op{kind: "bind", k: len(w.ks) - 1, name: "$.Z", replier: len(w.ks) == first+1})
	}
	w.both(op{kind: "bind", k: first, name: "$.Z"})
	w.both(op{kind: "send", k: first + 1, h: Header{Name: "$.Z"}, data: 5000})
	w.both(op{kind: "send", k: first + 1, h: Header{Name: "$.Z", Flags: WantReply}})
	for i := range endConfig.MaxKsocks {
		for range 3 {
			w.both(op{kind: "take", k: first + i})
		}
	}
	for i := range endConfig.MaxKsocks {
		w.both(op{kind: "close", k: first + i})
	}
	if st, err := w.ab.arenaStats(); err != nil || st.UsedBlocks != 0 {
		w.fail("used again and left behind: %+v %v", st, err)
	}
	for s := 0; s <= endConfig.MaxKsocks; s++ {
		for i := range heldWords {
			if h := w.mem.Words()[w.ab.slot(s)+w.ab.layout.held+i].Load(); s > 0 && h != 0 {
				w.fail("slot %d still names block %d", s, h)
			}
		}
	}
}

// afterClientsEnd goes on after an operation of o's Ksock was cut off.
func (w *endWorld) afterClientsEnd(o op, stops bool) {
	k := w.ks[o.k]
	k.gone = true
	if stops {
		// It counts as open, and nobody waits for it.
		w.history(25, often)
		w.log = append(w.log, "now it is killed")
		k.gone = false
	} else {
		w.history(w.r.IntN(3), clientKinds) // before the supervisor has heard of it
		k.gone = false
	}
	w.closeDead(o.k, false)
	w.history(20, often)
	w.end()
}

// closeDead reaps a Ksock whose end the supervisor learns of; sometimes the
// supervisor dies in this too.
func (w *endWorld) closeDead(i int, sure bool) {
	k := w.ks[i]
	for !sure && w.r.IntN(3) == 0 {
		n := w.r.IntN(400)
		if len(w.pending) == 0 || w.pending[len(w.pending)-1].kind != "close" {
			w.cut(op{kind: "close", k: i})
		}
		done := w.c.run(n, func() {
			w.newAdmin()
			if err := w.a.Reap(k.slot); err != nil {
				w.fail("reap: %v", err)
			}
		})
		w.log = append(w.log, fmt.Sprintf("supervisor begins anew and dies at write %d: %v", n, !done))
		k.gone = true
		w.history(w.r.IntN(4), clientKinds)
		w.newAdmin()
	}
	w.log = append(w.log, fmt.Sprintf("%d: reaped", i))
	if err := w.a.Reap(k.slot); err != nil {
		w.fail("reap: %v", err)
	}
	w.expand()
	w.pending = nil
	for _, m := range w.models {
		if m.Close(k.id) != nil {
			m.CloseEnd(k.id)
		}
	}
	k.gone = true
}

// afterAdminsEnd goes on after the supervisor was cut off in o.
func (w *endWorld) afterAdminsEnd(o op) {
	victim := -1
	if o.kind == "close" {
		victim = o.k
		w.ks[victim].gone = true
	}
	w.history(w.r.IntN(12), clientKinds)
	if w.r.IntN(3) == 0 {
		n := w.r.IntN(300)
		done := w.c.run(n, w.newAdmin)
		w.log = append(w.log, fmt.Sprintf("a new supervisor dies at write %d: %v", n, !done))
		w.history(w.r.IntN(4), clientKinds)
	}
	w.newAdmin()
	w.log = append(w.log, "a new supervisor")
	w.finish(o)
	switch o.kind {
	case "close":
		w.ks[victim].gone = false
		w.closeDead(victim, true)
	case "open":
		// Its process never heard of it.
		for _, s := range w.ab.Slots() {
			if slices.ContainsFunc(w.ks, func(k *simKsock) bool { return k.id == s.ID }) {
				continue
			}
			if err := w.a.Reap(s.Slot); err != nil {
				w.fail("reap: %v", err)
			}
		}
		last := w.ab.w[wNextID].Load() - 1
		w.models = slices.DeleteFunc(w.models, func(m maybe) bool {
			opened := slices.Contains(m.Ksocks(), uint32(len(w.ks)+1))
			if opened {
				if err := m.Close(uint32(len(w.ks) + 1)); err != nil {
					panic(err)
				}
			}
			return opened != (last == uint64(len(w.ks)+1))
		})
		if last == uint64(len(w.ks)+1) {
			w.ks = append(w.ks, &simKsock{id: uint32(last), gone: true})
		}
	}
	w.history(20, often)
	w.end()
}

// endEach ends the process that does an operation of a kind before each of its
// writes, behind some random histories, and judges what the others see after it
// against the model. It returns the number of points.
func endEach(t *testing.T, kind string, admin, stops bool, histories int, sd uint64) int {
	c := &cutter{}
	shm.SetScheduler(c)
	defer shm.SetScheduler(nil)
	points, found := 0, 0
	most := map[string]int{}
	mem := shm.Heap(int64(len(endImage)))
	for s := sd; found < histories; s++ {
		if s > sd+uint64(200*histories) {
			t.Fatalf("only %d of %d histories have a %s to end", found, histories, kind)
		}
		for n := 0; ; n++ {
			// The histories before the end are the same for each n.
			r := rand.New(rand.NewPCG(s, binary.BigEndian.Uint64([]byte((kind + "        ")[:8]))))
			w := newEndWorld(t, c, mem, r, nil)
			w.log = append(w.log, fmt.Sprintf("seed %d, end before write %d", s, n))
			w.begin()
			o, ok := w.make(kind)
			if !ok {
				break
			}
			if n == 0 {
				found++
			}
			w.log = append(w.log, fmt.Sprintf("%v, ends before its write %d", o, n))
			if stops && !admin {
				w.most = most
			}
			var got string
			done := c.run(n, func() { got = w.do(o) })
			w.r = rand.New(rand.NewPCG(s, uint64(n)))
			if done {
				w.models = w.models[:1]
				w.agree(o, got)
				w.log = append(w.log, "completed: "+got)
				if o.kind == "open" || o.kind == "close" {
					if o.kind == "close" {
						w.ks[o.k].gone = true
					}
				}
			} else {
				points++
				w.cut(o)
			}
			switch {
			case done && admin:
				w.history(20, often)
				w.end()
			case admin:
				w.afterAdminsEnd(o)
			default:
				w.afterClientsEnd(o, stops)
			}
			if done {
				break
			}
		}
	}
	if stops && !admin {
		for _, k := range []string{"send", "sendloan", "take", "release", "poll", "again", "discard", "loan", "unloan"} {
			if most[k] > 6000 {
				t.Errorf("beside one who stopped in %s, another's %s takes %d steps", kind, k, most[k])
			}
		}
	}
	return points
}

func testEnds(t *testing.T, kinds []string, admin, stops bool, histories int) {
	sd := seed(t)
	if !testing.Short() {
		histories *= 3
	}
	total := 0
	for _, k := range kinds {
		n := endEach(t, k, admin, stops, histories, sd)
		t.Logf("%-8s %d points", k, n)
		total += n
	}
	t.Logf("%d points in all", total)
}

// TestClientDeaths: R9.2.
func TestClientDeaths(t *testing.T) { testEnds(t, clientKinds, false, false, 3) }

// TestClientStops: R9.3.
func TestClientStops(t *testing.T) { testEnds(t, clientKinds, false, true, 3) }

// TestSupervisorDeaths: R9.4, also in its own clean-up.
func TestSupervisorDeaths(t *testing.T) { testEnds(t, adminKinds, true, false, 3) }
