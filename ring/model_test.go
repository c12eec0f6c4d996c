package ring

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random histories; 0: a new one each time")

var shrinkFlag = flag.Int("shrink", 3000, "lists that TestShrinkingHistories does")

func seed(t testing.TB) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("replay with -run '%s' -seed %d", t.Name(), s)
	return s
}

// A pairUp does every operation on the bus and on the model, and compares.
type pairUp struct {
	t    rapid.TB
	w    *world
	m    *model.Bus
	k    []*Client // nil: closed
	owed map[*Client][]answerable
	held map[*Client][]*heldMessage
	lent map[*Client]*Loan
	log  []string
}

// A heldMessage is one that a Ksock has taken and reads in place.
type heldMessage struct {
	Message
	was string
}

var pairConfig = Config{MaxKsocks: 6, MaxBindings: 64, ArenaBytes: 1 << 20, KeptEvents: 3, QueueSlots: 128, MaxMessageSize: 4096}

func newPair(t rapid.TB, mem *shm.Memory) *pairUp {
	ms := model.New(model.Config{MaxMessageSize: pairConfig.MaxMessageSize, KeptEvents: pairConfig.KeptEvents})
	m, _ := ms.Bus(0)
	return &pairUp{
		t: t, w: newWorldIn(t, pairConfig, mem), m: m, k: make([]*Client, 4),
		owed: map[*Client][]answerable{}, held: map[*Client][]*heldMessage{}, lent: map[*Client]*Loan{},
	}
}

func (p *pairUp) check(what string, got, want any) {
	p.log = append(p.log, fmt.Sprintf("%s -> %v", what, want))
	g, w := fmt.Sprint(got), fmt.Sprint(want)
	if g != w {
		p.t.Fatalf("%s\n%s: got %s, model says %s", strings.Join(p.log, "\n"), what, g, w)
	}
}

func errno(err error) string {
	var e unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	}
	return err.Error()
}

var pairNames = []string{"$.A", "$.B", "$.A.X", "$.A.X.Y", ReplierBindEvent, "$.KBUS.UnbindEventsLost"}
var pairBinds = []string{"$.A", "$.B", "$.A.X", "$.*", "$.%", "$.A.*", "$.A.%", "$.KBUS.*", ReplierBindEvent, ReplierBindEvent}

// A source is where random numbers come from: a *rand.Rand, or drawn.
type source interface {
	IntN(n int) int // 0 to n-1
}

func pick[T any](r source, l []T) T { return l[r.IntN(len(l))] }

