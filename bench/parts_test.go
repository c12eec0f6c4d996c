package bench

import (
	"flag"
	"fmt"
	"testing"

	"kbus.internal/ring"
	"kbus.internal/shm"
)

// parts are the steps of a message's way, one by one, in one process. A part is
// set up with the bench that runs it, and then done again and again.
var parts = []struct {
	name  string
	setUp func(testing.TB) (op func() error)
}{
	{"clock", func(testing.TB) func() error {
		return func() error { now(); return nil }
	}},
	{"record a time", func(testing.TB) func() error {
		r := newRecorder(1)
		return func() error { r.add(1234); return nil }
	}},
	{"check a name", func(testing.TB) func() error {
		return func() error { return ring.CheckName("$.Actor.Speak.Loudly") }
	}},
	{"match a wildcard", func(testing.TB) func() error {
		return func() error {
			if !ring.Match("$.Actor.*", "$.Actor.Speak.Loudly") {
				return fmt.Errorf("no match")
			}
			return nil
		}
	}},
	{"loan and release 64 B", loanOf(64)},
	{"loan and release 3 MiB", loanOf(frame)},
	// Append and apply, with nothing to insert.
	{"send to nobody", sendAndTake(world{})},
	{"send and take with 1 Listener", sendAndTake(world{listeners: 1})},
	{"send and take with 8 Listeners", sendAndTake(world{listeners: 8})},
	{"send and take 3 MiB", sendAndTake(world{listeners: 1, size: frame})},
	{"send and take by a wildcard", sendAndTake(world{listeners: 1, binding: "$.Part.*"})},
	{"send and take urgent", sendAndTake(world{listeners: 1, flags: ring.Urgent})},
	{"send and take with 10000 bindings", sendAndTake(world{listeners: 1, bindings: 10_000})},
	{"send and take by 10 names in turn", sendAndTake(world{listeners: 1, names: 10})},
	{"send and take by 1000 names in turn", sendAndTake(world{listeners: 1, names: 1000})},
	{"send and take by 10000 names in turn", sendAndTake(world{listeners: 1, names: 10_000})},
	{"send and take with 256 idle Ksocks", sendAndTake(world{listeners: 1, idle: 256})},
	{"Request and Reply", requestAndReply},
	{"open and close", func(t testing.TB) func() error {
		w := world{}.make(t)
		return func() error {
			slot, _, err := w.admin.Open(1, 1, ring.ReadWrite)
			if err != nil {
				return err
			}
			return w.admin.Reap(slot)
		}
	}},
	{"bind and unbind", func(t testing.TB) func() error {
		w := world{}.make(t)
		_, slot := w.open(t)
		return func() error {
			if err := w.admin.Bind(slot, "$.Part.Bound", false); err != nil {
				return err
			}
			return w.admin.Unbind(slot, "$.Part.Bound", false)
		}
	}},
}

// world is a bus in a mapping of this process.
type world struct {
	listeners, bindings, idle, size int
	names                           int    // messages have so many names in turn, all bound
	binding                         string // of the Listeners; "": the name itself
	flags                           uint32

	bus   *ring.Bus
	admin *ring.Admin
}

const partName = "$.Part.One"

