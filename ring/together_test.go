package ring

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"kbus.internal/ring/model"
	"kbus.internal/shm"
)

var togetherFlag = flag.Int("together", 500, "histories that TestConcurrentHistories and TestConcurrentSteps make")

var togetherConfig = Config{MaxKsocks: 6, MaxBindings: 64, ArenaBytes: 256 << 10, KeptEvents: 2, QueueSlots: 64, MaxMessageSize: 4096}

// Ksocks of a history.
const togetherKsocks = 4

// A together is one history of Ksocks and a supervisor that act at once, each in
// a goroutine and with a Bus of its own, as processes have.
type together struct {
	w      *world
	model  *model.Bus
	before *model.Bus // as the history began
	k      []*Client
	moment atomic.Int64
	begin  chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex
	h      []happened
}

// An actor is one goroutine of a together.
type actor struct {
	*together
	who string
	r   *rand.Rand
	h   []happened
}

func newTogether(t *testing.T, mem *shm.Memory, r *rand.Rand) *together {
	m, err := model.New(model.Config{MaxMessageSize: togetherConfig.MaxMessageSize, KeptEvents: togetherConfig.KeptEvents}).Bus(0)
	if err != nil {
		t.Fatal(err)
	}
	g := &together{w: newWorldIn(t, togetherConfig, mem), model: m, begin: make(chan struct{})}
	// Room is judged at one moment for each recipient, not at one for all (R6.1), and
	// readers of two full queues could tell: only one queue can be full.
	small := r.IntN(togetherKsocks)
	for i := range togetherKsocks {
		k := g.w.open(ReadWrite)
		if id := m.Open(false); id != k.id {
			t.Fatal(id, k.id)
		}
		limit := uint32(togetherConfig.QueueSlots)
		if i == small {
			limit = uint32(1 + r.IntN(3))
		}
		g.both(t, maxAct(k.id, limit), func() string {
			n, err := g.w.a.SetMaxMessages(k.slot, limit)
			return fmt.Sprint(n, errno(err))
		})
		g.k = append(g.k, g.w.again(k))
	}
	for range 3 + r.IntN(6) {
		k, name, replier := pick(r, g.k), pick(r, pairBinds), r.IntN(3) == 0
		g.both(t, bindAct(k.id, name, replier), func() string { return errno(g.w.a.Bind(k.slot, name, replier)) })
	}
	if r.IntN(3) == 0 {
		g.switchReports(t, pick(r, g.k))
	}
	g.before = m.Clone()
	return g
}

// both does an operation on the bus and on the model, one after the other.
func (g *together) both(t *testing.T, a act, real func() string) {
	want := ""
	for i, more := 0, true; more; i++ {
		var out string
		out, more = a(g.model, i)
		want += out
	}
	if got := real(); got != want {
		t.Fatalf("got %s, the model says %s", got, want)
	}
}

func (g *together) switchReports(t *testing.T, k *Client) {
	g.both(t, reportsAct(k.id, On), func() string {
		_, err := g.w.a.SetReports(k.slot, On)
		return errno(err)
	})
}

func reportsAct(id uint32, v uint32) act {
	return once(func(m *model.Bus) string {
		_, err := m.ReportReplierBinds(id, model.Switch(v))
		return errno(err)
	})
}

// goes adds an actor.
func (g *together) goes(who string, r *rand.Rand, f func(a *actor)) {
	g.wg.Go(func() {
		a := &actor{together: g, who: who, r: r}
		<-g.begin
		f(a)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.h = append(g.h, a.h...)
	})
}

func (a *actor) do(what string, act act, real func() string) {
	if a.r.IntN(3) == 0 { // so that they take turns, however few CPUs there are
		runtime.Gosched()
	}
	h := happened{who: a.who, what: what, act: act, call: int(a.moment.Add(1))}
	h.out = real()
	h.ret = int(a.moment.Add(1))
	a.h = append(a.h, h)
}