// step does one random operation.
func (p *pairUp) step(r source) {
	i := r.IntN(len(p.k))
	k := p.k[i]
	if k == nil {
		mode := ReadWrite
		if r.IntN(12) == 0 {
			mode = ReadOnly
		}
		k = p.w.open(mode)
		p.k[i] = k
		p.check(fmt.Sprintf("%d open %d", i, mode), k.id, p.m.Open(mode == ReadOnly))
		n := uint32(1 + r.IntN(6))
		got, err := p.w.a.SetMaxMessages(k.slot, n)
		want, merr := p.m.MaxMessages(k.id, n)
		p.check(fmt.Sprintf("%d max_messages %d", k.id, n), fmt.Sprint(got, errno(err)), fmt.Sprint(want, errno(merr)))
		return
	}
	a := p.w.a
	switch op := r.IntN(100); {
	case op < 3:
		p.check(fmt.Sprintf("%d close", k.id), errno(a.Reap(k.slot)), errno(p.m.Close(k.id)))
		k.Interrupt()
		p.k[i] = nil
		delete(p.owed, k)
		delete(p.held, k)
		delete(p.lent, k)
	case op < 13:
		name, rep := pick(r, pairBinds), r.IntN(2) == 0
		p.check(fmt.Sprintf("%d bind %s %v", k.id, name, rep), errno(a.Bind(k.slot, name, rep)), errno(p.m.Bind(k.id, name, rep)))
	case op < 20:
		name, rep := pick(r, pairBinds), r.IntN(2) == 0
		p.check(fmt.Sprintf("%d unbind %s %v", k.id, name, rep), errno(a.Unbind(k.slot, name, rep)), errno(p.m.Unbind(k.id, name, rep)))
	case op < 22:
		v := pick(r, []uint32{Off, On, On, AskOnly, 2})
		was, err := a.SetOnlyOnce(k.slot, v)
		mwas, merr := p.m.OnlyOnce(k.id, model.Switch(v))
		p.check(fmt.Sprintf("%d only_once %d", k.id, v), fmt.Sprint(was && err == nil, errno(err)), fmt.Sprint(mwas && merr == nil, errno(merr)))
	case op < 25:
		v := pick(r, []uint32{Off, On, On, On, AskOnly, 2})
		was, err := a.SetReports(k.slot, v)
		mwas, merr := p.m.ReportReplierBinds(k.id, model.Switch(v))
		p.check(fmt.Sprintf("%d reports %d", k.id, v), fmt.Sprint(was && err == nil, errno(err)), fmt.Sprint(mwas && merr == nil, errno(merr)))
	case op < 27:
		n := uint32(r.IntN(7))
		got, err := a.SetMaxMessages(k.slot, n)
		want, merr := p.m.MaxMessages(k.id, n)
		p.check(fmt.Sprintf("%d max_messages %d", k.id, n), fmt.Sprint(got, errno(err)), fmt.Sprint(want, errno(merr)))
	case op < 29:
		n := pick(r, []uint32{0, 1, 50, 100, 150, 4096, 5000})
		got, err := a.SetMessageSize(n)
		want, merr := p.m.MaxMessageSize(k.id, n)
		p.check(fmt.Sprintf("%d size %d", k.id, n), fmt.Sprint(got, errno(err)), fmt.Sprint(want, errno(merr)))
	case op < 32:
		rd, wr, err := k.Poll()
		mrd, mwr, merr := p.m.Poll(k.id)
		p.check(fmt.Sprintf("%d poll", k.id), fmt.Sprint(rd, wr, errno(err)), fmt.Sprint(mrd, mwr, errno(merr)))
	case op < 34:
		id, err := k.SendAgain()
		mid, merr := p.m.SendAgain(k.id)
		if err != nil {
			id, mid = MessageID{}, model.MessageID{}
		}
		p.check(fmt.Sprintf("%d send again", k.id), fmt.Sprint(id, errno(err)), fmt.Sprint(mid, errno(merr)))
	case op < 35:
		k.Discard()
		p.check(fmt.Sprintf("%d discard", k.id), "ok", errno(p.m.Discard(k.id)))
	case op < 36:
		name := pick(r, pairBinds)
		got, err := p.w.b.Replier(name)
		want, merr := p.m.Replier(name)
		p.check(fmt.Sprintf("%d replier %s", k.id, name), fmt.Sprint(got, errno(err)), fmt.Sprint(want, errno(merr)))
	case op < 37:
		p.lend(r, k)
	case op < 41:
		p.release(r, k)
	case op < 46:
		p.sendBatch(r, k)
	case op < 69:
		p.take(r, k)
	default:
		p.send(r, k)
	}
	n, _ := p.m.Unread(k.id)
	if p.k[i] != nil {
		p.check(fmt.Sprintf("%d unread", k.id), k.Unread(), n)
		n, _ = p.m.Unreplied(k.id)
		p.check(fmt.Sprintf("%d unreplied", k.id), k.Unreplied(), n)
		id, _ := p.m.LastSent(k.id)
		p.check(fmt.Sprintf("%d last sent", k.id), k.LastSent(), id)
	}
}

// answerable remembers Requests to answer, for send to make Replies of.
type answerable struct {
	asker uint32
	id    MessageID
}

