package ring

import (
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"kbus.internal/shm"
)

var corruptRuns = flag.Int("corrupt", 2000, "regions that TestCorruptRegions overwrites")

var corruptConfig = Config{MaxKsocks: 4, MaxBindings: 40, ArenaBytes: 64 << 10, KeptEvents: 3, QueueSlots: 16, MaxMessageSize: 8192}

// corruptImages are regions in use: Ksocks, bindings, full and empty queues,
// urgent and kept messages, Requests unread and unanswered, messages held, one
// with a tree of bits; with no entry in progress, one claimed, one planned.
var corruptImages = sync.OnceValue(func() *[3][]byte {
	var images [3][]byte
	n, err := corruptConfig.RegionSize()
	mustDo(err)
	mem := shm.Heap(n)
	mustDo(Format(mem, corruptConfig))
	b, err := Attach(mem)
	mustDo(err)
	a, err := b.Admin()
	mustDo(err)
	var k []*Client
	for range 3 {
		s, id, err := a.Open(1, 1, ReadWrite)
		mustDo(err)
		c, err := b.Client(s, id, ReadWrite)
		mustDo(err)
		k = append(k, c)
	}
	bind := func(c *Client, name string, replier bool) { mustDo(a.Bind(c.slot, name, replier)) }
	for i := range 20 {
		bind(k[i%2], "$.M", false)
	}
	bind(k[0], "$.*", false)
	bind(k[1], "$.R", true)
	bind(k[1], "$.A.%", true)
	bind(k[0], ReplierBindEvent, false)
	_, err = a.SetReports(k[2].slot, On)
	mustDo(err)
	send := func(c *Client, h Header, n int) {
		_, err := c.Send(&h, make([]byte, n))
		mustDo(err)
	}
	send(k[2], Header{Name: "$.R", Flags: WantReply}, 10)
	send(k[2], Header{Name: "$.R", Flags: WantReply}, 5000)
	send(k[2], Header{Name: "$.M"}, 100)
	send(k[1], Header{Name: "$.R", Flags: Urgent}, 4)
	var m Message
	for range 2 {
		_, err = k[1].Take(&m)
		mustDo(err)
	}
	send(k[1], Header{Name: "$.R", To: m.From, InReplyTo: m.ID}, 0)
	_, err = a.SetMaxMessages(k[0].slot, 1)
	mustDo(err)
	// Its unbind event finds no room and is kept aside.
	mustDo(a.Reap(k[1].slot))
	s, _, err := a.Open(1, 1, ReadWrite)
	mustDo(err)
	mustDo(a.Bind(s, "$.M", false))
	mustDo(a.Unbind(k[0].slot, "$.M", false)) // a plan with releases in the tree of bits
	images[0] = slices.Clone(mem.Bytes())
	// The plan of the last entry that slot 0 planned is still in its area: it may as
	// well not have been carried out to the end. The same with a claim.
	seq := b.w[b.layout.area(0)].Load()
	b.w[wCur].Store(curWord(seq, 0, curPlanned))
	images[1] = slices.Clone(mem.Bytes())
	b.w[wCur].Store(curWord(seq+1, 0, curClaimed))
	images[2] = slices.Clone(mem.Bytes())
	return &images
})

func mustDo(err error) {
	if err != nil {
		panic(err)
	}
}

// A damage overwrites words of a region as its bytes say.
type damage []byte

const damageBytes = 12

// target picks a word: most of what is in the region is never read, so the parts
// that are come first.
func (l *layout) target(class byte, i int) int {
	slot := l.slot(i % (l.cfg.MaxKsocks + 1))
	j := i / (l.cfg.MaxKsocks + 1)
	switch class % 12 {
	case 0:
		return i % headerWords
	case 1, 2:
		return slot + j%sHeld
	case 3:
		return slot + l.held + j%8*(heldHalf/4)
	case 4:
		return slot + l.lane + j%24
	case 5:
		return slot + []int{l.urg, l.kept}[j%2] + j/2%4
	case 6:
		return slot + l.rec + j%(4*recWords)
	case 7:
		return l.cell(i%30) + i/30%8
	case 8:
		return l.journal + i%64
	case 9:
		return l.area(i%3) + i/3%128
	case 10:
		return l.block(i%64) + i/64%blockWords
	default:
		return l.payload + i%2048
	}
}

