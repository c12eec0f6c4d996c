package ring

import (
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

var arenaMessages = flag.Int("arena", 20000, "messages that TestMixedSizes sends of each kind of sizes")

// bigWorld is a world in a memfd: its pages take memory only once they are used.
func bigWorld(t testing.TB, c Config) *world {
	t.Helper()
	n, err := c.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := shm.Create("kbus-test", n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	})
	w, err := worldIn(t, c, mem)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// again is c's Ksock as another process has it.
func (w *world) again(c *Client) *Client {
	w.t.Helper()
	b, err := Attach(w.b.mem)
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := b.Client(c.slot, c.id, c.mode)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) max(c *Client, n uint32) {
	w.t.Helper()
	if got, err := w.a.SetMaxMessages(c.slot, n); err != nil || got != n {
		w.t.Fatalf("max_messages %d: %d, %v", n, got, err)
	}
}

// whole wants all memory free and in one piece.
func (w *world) whole() {
	w.t.Helper()
	st, err := w.b.arenaStats()
	if err != nil {
		w.t.Fatal(err)
	}
	if st.UsedBlocks != 0 || st.Free != st.Bytes || st.Largest != st.Bytes {
		w.t.Errorf("not all free in one piece: %+v", st)
	}
}

// TestMixedSizes has several senders and readers hold and release messages of 64
// bytes to 8 MiB in random order. As long as the bytes asked for are under 40 % of
// the arena there is room, and in the end it is one piece again.
func TestMixedSizes(t *testing.T) {
	sd := seed(t)
	const smallest, largest, arena = 64, 8 << 20, 256 << 20
	n := *arenaMessages
	if testing.Short() {
		n = min(n, 4000)
	}
	for name, size := range map[string]func(r *rand.Rand) int{
		"uniform":    func(r *rand.Rand) int { return smallest + r.IntN(largest-smallest+1) },
		"loguniform": func(r *rand.Rand) int { return int(smallest * math.Exp(r.Float64()*math.Log(largest/smallest))) },
		"either": func(r *rand.Rand) int {
			if r.IntN(2) == 0 {
				return smallest
			}
			return largest - r.IntN(1<<20)
		},
	} {
		t.Run(name, func(t *testing.T) {
			const pairs = 3
			w := bigWorld(t, Config{MaxKsocks: 2*pairs + 1, MaxBindings: pairs, ArenaBytes: arena, QueueBytes: 1 << 40})
			var asked atomic.Int64 // bytes lent, unread and held
			var most atomic.Int64
			var wg sync.WaitGroup
			for i := range pairs {
				rd, sn := w.open(ReadOnly), w.open(ReadWrite)
				name := "$.To." + string(rune('A'+i))
				w.bind(rd, name, false)
				w.max(rd, 4096)
				rd, sn = w.again(rd), w.again(sn)
				var sent, read atomic.Int64
				var over atomic.Bool
				wg.Add(2)
				go func() { // sends, now and then not what it has lent
					defer wg.Done()
					defer over.Store(true)
					r := rand.New(rand.NewPCG(sd, uint64(i)))
					var l Loan
					for k := 0; k < n/pairs && !t.Failed(); {
						s := size(r)
						now := asked.Add(int64(s))
						if now > arena*4/10 {
							asked.Add(-int64(s))
							shm.Pause(10)
							continue
						}
						if k++; now > most.Load() {
							most.Store(now)
						}
						if err := sn.LoanInto(&l, s); err != nil {
							st, _ := w.b.arenaStats()
							t.Errorf("loan of %d bytes with %d asked for: %v, %+v", s, asked.Load(), err, st)
							asked.Add(-int64(s))
							return
						}
						d := l.Data()
						binary.LittleEndian.PutUint64(d, uint64(k))
						binary.LittleEndian.PutUint64(d[len(d)-8:], ^uint64(k))
						if r.IntN(8) == 0 {
							l.Release()
							asked.Add(-int64(s))
							continue
						}
						if _, err := sn.SendLoan(&Header{Name: name, Flags: AllOrFail}, &l); err != nil {
							if l.Release(); !errors.Is(err, unix.EBUSY) {
								t.Error(err)
								return
							}
							asked.Add(-int64(s))
							continue
						}
						sent.Add(1)
					}
				}()
				go func() { // holds some and lets go of them in random order
					defer wg.Done()
					r := rand.New(rand.NewPCG(sd, uint64(100+i)))
					var held []*Message
					release := func(k int) {
						m := held[k]
						held[k] = held[len(held)-1]
						held = held[:len(held)-1]
						d := m.Data()
						if a, b := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[len(d)-8:]); a != ^b {
							t.Errorf("message %v of %d bytes changed: %#x %#x", m.ID, len(d), a, b)
						}
						s := len(d)
						m.Release()
						asked.Add(-int64(s))
					}
					for !t.Failed() { // else the others would wait for what it holds
						done := over.Load()
						m := new(Message)
						ok, err := rd.Take(m)
						if err != nil {
							t.Error(err)
							return
						}
						if ok {
							held = append(held, m)
							read.Add(1)
						}
						if len(held) > 0 && (done || len(held) > 900 || asked.Load() > arena*4/10-largest) {
							release(r.IntN(len(held)))
						}
						if !ok && len(held) == 0 {
							if done && read.Load() == sent.Load() {
								return
							}
							shm.Pause(10)
						}
					}
				}()
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			t.Logf("%d messages, up to %.1f %% of the arena asked for", n, 100*float64(most.Load())/arena)
			w.whole()
			// The pieces are joined not only by name: nearly all of it can be lent.
			k := w.open(ReadWrite)
			l := new(Loan)
			*l = Loan{c: k, d: draft{kind: kindMessage, cache: k.cache}}
			held, err := k.loans.get()
			if err != nil {
				t.Fatal(err)
			}
			l.d.held = held
			if err := l.d.room(&k.send, w.b.units-1-w.b.reserve); err != nil {
				t.Errorf("all but the reserve in one piece: %v", err)
			} else {
				l.Release()
			}
			w.whole()
		})
	}
}

// TestAnySize sends every kind of size from nothing to the limit.
func TestAnySize(t *testing.T) {
	w := bigWorld(t, Config{MaxKsocks: 2, MaxBindings: 4, ArenaBytes: 64 << 20, MaxMessageSize: 8 << 20})
	k := w.open(ReadWrite)
	w.bind(k, "$.X", false)
	data := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(seed(t), 0))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	limit := 0
	for Size(3, limit+1) <= 8<<20 {
		limit++
	}
	sizes := []int{0, 1, 7, 8, 9, 63, 64, 247, 248, 249, 253, 255, 256, 257, 4095, 4096, 4097, 65535, limit - 1, limit}
	for range 50 {
		sizes = append(sizes, int(math.Exp(r.Float64()*math.Log(float64(limit)))))
	}
	for _, n := range sizes {
		if _, err := k.Send(&Header{Name: "$.X"}, data[:n]); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		var m Message
		if ok, err := k.Take(&m); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if string(m.Data()) != string(data[:n]) {
			t.Errorf("%d bytes came changed", n)
		}
		m.Release()
	}
	if _, err := k.Send(&Header{Name: "$.X"}, data[:limit+1]); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%d bytes: %v", limit+1, err)
	}
	w.whole()
}

