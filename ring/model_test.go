package ring

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random histories; 0: a new one each time")

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
	t   testing.TB
	w   *world
	m   *model.Bus
	k   []*Client // nil: closed
	log []string
}

var pairConfig = Config{MaxKsocks: 6, MaxBindings: 64, ArenaBytes: 1 << 20, KeptEvents: 3, QueueSlots: 128, MaxMessageSize: 4096}

func newPair(t testing.TB, mem *shm.Memory) *pairUp {
	ms := model.New(model.Config{MaxMessageSize: pairConfig.MaxMessageSize, KeptEvents: pairConfig.KeptEvents})
	m, _ := ms.Bus(0)
	return &pairUp{t: t, w: newWorldIn(t, pairConfig, mem), m: m, k: make([]*Client, 4)}
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

func pick[T any](r *rand.Rand, l []T) T { return l[r.IntN(len(l))] }

// step does one random operation.
func (p *pairUp) step(r *rand.Rand) {
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
	case op < 66:
		p.take(k)
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

var answerables = map[*Client][]answerable{}

func (p *pairUp) take(k *Client) {
	var m Message
	ok, err := k.Take(&m)
	want, mok, merr := p.m.Next(k.id)
	what := fmt.Sprintf("%d next", k.id)
	p.check(what, fmt.Sprint(ok, errno(err)), fmt.Sprint(mok, errno(merr)))
	if !ok {
		return
	}
	got := model.Message{
		ID: model.MessageID(m.ID), InReplyTo: model.MessageID(m.InReplyTo), To: m.To, From: m.From,
		OrigFrom: model.EndPoint(m.OrigFrom), FinalTo: model.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name, Data: string(m.Data()),
	}
	p.check(what, got, want)
	if m.Flags&MustReply != 0 {
		answerables[k] = append(answerables[k], answerable{m.From, m.ID})
	}
	m.Release()
}

func (p *pairUp) send(r *rand.Rand, k *Client) {
	h := Header{Name: pick(r, pairNames), Flags: pick(r, []uint32{0, 0, Urgent, AllOrFail, AllOrWait, AllOrWait, AllOrFail | AllOrWait, MustReply | Synthetic | 1<<20})}
	switch r.IntN(6) {
	case 0, 1:
		h.Flags |= WantReply
		if r.IntN(4) == 0 {
			h.To = uint32(r.IntN(8))
		}
	case 2, 3:
		if l := answerables[k]; len(l) > 0 {
			j := r.IntN(len(l))
			h.To, h.InReplyTo = l[j].asker, l[j].id
			if r.IntN(3) > 0 {
				answerables[k] = append(l[:j:j], l[j+1:]...)
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
	mm := model.Message{
		ID: model.MessageID(h.ID), InReplyTo: model.MessageID(h.InReplyTo), To: h.To,
		OrigFrom: model.EndPoint(h.OrigFrom), FinalTo: model.EndPoint(h.FinalTo), Flags: h.Flags, Name: h.Name, Data: data,
	}
	how := pick(r, []string{"send", "send", "send", "relay", "relay copy", "relay copy in place"})
	var id MessageID
	var mid model.MessageID
	var err, merr error
	if how == "send" {
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
		for _, k := range p.k {
			if k != nil {
				if err := p.w.a.Reap(k.slot); err != nil {
					t.Fatal(err)
				}
				delete(answerables, k)
			}
		}
		p.w.leaks(0)
		if t.Failed() {
			t.Fatal(strings.Join(p.log, "\n"))
		}
	}
}