func (d damage) apply(mem *shm.Memory) {
	l, err := newLayout(corruptConfig)
	mustDo(err)
	w := mem.Words()
	for ; len(d) >= damageBytes; d = d[damageBytes:] {
		at := l.target(d[0], int(binary.LittleEndian.Uint16(d[1:])))
		x := binary.LittleEndian.Uint64(d[4:])
		old := w[at].Load()
		switch d[3] % 8 {
		case 0:
			old = x
		case 1:
			old ^= 1 << (x & 63)
		case 2:
			old += x & 15
		case 3:
			old -= x & 15
		case 4:
			old = 0
		case 5:
			old = ^uint64(0)
		case 6: // another word of the same kind
			old = w[l.target(d[0], int(x&0xffff))].Load()
		case 7: // one field
			old = old&^(0xffff<<(x>>16&63)) | x&0xffff<<(x>>16&63)
		}
		w[at].Store(old)
	}
}

// use has every operation meet the region, some before it is damaged: none may
// panic, go on for ever, or allocate without bound. What they return is right by
// chance alone.
func (d damage) use(mem *shm.Memory, mode byte) {
	copy(mem.Bytes(), corruptImages()[mode%3])
	type sim struct {
		b *Bus
		c *Client
	}
	var sims []sim
	attach := func() *Bus {
		b, err := Attach(mem)
		if err != nil {
			return nil
		}
		return b
	}
	clients := func() {
		for slot := 1; slot <= 4; slot++ {
			if b := attach(); b != nil {
				if c, err := b.Client(slot, uint32(slot), ReadWrite); err == nil {
					sims = append(sims, sim{b, c})
				}
			}
		}
	}
	var a *Admin
	admin := func() {
		if b := attach(); b != nil {
			a, _ = b.Admin()
		}
	}
	var m Message
	each := func() {
		for _, s := range sims {
			_, _, _ = s.c.Poll()
			_ = s.c.Unread()
			if ok, _ := s.c.Take(&m); ok {
				if m.Flags&MustReply != 0 {
					_, _ = s.c.Send(&Header{Name: "$.R", To: m.From, InReplyTo: m.ID}, m.Data())
				}
				m.Release()
			}
			_, _ = s.c.Send(&Header{Name: "$.M"}, make([]byte, 300))
			_, _ = s.c.Send(&Header{Name: "$.R", Flags: WantReply}, nil)
			_, _ = s.c.Send(&Header{Name: "$.A.X", Flags: Urgent | AllOrWait}, make([]byte, 5000))
			_, _ = s.c.SendAgain()
			s.c.Discard()
			if l, err := s.c.Loan(1000); err == nil {
				clear(l.Data())
				if _, err := s.c.SendLoan(&Header{Name: "$.R"}, l); err != nil {
					l.Release()
				}
			}
			_ = s.c.Outstanding(MessageID{0, 1})
			_ = s.c.MaxMessages()
			done, cancel := context.WithCancel(context.Background())
			cancel()
			_ = s.c.WaitReadable(done, 2)
			_, _ = s.b.Replier("$.R")
			_, _ = s.b.Stats()
			_ = s.b.Slots()
		}
	}
	early := mode&4 != 0
	if early { // they know the tables from before
		clients()
		if mode&8 != 0 {
			admin()
		}
		for _, s := range sims {
			_, _ = s.c.Send(&Header{Name: "$.M"}, nil)
		}
	}
	d.apply(mem)
	if !early {
		clients()
	}
	if a == nil {
		admin()
	}
	each()
	if a != nil {
		slot, _, _ := a.Open(1, 1, ReadWrite)
		_ = a.Bind(slot, "$.New", true)
		_ = a.Bind(1, "$.M", false)
		_ = a.Unbind(2, "$.R", true)
		_ = a.Unbind(1, "$.M", false)
		_, _ = a.SetMaxMessages(1, 5)
		_, _ = a.SetOnlyOnce(2, On)
		_, _ = a.SetReports(1, On)
		_, _ = a.SetMessageSize(1)
		_, _ = a.Tick()
		_ = a.Reap(2)
		_ = a.Close(3)
		_, _ = a.Tick()
	}
	each()
	admin()
	if a != nil {
		for s := range 6 {
			_ = a.Reap(s)
		}
	}
}

