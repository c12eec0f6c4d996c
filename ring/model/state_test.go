package model

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// check tells what in b contradicts the rules, whatever was done before.
func check(b *Bus) error {
	owing := map[uint32]int{}
	for _, k := range b.ksocks {
		for _, q := range k.queue {
			if q.mine {
				owing[q.msg.From]++
			}
		}
		for _, r := range slices.Concat(k.owed, k.orphans) {
			owing[r.asker]++
		}
	}
	for _, k := range b.ksocks {
		if k.asked != owing[k.id] {
			return fmt.Errorf("R3.3: %d places are held for %d, which is owed %d answers", k.asked, k.id, owing[k.id])
		}
		if len(k.kept) > 0 && k.hasPlace() {
			return fmt.Errorf("R7.4: events are kept for %d, which has room", k.id)
		}
		if len(k.kept) == 0 && k.lost {
			return fmt.Errorf("R7.4: %d misses events, though nothing is kept for it", k.id)
		}
		if k.readOnly && (k.waiting != nil || k.last != MessageID{}) {
			return fmt.Errorf("R3.1: %d has sent, and is read-only", k.id)
		}
		kept := 0
		for i, q := range slices.Concat(k.queue, k.kept) {
			if q.via != 0 && !slices.ContainsFunc(b.bindings, func(n binding) bool {
				return n.number == q.via && n.owner == k.id && n.replier == q.mine
			}) {
				return fmt.Errorf("R4.5: copy %d of %d came by no binding of its", i, k.id)
			}
			if i >= len(k.queue) && q.msg.Name != EventsLostName {
				kept++
			}
		}
		if kept > b.config.KeptEvents {
			return fmt.Errorf("R7.4: %d copies are kept for %d", kept, k.id)
		}
	}
	repliers := map[string]bool{}
	for _, n := range b.bindings {
		if n.replier && repliers[n.name] {
			return fmt.Errorf("R4.2: two Repliers for %s", n.name)
		}
		repliers[n.name] = repliers[n.name] || n.replier
		if b.find(n.owner) == nil {
			return fmt.Errorf("R4.8: %s is bound to %d, which is gone", n.name, n.owner)
		}
	}
	return nil
}

// books are what has become of each Request that was sent: how often it was answered (R5.6).
type books map[request]int

// read takes k's next message and enters it.
func (x books) read(b *Bus, k uint32) {
	s := b.find(k)
	if len(s.queue) == 0 {
		return
	}
	answer := s.queue[0].via == 0 // no copy of a Listener's
	m, _, _ := b.Next(k)
	if answer && m.IsReply() {
		x[request{k, m.InReplyTo}]++
	}
}

// script is a random operation: applied to two equal buses it does the same to both. It returns what was answered.
type script func(b *Bus) string

var someNames = []string{"$.A", "$.B", "$.A.B", "$.A.*", "$.*", "$.%", "$.KBUS.*", BindEventName, "$.KBUS.%", "bad"}

// draw makes a random operation that suits b. Sent are the Requests whose Replies are worth trying.
func draw(t *rapid.T, b *Bus, x books) script {
	ids := b.Ksocks()
	if len(ids) == 0 || len(ids) < 6 && rapid.IntRange(0, 9).Draw(t, "open") == 0 {
		readOnly := rapid.IntRange(0, 5).Draw(t, "read-only") == 0
		return func(b *Bus) string { return fmt.Sprint(b.Open(readOnly)) }
	}
	k := rapid.SampledFrom(ids).Draw(t, "k")
	name := rapid.SampledFrom(someNames).Draw(t, "name")
	role := rapid.Bool().Draw(t, "replier")
	n := rapid.Uint32Range(0, 4).Draw(t, "n")
	v := rapid.SampledFrom([]Switch{Off, On, On, Ask, 2}).Draw(t, "v")
	switch rapid.IntRange(0, 19).Draw(t, "op") {
	case 0:
		return func(b *Bus) string { return fmt.Sprint(b.Close(k)) }
	case 1, 2:
		return func(b *Bus) string { return fmt.Sprint(b.Bind(k, name, role)) }
	case 3:
		return func(b *Bus) string { return fmt.Sprint(b.Unbind(k, name, role)) }
	case 4:
		return func(b *Bus) string { return fmt.Sprint(b.MaxMessages(k, n)) }
	case 5:
		return func(b *Bus) string { return fmt.Sprint(b.OnlyOnce(k, v)) }
	case 6:
		return func(b *Bus) string { return fmt.Sprint(b.ReportReplierBinds(k, v)) }
	case 7:
		return func(b *Bus) string { return fmt.Sprint(b.Poll(k)) }
	case 8:
		if rapid.Bool().Draw(t, "discard") {
			return func(b *Bus) string { return fmt.Sprint(b.Discard(k)) }
		}
		return func(b *Bus) string { return fmt.Sprint(b.SendAgain(k)) }
	case 9, 10, 11, 12:
		return nil // a read, for the books
	case 13, 14, 15:
		if owed := b.find(k).owed; len(owed) > 0 {
			r := owed[len(owed)-1]
			m := Message{Name: "$.A", To: r.asker, InReplyTo: r.id, Flags: rapid.SampledFrom([]uint32{0, Urgent, AllOrWait}).Draw(t, "flags")}
			return func(b *Bus) string { return fmt.Sprint(b.Send(k, m)) }
		}
	}
	flags := rapid.SampledFrom([]uint32{0, WantReply, Urgent, WantReply | Urgent, AllOrWait, AllOrFail}).Draw(t, "flags") |
		rapid.SampledFrom([]uint32{0, 0, WantReply, AllOrWait}).Draw(t, "more flags")
	m := Message{Name: name, Flags: flags}
	return func(b *Bus) string { return fmt.Sprint(b.Send(k, m)) }
}