func (w world) make(t testing.TB) *world {
	config := ring.Config{MaxKsocks: 300}
	size, err := config.RegionSize()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := shm.Create("kbus-bench-parts", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	if err := ring.Format(mem, config); err != nil {
		t.Fatal(err)
	}
	if w.bus, err = ring.Attach(mem); err != nil {
		t.Fatal(err)
	}
	if w.admin, err = w.bus.Admin(); err != nil {
		t.Fatal(err)
	}
	for range w.idle {
		w.open(t)
	}
	if w.bindings > 0 {
		_, slot := w.open(t)
		for i := range w.bindings {
			if err := w.admin.Bind(slot, fmt.Sprintf("$.Other.Name%d", i), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &w
}

func (w *world) open(t testing.TB) (*ring.Client, int) {
	t.Helper()
	slot, id, err := w.admin.Open(1, 1, ring.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.bus.Client(slot, id, ring.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	return c, slot
}

func (w *world) bound(t testing.TB, name string, replier bool) (*ring.Client, int) {
	t.Helper()
	c, slot := w.open(t)
	if err := w.admin.Bind(slot, name, replier); err != nil {
		t.Fatal(err)
	}
	return c, slot
}

func loanOf(size int) func(testing.TB) func() error {
	return func(t testing.TB) func() error {
		c, _ := world{}.make(t).open(t)
		var l ring.Loan
		return func() error {
			if err := c.LoanInto(&l, size); err != nil {
				return err
			}
			l.Release()
			return nil
		}
	}
}

// send sends a message of size bytes in place.
func send(c *ring.Client, h *ring.Header, l *ring.Loan, size int) error {
	if err := c.LoanInto(l, size); err != nil {
		return err
	}
	if size > 0 {
		l.Data()[0] = 1
	}
	_, err := c.SendLoan(h, l)
	return err
}

func take(c *ring.Client, m *ring.Message) error {
	if ok, err := c.Take(m); err != nil || !ok {
		return fmt.Errorf("nothing to take: %w", err)
	}
	return nil
}

func sendAndTake(plan world) func(testing.TB) func() error {
	return func(t testing.TB) func() error {
		w := plan.make(t)
		from, _ := w.open(t)
		var to []*ring.Client
		name := w.binding
		if name == "" {
			name = partName
		}
		var slots []int
		for range w.listeners {
			c, slot := w.bound(t, name, false)
			to, slots = append(to, c), append(slots, slot)
		}
		if w.size == 0 {
			w.size = 64
		}
		names := []string{partName}
		for i := range w.names {
			names = append(names, fmt.Sprintf("%s.N%d", partName, i))
			for _, slot := range slots {
				if err := w.admin.Bind(slot, names[i+1], false); err != nil {
					t.Fatal(err)
				}
			}
		}
		h := ring.Header{Flags: w.flags}
		var l ring.Loan
		var m ring.Message
		n := 0
		return func() error {
			if n++; n >= len(names) {
				n = 0
			}
			h.Name = names[n]
			if err := send(from, &h, &l, w.size); err != nil {
				return err
			}
			for _, c := range to {
				if err := take(c, &m); err != nil {
					return err
				}
				m.Release()
			}
			return nil
		}
	}
}

func requestAndReply(t testing.TB) func() error {
	w := world{}.make(t)
	asker, _ := w.open(t)
	replier, _ := w.bound(t, partName, true)
	h := ring.Header{Name: partName, Flags: ring.WantReply}
	var l ring.Loan
	var m ring.Message
	return func() error {
		if err := send(asker, &h, &l, 64); err != nil {
			return err
		}
		if err := take(replier, &m); err != nil {
			return err
		}
		reply := ring.Header{Name: m.Name, To: m.From, InReplyTo: m.ID}
		if err := send(replier, &reply, &l, 64); err != nil {
			return err
		}
		m.Release()
		if err := take(asker, &m); err != nil {
			return err
		}
		m.Release()
		return nil
	}
}

func benchmark(b *testing.B, setUp func(testing.TB) func() error) {
	op := setUp(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := op(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParts(b *testing.B) {
	for _, p := range parts {
		b.Run(p.name, func(b *testing.B) { benchmark(b, p.setUp) })
	}
}

// Benchmarks that nobody runs rot: here each runs once.
func TestParts(t *testing.T) {
	times := flag.Lookup("test.benchtime").Value
	before := times.String()
	defer times.Set(before)
	if err := times.Set("1x"); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if r := testing.Benchmark(func(b *testing.B) { benchmark(b, p.setUp) }); r.N != 1 {
			t.Errorf("%s: done %d times, want 1", p.name, r.N)
		}
	}
	broken := func(testing.TB) func() error { return func() error { return fmt.Errorf("broken") } }
	if r := testing.Benchmark(func(b *testing.B) { benchmark(b, broken) }); r.N != 0 {
		t.Errorf("a part that fails counts as done %d times", r.N)
	}
}