// TestCorruptRegions: a region with any words overwritten by anything gives
// errors, or wrong answers, but never a panic, an endless loop, or an allocation
// beyond its cap.
func TestCorruptRegions(t *testing.T) {
	sd := seed(t)
	mem := shm.Heap(int64(len(corruptImages()[0])))
	var before, after runtime.MemStats
	for i := range *corruptRuns {
		r := rand.New(rand.NewPCG(sd, uint64(i)))
		d := make(damage, damageBytes*(1+r.IntN(3)))
		for j := range d {
			d[j] = byte(r.Uint32())
		}
		if r.IntN(2) == 0 { // small values are the likelier mischief
			clear(d[5:12])
		}
		runtime.ReadMemStats(&before)
		func() {
			defer func() {
				if e := recover(); e != nil {
					t.Errorf("seed %d, run %d: %v", sd, i, e)
					panic(e)
				}
			}()
			d.use(mem, byte(i))
		}()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("seed %d, run %d: %d bytes allocated", sd, i, n)
		}
	}
}

// TestCorruptEveryWord overwrites each word of the header, the slots, the first
// cells, blocks and plans in turn.
func TestCorruptEveryWord(t *testing.T) {
	mem := shm.Heap(int64(len(corruptImages()[0])))
	l, err := newLayout(corruptConfig)
	mustDo(err)
	var targets []int
	part := func(from, n int) {
		for i := range n {
			targets = append(targets, from+i)
		}
	}
	part(0, headerWords)
	for s := range 3 {
		part(l.slot(s), sHeld)
		part(l.slot(s)+l.lane, 20)
		part(l.slot(s)+l.urg, 3)
		part(l.slot(s)+l.kept, 3)
		part(l.slot(s)+l.rec, 2*recWords)
	}
	for i := range 3 {
		part(l.cell(i), 6)
	}
	part(l.journal, 8)
	part(l.area(0), 128)
	for i := 1; i < 40; i += 3 {
		part(l.block(i), blockWords)
	}
	n := 0
	for _, at := range targets {
		for v, x := range []uint64{0, ^uint64(0), 1 << 63, 0x5555555555555555} {
			if testing.Short() && v > 1 {
				break
			}
			w := wordDamage{at, x}
			for image := range byte(3) {
				if testing.Short() && int(image) != (at+v)%3 && !(image > 0 && at >= l.areas && at < l.blocks) {
					continue
				}
				w.use(mem, image)
				n++
			}
		}
	}
	t.Logf("%d words, %d regions", len(targets), n)
}

// A wordDamage is one word, overwritten.
type wordDamage struct {
	at int
	x  uint64
}

func (w wordDamage) use(mem *shm.Memory, mode byte) {
	old := corruptImages()[mode%3]
	image := slices.Clone(old)
	binary.NativeEndian.PutUint64(image[8*w.at:], w.x)
	corruptImages()[mode%3] = image
	defer func() { corruptImages()[mode%3] = old }()
	damage(nil).use(mem, mode)
}

func FuzzRegion(f *testing.F) {
	for i := range 24 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		d := make([]byte, damageBytes*(1+i%3)+1)
		for j := range d {
			d[j] = byte(r.Uint32())
		}
		d[0], d[1] = byte(i), byte(i)
		f.Add(d)
	}
	mem := shm.Heap(int64(len(corruptImages()[0])))
	f.Fuzz(func(t *testing.T, d []byte) {
		if len(d) == 0 || len(d) > 1+20*damageBytes {
			return
		}
		damage(d[1:]).use(mem, d[0])
	})
}