// ksock does n operations of a Ksock.
func (a *actor) ksock(t *testing.T, c *Client, n int) {
	type reading struct {
		m *Message
		x string
	}
	var held []reading
	var owed []answerable
	letGo := func() {
		if x := describe(held[0].m); x != held[0].x {
			t.Errorf("a message changes in its reader's hands: %s becomes %s", held[0].x, x)
		}
		held[0].m.Release()
		held = held[1:]
	}
	for i := range n {
		switch op := a.r.IntN(20); {
		case op < 7:
			m := new(Message)
			a.do("take", takeAct(c.id), func() string { return taken(c, m) })
			if m.c != nil {
				held = append(held, reading{m, describe(m)})
				if m.Flags&MustReply != 0 {
					owed = append(owed, answerable{m.From, m.ID})
				}
			}
			for len(held) > a.r.IntN(3) {
				letGo()
			}
		case op == 7:
			a.do("poll", pollAct(c.id), func() string { return polled(c) })
		case op == 8:
			a.do("send again", againAct(c.id), func() string { return sent(c.SendAgain()) })
		case op == 9:
			name := pick(a.r, pairBinds)
			a.do("replier "+name, once(func(m *model.Bus) string {
				id, err := m.Replier(name)
				return fmt.Sprint(id, errno(err))
			}), func() string {
				id, err := c.b.Replier(name)
				return fmt.Sprint(id, errno(err))
			})
		case op == 10:
			hs, data := someBatch(a.r, fmt.Sprint(a.who, ".", i, "."), 2) // of more, the judge would have too many orders to try
			a.do(fmt.Sprintf("send a batch %+v", hs), batchAct(c.id, hs, data), func() string { return batchSent(c, hs, data) })
		default:
			h := Header{Name: pick(a.r, pairNames), Flags: pick(a.r, []uint32{0, 0, 0, Urgent, AllOrFail, AllOrWait, Urgent | AllOrFail})}
			switch op % 4 {
			case 0:
				h.Flags |= WantReply
			case 1:
				if len(owed) > 0 {
					h.To, h.InReplyTo = owed[0].asker, owed[0].id
					owed = owed[1:]
				}
			}
			data := fmt.Sprint(a.who, ".", i)
			a.do(fmt.Sprintf("send %s %#x to %d re %v", h.Name, h.Flags, h.To, h.InReplyTo), sendAct(c.id, h, data), func() string {
				if a.r.IntN(3) > 0 {
					return sent(c.Send(&h, []byte(data)))
				}
				l, err := c.Loan(len(data))
				if err != nil {
					return errno(err)
				}
				defer l.Release()
				copy(l.Data(), data)
				return sent(c.SendLoan(&h, l))
			})
		}
	}
	for len(held) > 0 {
		letGo()
	}
}

// supervisor does n operations of the supervisor.
func (a *actor) supervisor(ks []*Client, n int) {
	for range n {
		k, name, replier := pick(a.r, ks), pick(a.r, pairBinds), a.r.IntN(2) == 0
		switch op := a.r.IntN(10); {
		case op < 4:
			a.do(fmt.Sprintf("bind %d %s %v", k.id, name, replier), bindAct(k.id, name, replier), func() string {
				return errno(a.w.a.Bind(k.slot, name, replier))
			})
		case op < 8:
			a.do(fmt.Sprintf("unbind %d %s %v", k.id, name, replier), unbindAct(k.id, name, replier), func() string {
				return errno(a.w.a.Unbind(k.slot, name, replier))
			})
		case op == 8:
			v := uint32(a.r.IntN(2))
			a.do(fmt.Sprintf("reports %d %d", k.id, v), reportsAct(k.id, v), func() string {
				_, err := a.w.a.SetReports(k.slot, v)
				return errno(err)
			})
		default:
			v := uint32(a.r.IntN(2))
			a.do(fmt.Sprintf("only once %d %d", k.id, v), once(func(m *model.Bus) string {
				_, err := m.OnlyOnce(k.id, model.Switch(v))
				return errno(err)
			}), func() string {
				_, err := a.w.a.SetOnlyOnce(k.slot, v)
				return errno(err)
			})
		}
	}
}