func (p *pairUp) take(r source, k *Client) {
	x := new(heldMessage)
	m := &x.Message
	ok, err := k.Take(m)
	want, mok, merr := p.m.Next(k.id)
	what := fmt.Sprintf("%d next", k.id)
	p.check(what, fmt.Sprint(ok, errno(err)), fmt.Sprint(mok, errno(merr)))
	if !ok {
		return
	}
	p.check(what, m.forModel(), want)
	if m.Flags&MustReply != 0 {
		p.owed[k] = append(p.owed[k], answerable{m.From, m.ID})
	}
	if r.IntN(4) == 3 && len(p.held[k]) < 8 {
		x.was = describe(m)
		p.held[k] = append(p.held[k], x)
		return
	}
	m.Release()
}

// release lets go of a message that is still as it was when it was taken (I7).
func (p *pairUp) release(r source, k *Client) {
	l := p.held[k]
	if len(l) == 0 {
		return
	}
	i := r.IntN(len(l))
	p.check(fmt.Sprintf("%d release", k.id), describe(&l[i].Message), l[i].was)
	l[i].Release()
	p.held[k] = slices.Delete(l, i, i+1)
}

// lend borrows memory for a message, or gives it back unsent.
func (p *pairUp) lend(r source, k *Client) {
	if l := p.lent[k]; l != nil {
		p.log = append(p.log, fmt.Sprintf("%d gives back a loan", k.id))
		l.Release()
		delete(p.lent, k)
		return
	}
	n := r.IntN(300)
	l, err := k.Loan(n)
	want := "ok"
	if k.mode == ReadOnly {
		want = "EBADF"
	}
	p.check(fmt.Sprintf("%d loan of %d", k.id, n), errno(err), want)
	if err == nil {
		p.lent[k] = l
	}
}

// end closes all Ksocks, and wants all memory back.
func (p *pairUp) end() {
	for i, k := range p.k {
		if k == nil {
			continue
		}
		for len(p.held[k]) > 0 && i%2 == 0 { // the others' processes just end
			p.release(rand.New(rand.NewPCG(0, 0)), k)
		}
		p.check(fmt.Sprintf("%d close", k.id), errno(p.w.a.Reap(k.slot)), errno(p.m.Close(k.id)))
	}
	p.w.leaks(0)
}

func (p *pairUp) send(r source, k *Client) {
	h := Header{Name: pick(r, pairNames), Flags: pick(r, []uint32{0, 0, Urgent, AllOrFail, AllOrWait, AllOrWait, AllOrFail | AllOrWait, MustReply | Synthetic | 1<<20})}
	switch r.IntN(6) {
	case 0, 1:
		h.Flags |= WantReply
		if r.IntN(4) == 0 {
			h.To = uint32(r.IntN(8))
		}
	case 2, 3:
		if l := p.owed[k]; len(l) > 0 {
			j := r.IntN(len(l))
			h.To, h.InReplyTo = l[j].asker, l[j].id
			if r.IntN(3) > 0 {
				p.owed[k] = append(l[:j:j], l[j+1:]...)
			}
		}
	}
	if r.IntN(10) == 0 {
		h.ID = MessageID{uint32(r.IntN(3)), uint32(1 + r.IntN(3))}
	}
	if r.IntN(10) == 0 {
		h.OrigFrom, h.FinalTo = EndPoint{1, 2}, EndPoint{3, 4}
	}
	if r.IntN(30) == 0 {
		h.Name = pick(r, []string{"", "$.", "$.*", "$.A.", "x", "$." + strings.Repeat("a", 999), "$." + strings.Repeat("a", 998)})
	}
	data := strings.Repeat("d", r.IntN(80)*r.IntN(2))
	loan := p.lent[k]
	if loan != nil {
		data = strings.Repeat("d", len(loan.Data()))
		copy(loan.Data(), data)
	}
	mm := model.Message{
		ID: model.MessageID(h.ID), InReplyTo: model.MessageID(h.InReplyTo), To: h.To,
		OrigFrom: model.EndPoint(h.OrigFrom), FinalTo: model.EndPoint(h.FinalTo), Flags: h.Flags, Name: h.Name, Data: data,
	}
	how := pick(r, []string{"send", "send", "send", "relay", "relay copy", "relay copy in place"})
	var id MessageID
	var mid model.MessageID
	var err, merr error
	if how == "send" && loan != nil {
		id, err = k.SendLoan(&h, loan)
		mid, merr = p.m.Send(k.id, mm)
		if loan.Data() == nil {
			delete(p.lent, k)
		}
	} else if how == "send" {
		id, err = k.Send(&h, []byte(data))
		mid, merr = p.m.Send(k.id, mm)
	} else {
		mid, merr = p.m.Relay(k.id, mm, how != "relay")
		var l Loan
		if how != "relay copy in place" || k.LoanInto(&l, len(data)) != nil {
			id, err = k.Relay(&h, []byte(data), how != "relay")
		} else {
			copy(l.Data(), data)
			id, err = k.RelayLoan(&h, &l, true)
			l.Release()
		}
	}
	if err != nil {
		id, mid = MessageID{}, model.MessageID{}
	}
	p.check(fmt.Sprintf("%d %s %+v (%d bytes)", k.id, how, h, len(data)), fmt.Sprint(id, errno(err)), fmt.Sprint(mid, errno(merr)))
}