// TestFullArena: ENOMEM at once, no id used, nothing else harmed; Statuses come
// all the same, and everything works again once memory is released.
func TestFullArena(t *testing.T) {
	w := newWorld(t, Config{MaxKsocks: 5, MaxBindings: 8, ArenaBytes: 1 << 20, QueueBytes: 1 << 40})
	asker, rep, hog, reader := w.open(ReadWrite), w.open(ReadWrite), w.open(ReadWrite), w.open(ReadWrite)
	w.bind(rep, "$.R", true)
	w.bind(reader, "$.X", false)
	for range 3 {
		if _, err := asker.Send(&Header{Name: "$.R", Flags: WantReply}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := hog.Send(&Header{Name: "$.X"}, []byte("before")); err != nil {
		t.Fatal(err)
	}
	var loans []*Loan
	for _, n := range []int{100000, 10000, 1000, 0} {
		for {
			l, err := hog.Loan(n)
			if errors.Is(err, unix.ENOMEM) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			loans = append(loans, l)
		}
	}
	before, last := w.b.numbers(), reader.LastSent()
	for range 10 {
		for _, k := range []*Client{asker, hog, reader} {
			if _, err := k.Send(&Header{Name: "$.X"}, make([]byte, 5000)); !errors.Is(err, unix.ENOMEM) {
				t.Fatalf("send with a full arena: %v", err)
			}
			if _, err := k.Send(&Header{Name: "$.R", Flags: WantReply | AllOrWait}, make([]byte, 5000)); !errors.Is(err, unix.ENOMEM) {
				t.Fatalf("Request with a full arena: %v", err)
			}
		}
	}
	if got := w.b.numbers(); got != before || reader.LastSent() != last {
		t.Errorf("ENOMEM used %d ids; last sent %v", got-before, reader.LastSent())
	}
	w.want(w.next(reader), `4 $.X "before"`)
	w.next(rep)
	if err := w.a.Unbind(rep.slot, "$.R", true); err != nil {
		t.Fatal(err)
	}
	if err := w.a.Reap(rep.slot); err != nil {
		t.Fatal(err)
	}
	w.want(w.next(asker), `5 $.KBUS.Replier.Unbound "" re 2`)
	w.want(w.next(asker), `6 $.KBUS.Replier.Unbound "" re 3`)
	w.want(w.next(asker), `7 $.KBUS.Replier.Ignored "" re 1`)
	w.want(w.next(asker), "")
	// Control goes on too.
	w.bind(reader, "$.Y", true)
	k := w.open(ReadWrite)
	if err := w.a.Reap(k.slot); err != nil {
		t.Fatal(err)
	}
	rand.New(rand.NewPCG(seed(t), 0)).Shuffle(len(loans), func(i, j int) { loans[i], loans[j] = loans[j], loans[i] })
	for i, l := range loans {
		l.Release()
		if i == len(loans)/2 {
			if _, err := hog.Send(&Header{Name: "$.X"}, []byte("after")); err != nil {
				t.Errorf("with half of it free: %v", err)
			}
		}
	}
	w.want(w.next(reader), `8 $.X "after"`)
	w.whole()
}

// TestBlocksUsedAgain: large blocks come back while they are warm, however many
// there were once; small ones take turns; what is still read is passed over.
func TestBlocksUsedAgain(t *testing.T) {
	const once = 20
	for _, c := range []struct {
		name  string
		bytes int
		least int // blocks used for messages that are read at once
		most  int
	}{
		{"large", 1 << 20, 1, cacheLag + 1},
		{"small", 100, once, once},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := bigWorld(t, Config{MaxKsocks: 3, MaxBindings: 4, ArenaBytes: 64 << 20, QueueBytes: 64 << 20})
			k, slow := w.open(ReadWrite), w.open(ReadWrite)
			w.bind(k, "$.X", false)
			w.bind(slow, "$.Slow", false)
			send := func(name string) int {
				t.Helper()
				l, err := k.Loan(c.bytes)
				if err != nil {
					t.Fatal(err)
				}
				h := l.d.h
				if _, err := k.SendLoan(&Header{Name: name}, l); err != nil {
					t.Fatal(err)
				}
				return h
			}
			read := func() {
				t.Helper()
				var m Message
				if ok, err := k.Take(&m); !ok || err != nil {
					t.Fatal(ok, err)
				}
				m.Release()
			}
			// Of many that were under way at once few are used when they come one by one.
			for range once {
				send("$.X")
			}
			for range once {
				read()
			}
			seen := func() map[int]bool {
				for range once { // large blocks are found free some at a time
					send("$.X")
					read()
				}
				seen := map[int]bool{}
				for range 10 * once {
					seen[send("$.X")] = true
					read()
				}
				return seen
			}
			if n := len(seen()); n < c.least || n > c.most {
				t.Errorf("%d blocks are used in turn, not %d to %d", n, c.least, c.most)
			}
			// Those that a slow reader has are not taken, and hardly in the way.
			held := map[int]bool{}
			for range once / 2 {
				held[send("$.Slow")] = true
			}
			now := seen()
			if n, most := len(now), c.most+len(held); n > most {
				t.Errorf("%d blocks are used in turn, not at most %d, while another reader has %d", n, most, len(held))
			}
			for h := range now {
				if held[h] {
					t.Errorf("block %d is used while its reader has it", h)
				}
			}
		})
	}
}
