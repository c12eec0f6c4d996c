package ring

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var books = flag.Int("books", 1000000, "messages that TestExactBooks sends")

// TestManyCopies: a message of more than 16 copies has a tree of bits; whoever
// lets go last, the living or the supervisor for the dead, frees it, and nobody
// does before.
func TestManyCopies(t *testing.T) {
	sd := seed(t)
	for _, n := range []int{1, 16, 17, 32, 33, 511, 512, 513, 2000, maxCopies} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			readers := min(n, 40)
			if n == maxCopies {
				readers = 254
			}
			w := bigWorld(t, Config{MaxKsocks: 255, MaxBindings: maxCopies, ArenaBytes: 16 << 20, QueueSlots: 256})
			r := rand.New(rand.NewPCG(sd, uint64(n)))
			s := w.open(ReadWrite)
			var ks []*Client
			for range readers {
				k := w.open(ReadOnly)
				w.max(k, 256)
				ks = append(ks, k)
			}
			for i := range n {
				w.bind(ks[i%readers], "$.X", false)
			}
			if n == maxCopies {
				if err := w.a.Bind(s.slot, "$.X", false); !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("one binding more: %v", err)
				}
			}
			for round := range 4 {
				data := []byte(strings.Repeat("x", r.IntN(10000)))
				h := Header{Name: "$.X", Flags: AllOrFail}
				if round == 1 {
					h.Flags |= Urgent
				}
				if _, err := s.Send(&h, data); err != nil {
					t.Fatal(err)
				}
				var held []*Message
				for i, k := range ks {
					want := n / readers
					if i < n%readers {
						want++
					}
					if k.Unread() != want {
						t.Fatalf("Ksock %d has %d copies, not %d", k.id, k.Unread(), want)
					}
					if round == 3 && i%2 == 0 {
						continue // dies before it reads
					}
					for range want {
						m := new(Message)
						if ok, err := k.Take(m); !ok || err != nil {
							t.Fatal(ok, err)
						}
						held = append(held, m)
					}
				}
				r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
				if round < 3 {
					for i, m := range held {
						if i%(len(held)/20+1) == 0 {
							w.leaks(1)
						}
						if string(m.Data()) != string(data) {
							t.Fatal("changed under its reader")
						}
						m.Release()
					}
					w.leaks(0)
					continue
				}
				// Half of what is held is let go of, the rest by the deaths of all.
				for _, m := range held[:len(held)/2] {
					m.Release()
				}
				if n > 1 {
					w.leaks(1)
				}
				for _, i := range r.Perm(len(ks)) {
					if err := w.a.Reap(ks[i].slot); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.whole()
		})
	}
}