// TestRandom does random operations and checks after each that the bus is in order, that a clone does the same, and that
// one taken before is as it was. At the end each Request must have been answered once (R5.6).
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBus(Config{MaxMessageSize: DefaultSize, KeptEvents: rapid.IntRange(1, 3).Draw(t, "kept")})
		asked := books{} // sent Requests, by how often
		x := books{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			before, clone := b.Clone(), b.Clone()
			key := b.Key()
			f := draw(t, b, x)
			if f == nil {
				k := rapid.SampledFrom(b.Ksocks()).Draw(t, "reader")
				x.read(b, k)
				if _, _, err := clone.Next(k); err != nil {
					t.Fatal(err)
				}
			} else if got, want := f(clone), f(b); got != want {
				t.Fatalf("the clone answered %s, not %s", got, want)
			}
			if err := check(b); err != nil {
				t.Fatal(err)
			}
			if b.Key() != clone.Key() {
				t.Fatal("the clone is in another state")
			}
			if before.Key() != key {
				t.Fatal("a clone changed with what it was taken of")
			}
			countAsked(asked, before, b)
		}
		for _, k := range b.Ksocks() { // its Requests are answered now at the latest, if others than itself owe the answers
			last := b.Clone()
			for _, other := range last.Ksocks() {
				if other != k {
					if err := last.Close(other); err != nil {
						t.Fatal(err)
					}
				}
			}
			sum := books{}
			for r, n := range x {
				sum[r] += n
			}
			for len(last.find(k).queue) > 0 {
				sum.read(last, k)
			}
			for _, r := range last.find(k).owed { // those to itself
				sum[r]++
			}
			for r, n := range asked {
				if r.asker == k && sum[r] != n {
					t.Fatalf("%v was asked %d times and answered %d times", r, n, sum[r])
				}
			}
		}
	})
}

// countAsked enters the Requests that were sent between two states: they are marked in somebody's queue.
func countAsked(x books, before, after *Bus) {
	marked := func(b *Bus) books {
		m := books{}
		for _, k := range b.ksocks {
			for _, q := range k.queue {
				if q.mine {
					m[request{q.msg.From, q.msg.ID}]++
				}
			}
		}
		return m
	}
	had := marked(before)
	for r, n := range marked(after) {
		if n > had[r] {
			x[r] += n - had[r]
		}
	}
}

// TestStepsMakeTheWhole compares Bind, Unbind and Close with their steps done one after the other.
func TestStepsMakeTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBus(Config{MaxMessageSize: DefaultSize, KeptEvents: 2})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if f := draw(t, b, nil); f != nil {
				f(b)
			} else {
				books{}.read(b, b.Ksocks()[0])
			}
		}
		for _, k := range b.Ksocks() {
			name, role := rapid.SampledFrom(someNames).Draw(t, "name"), rapid.Bool().Draw(t, "replier")
			whole, steps := b.Clone(), b.Clone()
			want, got := whole.Bind(k, name, role), steps.BindBegin(k, name, role)
			if got == nil {
				got = steps.BindEnd(k, name, role)
			}
			same(t, whole, steps, want, got)

			want, got = whole.Unbind(k, name, role), steps.UnbindBegin(k, name, role)
			if got == nil {
				got = steps.UnbindEdit(k, name, role)
				for steps.UnbindStep(k) {
				}
			}
			same(t, whole, steps, want, got)

			want, got = whole.Close(k), steps.CloseBegin(k)
			for steps.CloseStep(k) {
			}
			steps.CloseEnd(k)
			same(t, whole, steps, want, got)
		}
	})
}

