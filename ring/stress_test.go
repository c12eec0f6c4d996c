package ring

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestManyAtOnce lets clients, each with a Bus of its own as processes have,
// send, ask, answer and listen at once. One Listener of everything is the
// witness: all others must see what they see in its order (R3.5), nobody sees
// anything twice or torn, and every Request is answered exactly once (R5.6).
func TestManyAtOnce(t *testing.T) {
	sd := seed(t)
	const senders, perSender = 4, 3000
	w := newWorld(t, Config{MaxKsocks: 12, MaxBindings: 64, ArenaBytes: 8 << 20, QueueSlots: 4096})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// each gives f the messages of k, until the end.
	each := func(k *Client, f func(m *Message)) {
		wg.Go(func() {
			for {
				var m Message
				if err := await(ctx, k, 100, &m); err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				f(&m)
				m.Release()
			}
		})
	}
	var delivered [3][]uint32
	seen := [3]map[uint32]bool{{}, {}, {}}
	var slots [3]int
	var mu sync.Mutex
	waited := map[uint32]bool{} // with mu
	listen := func(i int, names ...string) {
		k := w.open(ReadOnly)
		slots[i] = k.slot
		w.max(k, 4096)
		for _, n := range names {
			w.bind(k, n, false)
		}
		each(w.again(k), func(m *Message) {
			if n := len(m.data); n < 4 || crc32.ChecksumIEEE(m.data[4:]) != binary.LittleEndian.Uint32(m.data) {
				t.Errorf("message %v of %d bytes is torn", m.ID, n)
			}
			if seen[i][m.ID.Serial] {
				t.Errorf("message %v came twice", m.ID)
			} else if m.Flags&Urgent == 0 {
				delivered[i] = append(delivered[i], m.ID.Serial)
			}
			seen[i][m.ID.Serial] = true
		})
	}
	listen(0, "$.*")
	listen(1, "$.Say", "$.Ask")
	listen(2, "$.%")
	rep := w.open(ReadWrite)
	w.max(rep, 4096)
	w.bind(rep, "$.Ask", true)
	rep = w.again(rep)
	each(rep, func(m *Message) {
		if _, err := rep.Send(&Header{Name: "$.Re", To: m.From, InReplyTo: m.ID}, m.Data()); err != nil {
			t.Error("reply:", err)
		}
	})
	var answers, sent atomic.Int64
	var senderWG sync.WaitGroup
	for i := range senders {
		k := w.again(w.open(ReadWrite))
		senderWG.Go(func() {
			r := rand.New(rand.NewPCG(sd, uint64(i)))
			buf := make([]byte, 20000)
			for n := range perSender {
				size := 4 + r.IntN(200)
				if r.IntN(50) == 0 {
					size = 4 + r.IntN(len(buf)-4)
				}
				d := buf[:size]
				for j := 4; j < size; j += 7 {
					d[j] = byte(r.Uint32())
				}
				binary.LittleEndian.PutUint32(d, crc32.ChecksumIEEE(d[4:]))
				h := Header{Name: "$.Say"}
				if r.IntN(10) == 0 {
					h.Flags = Urgent
				}
				ask := n%4 == 0
				if ask {
					h = Header{Name: "$.Ask", Flags: WantReply}
				} else {
					h.Flags |= AllOrWait
				}
				id, err := k.Send(&h, d)
				for errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EBUSY) {
					id, err = k.Send(&h, d)
				}
				if errors.Is(err, unix.EAGAIN) {
					mu.Lock()
					waited[id.Serial] = true
					mu.Unlock()
					err = k.WaitWritable(ctx, 0)
				}
				if err != nil {
					t.Error(err)
					return
				}
				sent.Add(1)
				if !ask {
					continue
				}
				var m Message
				if err := await(ctx, k, 100, &m); err != nil {
					t.Error(err)
					return
				}
				answers.Add(1)
				m.Release()
			}
		})
	}
	senderWG.Wait()
	cancel()
	wg.Wait()
	if answers.Load() != senders*perSender/4 {
		t.Errorf("%d answers to %d Requests", answers.Load(), senders*perSender/4)
	}
	missed := func(i int) int { return int(w.b.w[w.b.slot(slots[i])+sMissed].Load()) }
	for i, want := range []int64{sent.Load() + answers.Load(), sent.Load(), sent.Load() + answers.Load()} {
		if len(seen[i])+missed(i) != int(want) {
			t.Errorf("Listener %d heard %d and missed %d of %d", i, len(seen[i]), missed(i), want)
		}
		// What waited went out later than its number says (R6.5).
		delivered[i] = slices.DeleteFunc(delivered[i], func(n uint32) bool { return waited[n] })
		for j := 1; j < len(delivered[i]); j++ {
			if delivered[i][j] < delivered[i][j-1] {
				t.Errorf("Listener %d heard %d after %d", i, delivered[i][j], delivered[i][j-1])
				break
			}
		}
	}
	w.leaks(0)
	t.Logf("%d sent, %d answered; heard %d, %d, %d", sent.Load(), answers.Load(), len(delivered[0]), len(delivered[1]), len(delivered[2]))
	if n := w.b.NetCatches(); n != 0 {
		t.Errorf("%d wake-ups were lost but for the timeout", n)
	}
}