// TestManyKsocks opens as many as there can be, twice.
func TestManyKsocks(t *testing.T) {
	sd := seed(t)
	for _, n := range []int{255, maxSlots - 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			if testing.Short() && n > 255 {
				n = 1000
			}
			w := bigWorld(t, Config{MaxKsocks: n, MaxBindings: 3 * n, ArenaBytes: 16 << 20, QueueSlots: 16})
			r := rand.New(rand.NewPCG(sd, uint64(n)))
			last := uint32(0)
			for range 2 {
				ks := make([]*Client, n)
				for i := range ks {
					ks[i] = w.open(ReadWrite)
					if ks[i].id != last+1 {
						t.Fatalf("Ksock %d after %d", ks[i].id, last)
					}
					last++
					w.bind(ks[i], "$.All", false)
					w.bind(ks[i], fmt.Sprintf("$.To.%d", i), true)
				}
				if _, _, err := w.a.Open(1, 1, ReadWrite); !errors.Is(err, ErrNoSlot) {
					t.Fatalf("one more: %v", err)
				}
				if _, err := ks[0].Send(&Header{Name: "$.All", Flags: AllOrFail}, []byte("hello")); err != nil {
					t.Fatal(err)
				}
				for i, k := range ks {
					if _, err := k.Send(&Header{Name: fmt.Sprintf("$.To.%d", (i+1)%n), Flags: WantReply}, nil); err != nil {
						t.Fatal(i, err)
					}
				}
				for i, k := range ks {
					if got := w.next(k); !strings.HasSuffix(got, `$.All "hello"`) {
						t.Fatal(got)
					}
					var m Message
					if ok, err := k.Take(&m); !ok || err != nil || m.From != ks[(i+n-1)%n].id || m.Flags&MustReply == 0 {
						t.Fatal(ok, err, m.Header)
					}
					if i%2 == 0 {
						if _, err := k.Send(&Header{Name: "$.Re", To: m.From, InReplyTo: m.ID}, nil); err != nil {
							t.Fatal(err)
						}
					}
					m.Release()
				}
				// The odd ones end without an answer; then the rest, each with one.
				for _, i := range r.Perm(n) {
					if i%2 == 1 {
						if err := w.a.Reap(ks[i].slot); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i, k := range ks {
					if i%2 == 0 && i+1 < n {
						if got := w.next(k); !strings.Contains(got, Ignored) {
							t.Fatalf("Ksock %d: %s", i, got)
						}
						w.want(w.next(k), "")
					}
				}
				for _, i := range r.Perm(n) {
					if i%2 == 0 {
						if err := w.a.Reap(ks[i].slot); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.whole()
			}
		})
	}
}

// TestQueueLimit: max_messages above 4096 is accepted and asked back, and the
// queue is full at 4096 (R3.2).
func TestQueueLimit(t *testing.T) {
	w := bigWorld(t, Config{MaxKsocks: 3, ArenaBytes: 16 << 20})
	k, s := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(k, "$.X", false)
	w.bind(k, "$.R", true)
	for _, limit := range []uint32{4096, 5000, 1<<32 - 1} {
		w.max(k, limit)
		if got := k.MaxMessages(); got != limit {
			t.Errorf("asked back %d", got)
		}
		if got, err := w.a.SetMaxMessages(k.slot, 0); got != limit || err != nil {
			t.Errorf("asked back %d, %v", got, err)
		}
		first := uint32(0)
		for i := range 4096 {
			id, err := s.Send(&Header{Name: "$.X", Flags: AllOrFail}, nil)
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if i == 0 {
				first = id.Serial
			}
		}
		if _, err := s.Send(&Header{Name: "$.X", Flags: AllOrFail}, nil); !errors.Is(err, unix.EBUSY) {
			t.Errorf("message 4097: %v", err)
		}
		if _, err := s.Send(&Header{Name: "$.R", Flags: WantReply}, nil); !errors.Is(err, unix.EBUSY) {
			t.Errorf("Request: %v", err)
		}
		if _, err := s.Send(&Header{Name: "$.X"}, nil); err != nil {
			t.Errorf("to nobody with room: %v", err)
		}
		for i := range uint32(4096) {
			w.want(w.next(k), fmt.Sprintf(`%d $.X ""`, first+i))
		}
		w.want(w.next(k), "")
	}
	// Its own unanswered Requests hold places in the same 4096 (R3.3).
	w.max(s, 1<<20)
	for i := range 4096 {
		if _, err := s.Send(&Header{Name: "$.R", Flags: WantReply}, nil); err != nil {
			t.Fatalf("Request %d: %v", i, err)
		}
	}
	if _, err := s.Send(&Header{Name: "$.R", Flags: WantReply}, nil); !errors.Is(err, unix.ENOLCK) {
		t.Errorf("Request 4097: %v", err)
	}
	if err := w.a.Unbind(k.slot, "$.R", true); err != nil { // many at once (R4.5)
		t.Fatal(err)
	}
	for i := range 4096 {
		if got := w.next(s); !strings.Contains(got, Unbound) {
			t.Fatalf("answer %d is %s", i, got)
		}
	}
	w.want(w.next(s), "")
	w.want(w.next(k), "")
	w.whole()
}

// TestExactBooks sends a million messages through queues of every kind at once,
// and knows of each what became of it: announcements that are missed when there
// is no room, urgent and plain ones that wait for room, and Requests.
func TestExactBooks(t *testing.T) {
	n := *books / 4
	if testing.Short() {
		n = min(n, 10000)
	}
	w := bigWorld(t, Config{MaxKsocks: 8, ArenaBytes: 32 << 20})
	open := func(binding string, replier bool) *Client {
		k := w.open(ReadWrite)
		w.max(k, 500)
		if binding != "" {
			w.bind(k, binding, replier)
		}
		return w.again(k)
	}
	ctx := t.Context()
	var wg sync.WaitGroup
	goes := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	read := func(k *Client, m *Message) error { return await(ctx, k, 100, m) }
	var stamp [8]byte
	data := func(d *[8]byte, i int) []byte { binary.LittleEndian.PutUint64(d[:], uint64(i)); return d[:] }
	number := func(m *Message) int { return int(binary.LittleEndian.Uint64(m.Data())) }

	plain, plainFrom := open("$.Plain", false), open("", false)
	heard := 0
	goes(func() error { // the last one waits for room, so it comes
		d := stamp
		for i := range n {
			h := Header{Name: "$.Plain"}
			if i == n-1 {
				h.Flags = AllOrWait
			}
			if _, err := plainFrom.Send(&h, data(&d, i)); errors.Is(err, unix.EAGAIN) {
				if err := plainFrom.WaitWritable(ctx, 0); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	goes(func() error {
		for last := -1; last < n-1; heard++ {
			var m Message
			if err := read(plain, &m); err != nil {
				return err
			}
			if got := number(&m); got <= last {
				return fmt.Errorf("announcement %d after %d", got, last)
			} else {
				last = got
			}
			m.Release()
		}
		return nil
	})

	waits := func(name string, flags uint32) {
		to, from := open(name, false), open("", false)
		goes(func() error {
			d := stamp
			for i := range n {
				_, err := from.Send(&Header{Name: name, Flags: flags | AllOrWait}, data(&d, i))
				if errors.Is(err, unix.EAGAIN) {
					err = from.WaitWritable(ctx, 0)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		goes(func() error {
			seen := make([]bool, n)
			for i := range n {
				var m Message
				if err := read(to, &m); err != nil {
					return err
				}
				got := number(&m)
				if got >= n || seen[got] || flags == 0 && got != i {
					return fmt.Errorf("%s: message %d is %d, seen before: %v", name, i, got, got < n && seen[got])
				}
				seen[got] = true
				m.Release()
			}
			return nil
		})
	}
	waits("$.Urgent", Urgent)
	waits("$.Wait", 0)

	rep, asker := open("$.Ask", true), open("", false)
	goes(func() error {
		for range n {
			var m Message
			if err := read(rep, &m); err != nil {
				return err
			}
			_, err := rep.Send(&Header{Name: "$.Re", To: m.From, InReplyTo: m.ID}, m.Data())
			m.Release()
			if err != nil {
				return err
			}
		}
		return nil
	})
	goes(func() error {
		d := stamp
		open := map[MessageID]int{}
		for asked, answered := 0, 0; answered < n; {
			if asked < n && len(open) < 200 {
				id, err := asker.Send(&Header{Name: "$.Ask", Flags: WantReply}, data(&d, asked))
				if err != nil {
					return err
				}
				open[id] = asked
				asked++
				continue
			}
			var m Message
			if err := read(asker, &m); err != nil {
				return err
			}
			if want, ok := open[m.InReplyTo]; !ok || number(&m) != want {
				return fmt.Errorf("answer %d to %v, want %d (%v)", number(&m), m.InReplyTo, want, ok)
			}
			delete(open, m.InReplyTo)
			answered++
			m.Release()
		}
		return nil
	})
	wg.Wait()
	st, err := w.b.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if st.Serial != uint64(5*n) {
		t.Errorf("%d ids were used, not %d", st.Serial, 5*n)
	}
	for _, k := range st.Ksocks {
		if k.Unread != 0 || k.Outstanding != 0 || k.BytesHeld != 0 {
			t.Errorf("left behind: %+v", k)
		}
		if k.ID == plain.id && int(k.Missed)+heard != n {
			t.Errorf("%d heard and %d missed of %d", heard, k.Missed, n)
		}
		if k.ID != plain.id && k.Missed != 0 {
			t.Errorf("Ksock %d missed %d", k.ID, k.Missed)
		}
	}
	t.Logf("%d messages and %d answers; %d announcements heard", 4*n, n, heard)
	if c := w.b.NetCatches(); c != 0 {
		t.Errorf("%d wake-ups were lost but for the timeout", c)
	}
	w.whole()
}
