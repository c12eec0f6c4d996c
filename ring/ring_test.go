package ring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"kbus.internal/shm"
)

// small is a geometry in which everything wraps soon.
var small = Config{MaxKsocks: 6, MaxBindings: 32, ArenaBytes: 256 << 10, KeptEvents: 4, QueueSlots: 128}

type world struct {
	t rapid.TB // a *testing.T, or one that shrinks
	b *Bus
	a *Admin
}

func newWorld(t rapid.TB, c Config) *world {
	t.Helper()
	n, err := c.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	return newWorldIn(t, c, shm.Heap(n))
}

// newWorldIn makes a world in memory that may have been one before.
func newWorldIn(t rapid.TB, c Config, mem *shm.Memory) *world {
	t.Helper()
	clear(mem.Bytes())
	w, err := worldIn(t, c, mem)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// worldIn makes a world in memory that is all zeros.
func worldIn(t rapid.TB, c Config, mem *shm.Memory) (*world, error) {
	if err := Format(mem, c); err != nil {
		return nil, err
	}
	b, err := Attach(mem)
	if err != nil {
		return nil, err
	}
	a, err := b.Admin()
	return &world{t, b, a}, err
}

func (w *world) open(m Mode) *Client {
	w.t.Helper()
	slot, id, err := w.a.Open(1, 1, m)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.b.Client(slot, id, m)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) bind(c *Client, name string, replier bool) {
	w.t.Helper()
	if err := w.a.Bind(c.slot, name, replier); err != nil {
		w.t.Fatal(err)
	}
}

// next takes a message and describes it.
func (w *world) next(c *Client) string {
	w.t.Helper()
	var m Message
	ok, err := c.Take(&m)
	if err != nil {
		w.t.Fatal(err)
	}
	if !ok {
		return ""
	}
	defer m.Release()
	s := fmt.Sprintf("%d %s %q", m.ID.Serial, m.Name, m.Data())
	if m.Flags&MustReply != 0 {
		s += " YOU"
	}
	if m.IsReply() {
		s += fmt.Sprintf(" re %d", m.InReplyTo.Serial)
	}
	return s
}

// await takes the next message when it comes. At the end of ctx it takes what is
// there, until nothing is.
func await(ctx context.Context, k *Client, spin int, m *Message) error {
	for over := error(nil); ; over = k.WaitReadable(ctx, spin) {
		if ok, err := k.Take(m); ok || err != nil {
			return err
		}
		if over != nil {
			return over
		}
	}
}

func (w *world) want(got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("got %s, want %s", got, want)
	}
}

// leaks fails the test unless every block is free but those that are known.
func (w *world) leaks(used int) {
	w.t.Helper()
	st, err := w.b.arenaStats()
	if err != nil {
		w.t.Fatal(err)
	}
	if st.UsedBlocks != used {
		w.t.Errorf("%d blocks in use, want %d", st.UsedBlocks, used)
	}
}

func TestAnnounceRequestReply(t *testing.T) {
	w := newWorld(t, small)
	r, g := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(g, "$.Actor.*", false)
	w.bind(g, "$.Actor.Ask", true)
	id, err := r.Send(&Header{Name: "$.Actor.Speak"}, []byte("Ahem"))
	if err != nil || id.Serial != 1 {
		t.Fatal(id, err)
	}
	w.want(w.next(g), `1 $.Actor.Speak "Ahem"`)
	w.want(w.next(g), "")
	id, err = r.Send(&Header{Name: "$.Actor.Ask", Flags: WantReply}, []byte("Well?"))
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.next(g), `2 $.Actor.Ask "Well?" YOU`)
	w.want(w.next(g), `2 $.Actor.Ask "Well?"`)
	if g.Unreplied() != 1 {
		t.Error("unreplied", g.Unreplied())
	}
	_, err = g.Send(&Header{Name: "$.Actor.Ask", To: r.id, InReplyTo: id}, []byte("Yes"))
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.next(r), `3 $.Actor.Ask "Yes" re 2`)
	w.want(w.next(g), `3 $.Actor.Ask "Yes" re 2`)
	if _, err = g.Send(&Header{Name: "$.Actor.Ask", To: r.id, InReplyTo: id}, nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error("second Reply:", err)
	}
	w.leaks(0)
}

func TestStatuses(t *testing.T) {
	w := newWorld(t, small)
	r, g := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(g, "$.Ask", true)
	ask := func() {
		t.Helper()
		if _, err := r.Send(&Header{Name: "$.Ask", Flags: WantReply}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	ask()
	w.next(g)
	if err := w.a.Unbind(g.slot, "$.Ask", true); err != nil {
		t.Fatal(err)
	}
	w.want(w.next(r), `3 $.KBUS.Replier.Unbound "" re 2`)
	w.bind(g, "$.Ask", true)
	ask()
	w.next(g)
	ask()
	if err := w.a.Reap(g.slot); err != nil {
		t.Fatal(err)
	}
	w.want(w.next(r), `6 $.KBUS.Replier.GoneAway "" re 5`)
	w.want(w.next(r), `7 $.KBUS.Replier.Ignored "" re 4`)
	w.want(w.next(r), `8 $.KBUS.Replier.Ignored "" re 1`)
	w.want(w.next(r), "")
	if _, err := r.Send(&Header{Name: "$.Ask", Flags: WantReply}, nil); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Error(err)
	}
	w.leaks(0)
}

func TestManyMessages(t *testing.T) {
	w := newWorld(t, small)
	r, a, b := w.open(ReadWrite), w.open(ReadWrite), w.open(ReadOnly)
	w.bind(a, "$.*", false)
	w.bind(a, "$.X", false)
	w.bind(b, "$.%", false)
	data := bytes.Repeat([]byte("0123456789abcdef"), 300)
	for i := range 20000 {
		n := i * 7 % len(data)
		fl := uint32(0)
		if i%5 == 0 {
			fl = Urgent
		}
		if i%3 == 0 {
			l, err := r.Loan(n)
			if err != nil {
				t.Fatal(i, err)
			}
			copy(l.Data(), data)
			if _, err := r.SendLoan(&Header{Name: "$.X", Flags: fl}, l); err != nil {
				t.Fatal(i, err)
			}
		} else if _, err := r.Send(&Header{Name: "$.X", Flags: fl}, data[:n]); err != nil {
			t.Fatal(i, err)
		}
		want := fmt.Sprintf("%d $.X %q", i+1, data[:n])
		w.want(w.next(a), want)
		w.want(w.next(a), want)
		w.want(w.next(b), want)
		w.want(w.next(b), "")
		if t.Failed() {
			t.FailNow()
		}
	}
	w.leaks(0)
}

func BenchmarkSendTake(b *testing.B) {
	w := newWorld(b, Config{MaxKsocks: 6})
	r, a := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(a, "$.X", false)
	h := &Header{Name: "$.X"}
	data := make([]byte, 64)
	var m Message
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Send(h, data); err != nil {
			b.Fatal(err)
		}
		if ok, err := a.Take(&m); !ok || err != nil {
			b.Fatal(ok, err)
		}
		m.Release()
	}
}