func same(t *rapid.T, a, b *Bus, errA, errB error) {
	t.Helper()
	if errA != errB || a.Key() != b.Key() {
		t.Fatalf("the whole answers %v, its steps %v; equal states: %v", errA, errB, a.Key() == b.Key())
	}
}

// TestKey checks that whatever can be told from outside is in the key, and the numbers of bindings are not.
func TestKey(t *testing.T) {
	b := start(t)
	keys := map[string]string{}
	k := b.open()
	for _, c := range []struct {
		what string
		do   func()
	}{
		{"nothing", func() {}},
		{"open", func() { b.open() }},
		{"open read-only", func() { b.Open(true) }},
		{"listen", func() { b.listen(k, "$.A") }},
		{"reply", func() { b.reply(k, "$.A") }},
		{"send", func() { b.sends(k, announce("$.A", ""), 1) }},
		{"read", func() { b.gets(k, "1 A") }},
		{"ask", func() { b.sends(k, ask("$.A", "x"), 2) }},
		{"read the Request", func() { b.gets(k, "2 A?!=x", "2 A?=x") }},
		{"limit", func() { b.limit(k, 1) }},
		{"wait", func() { b.fails(k, with(ask("$.A", ""), AllOrWait), unix.ENOLCK, false) }},
		{"wait indeed", func() { b.fails(k, with(announce("$.A", ""), AllOrWait), unix.EAGAIN, true) }},
		{"once", func() { b.once(k) }},
		{"size", func() { _, _ = b.MaxMessageSize(k, 100) }},
		{"close", func() { b.no(b.CloseBegin(k)) }},
		{"step", func() { b.CloseStep(k) }},
		{"end", func() { b.CloseEnd(k) }},
	} {
		c.do()
		old, seen := keys[b.Key()]
		if c.what == "wait" { // refused, and so nothing has changed
			if !seen {
				t.Error("a refused send changed something")
			}
		} else if seen {
			t.Errorf("after %q the key is that after %q", c.what, old)
		}
		keys[b.Key()] = c.what
	}

	a, z := New(Config{}), New(Config{})
	if a.Key() != z.Key() || a.Clone().Key() != a.Key() {
		t.Error("equal buses have different keys")
	}
	one, _ := a.Bus(0)
	one.Open(false)
	if a.Key() == z.Key() {
		t.Error("different buses have one key")
	}
	other, _ := z.Bus(0)
	other.Open(false)
	bus{t, other}.listen(1, "$.B")
	bus{t, other}.no(other.Unbind(1, "$.B", false))
	bus{t, one}.listen(1, "$.A")
	bus{t, other}.listen(1, "$.A")
	if a.Key() != z.Key() {
		t.Error("the numbers of bindings are in the key")
	}
}

// TestCheckCatches plants faults that check has to find.
func TestCheckCatches(t *testing.T) {
	b, w, x := full(t, 1, BindEventName)
	b.gone(x, "$.P", "$.Q")
	b.Bus.reports = false
	b.reply(x, "$.X")
	b.sends(x, ask("$.X", ""), 5)
	b.no(check(b.Bus))
	for what, plant := range map[string]func(*Bus){
		"a place held for nothing": func(b *Bus) { b.find(x).asked++ },
		"a Request forgotten":      func(b *Bus) { b.find(x).queue = nil },
		"events kept in vain":      func(b *Bus) { b.find(w).max = 9 },
		"too many kept":            func(b *Bus) { b.config.KeptEvents = 0 },
		"lost for ever":            func(b *Bus) { b.find(x).lost = true },
		"a writer that can't":      func(b *Bus) { b.find(x).readOnly = true },
		"a binding forgotten":      func(b *Bus) { b.bindings = b.bindings[1:] },
		"two Repliers":             func(b *Bus) { b.bindings = append(b.bindings, binding{9, w, "$.X", true}) },
		"a ghost":                  func(b *Bus) { b.bindings = append(b.bindings, binding{9, 99, "$.Y", true}) },
	} {
		c := b.Clone()
		plant(c)
		if check(c) == nil {
			t.Errorf("%s: not found", what)
		}
		if err := check(b.Bus); err != nil {
			t.Fatalf("%s: planted in what it was cloned from: %v", what, err)
		}
	}
}