// close has the supervisor close a Ksock whose process is at its end.
func (a *actor) close(k *Client) {
	a.do(fmt.Sprintf("close %d", k.id), closeAct(k.id), func() string { return errno(a.w.a.Reap(k.slot)) })
}

// judge looks for an order that explains the history.
func (g *together) judge() error {
	j := judge{h: g.h, most: 2_000_000}
	for _, c := range g.k {
		x := "closed"
		if c.b.w[c.s+sKid].Load() == uint64(kidOpen)<<32|uint64(c.id) {
			var err error
			if x, err = left(c); err != nil {
				return err
			}
			c.Discard()
		}
		j.rest, j.ids = append(j.rest, x), append(j.ids, c.id)
	}
	return j.explain(g.before)
}

// TestConcurrentHistories does them with nothing but the CPUs to have them meet.
func TestConcurrentHistories(t *testing.T) { concurrentHistories(t) }

// concurrentHistories has Ksocks and a supervisor do random operations at
// once, and wants some order of these, in which none comes ahead of one that had
// ended before it began, to give the same results on the model.
//
// Under the race detector the supervisor is done before they begin. Its control
// entries are the only ones whose words are in the payload of a block: a late
// helper may read them while the block's next owner fills it, and throws away what
// it read, since the log has gone on (T2). The race detector can't know that.
func concurrentHistories(t *testing.T) {
	sd := seed(t)
	n := *togetherFlag
	if testing.Short() {
		n = min(n, 100)
	}
	size, err := togetherConfig.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem := shm.Heap(size)
	operations, meet, undecided := 0, 0, 0
	for i := range n {
		r := rand.New(rand.NewPCG(sd, uint64(i)))
		g := newTogether(t, mem, r)
		dies := r.IntN(2 * togetherKsocks) // from these on nobody; else the process of that Ksock, after some of its operations
		if raceDetector {
			dies = len(g.k)
		}
		var died atomic.Bool
		for k, c := range g.k {
			g.goes(fmt.Sprint("Ksock ", c.id), rand.New(rand.NewPCG(r.Uint64(), 0)), func(a *actor) {
				if k == dies {
					defer died.Store(true)
					a.ksock(t, c, 8)
					return
				}
				a.ksock(t, c, 25)
			})
		}
		if !raceDetector {
			g.goes("supervisor", rand.New(rand.NewPCG(r.Uint64(), 0)), func(a *actor) {
				a.supervisor(g.k, 5)
				ks := slices.Clone(g.k)
				if dies < len(ks) {
					for !died.Load() {
						runtime.Gosched()
					}
					a.close(ks[dies])
					ks = slices.Delete(ks, dies, dies+1)
				}
				a.supervisor(ks, 10)
			})
		}
		close(g.begin)
		g.wg.Wait()
		operations += len(g.h)
		for _, x := range g.h {
			if x.ret > x.call+1 {
				meet++
			}
		}
		switch err := g.judge(); {
		case errors.Is(err, errUndecided):
			undecided++
		case err != nil:
			t.Fatalf("history %d: %v", i, err)
		}
		for _, c := range g.k {
			if err := g.w.a.Reap(c.slot); err != nil {
				t.Fatal(err)
			}
		}
		g.w.leaks(0)
		if t.Failed() {
			t.Fatalf("history %d", i)
		}
	}
	t.Logf("%d histories, %d operations, %d of them beside others; %d histories not decided", n, operations, meet, undecided)
	if undecided > n/50 {
		t.Errorf("%d of %d histories have too many orders to tell", undecided, n)
	}
}