func (p *pairUp) sendBatch(r source, k *Client) {
	hs, data := someBatch(r, "", 2+r.IntN(5))
	act, out := batchAct(k.id, hs, data), ""
	for step, more := 0, true; more; step++ {
		out, more = act(p.m, step)
	}
	p.check(fmt.Sprintf("%d batch %+v", k.id, hs), batchSent(k, hs, data), out)
}

// someBatch makes up n messages, most of which can go together.
func someBatch(r source, tag string, n int) (hs []Header, data []string) {
	name := pick(r, pairNames)
	for i := range n {
		h := Header{Name: name, Flags: pick(r, []uint32{0, AllOrFail, AllOrWait})}
		switch r.IntN(12) {
		case 0:
			h.Name = pick(r, pairNames)
		case 1:
			h.Flags = pick(r, []uint32{Urgent, WantReply, AllOrFail | AllOrWait})
		case 2:
			h.Name = "$.*"
		}
		hs, data = append(hs, h), append(data, fmt.Sprint(tag, i, strings.Repeat("d", r.IntN(300)*r.IntN(2))))
	}
	return hs, data
}

// TestHistoriesAgainstModel does random operations, one at a time, on the bus
// and on the model of SPEC.md: all of sections 1 to 7.
func TestHistoriesAgainstModel(t *testing.T) {
	s := seed(t)
	n := 2000
	if testing.Short() {
		n = 200
	}
	size, err := pairConfig.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	for h := range n {
		r := rand.New(rand.NewPCG(s, uint64(h)))
		p := newPair(t, mem)
		for range 150 {
			p.step(r)
		}
		p.end()
		if t.Failed() {
			t.Fatal(strings.Join(p.log, "\n"))
		}
	}
}

// drawn draws from a rapid.T, so that what fails is made shorter.
type drawn struct{ *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.T, "n") }

// TestShrinkingHistories does random lists of operations as
// TestHistoriesAgainstModel does, and makes one that fails as short as it can.
func TestShrinkingHistories(t *testing.T) {
	sd := seed(t)
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	set("rapid.seed", fmt.Sprint(sd))
	set("rapid.nofailfile", "true")
	set("rapid.checks", fmt.Sprint(*shrinkFlag)) // and a fifth of it with -short
	set("rapid.steps", "60")
	size, err := pairConfig.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	lists, operations := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		p := newPair(rt, mem)
		rt.Repeat(map[string]func(*rapid.T){"operation": func(rt *rapid.T) {
			p.step(drawn{rt})
			operations++
		}})
		p.end()
		lists++
	})
	t.Logf("%d lists, %d operations", lists, operations)
}
