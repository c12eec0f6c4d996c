package ring

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// However many bindings there are, the bound of a message's copies holds, so that
// a loan never moves (R9.1); it is as small as it can be without looking at each
// name, so that a loan takes no more memory than it needs; and it falls again.
func TestMostCopies(t *testing.T) {
	s := seed(t)
	r := rand.New(rand.NewPCG(s, 0))
	w := newWorld(t, Config{MaxKsocks: 6, MaxBindings: 256, ArenaBytes: 1 << 20})
	var clients []*Client
	for range 5 {
		clients = append(clients, w.open(ReadWrite))
	}
	part := func() string { return string("ABC"[r.IntN(3)]) }
	name := func() string {
		n := "$."
		for range r.IntN(4) {
			n += part() + "."
		}
		return n
	}
	type bound struct {
		c    *Client
		name string
	}
	var all []bound
	most, widest := 0, 0
	check := func() {
		t.Helper()
		got, _, err := w.b.mostCopies()
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{} // the most bindings of a name, by kind and depth
		names := map[string]int{}
		for _, x := range all {
			names[x.name]++
			kind := x.name[len(x.name)-1:]
			if kind == "*" {
				kind += fmt.Sprint(strings.Count(x.name, "."))
			} else if kind != "%" {
				kind = ""
			}
			kinds[kind] = max(kinds[kind], names[x.name])
		}
		want := 1
		for _, n := range kinds {
			want += n
		}
		if got != want {
			t.Fatalf("at most %d copies, want %d: %v", got, want, all)
		}
		for range 20 {
			n := name() + part()
			matching := 0
			for _, x := range all {
				if Match(x.name, n) {
					matching++
				}
			}
			if matching+1 > got {
				t.Fatalf("%d copies of %s, at most %d were expected: %v", matching+1, n, got, all)
			}
			widest = max(widest, matching)
		}
		most = max(most, got)
	}
	for range 2000 {
		if n := len(all); n > 0 && r.IntN(100) < 50*n/80 {
			i := r.IntN(n)
			if err := w.a.Unbind(all[i].c.slot, all[i].name, false); err != nil {
				t.Fatal(err)
			}
			all = append(all[:i], all[i+1:]...)
		} else {
			b := bound{clients[r.IntN(len(clients))], name() + string("ABC%*"[r.IntN(5)])}
			if err := w.a.Bind(b.c.slot, b.name, false); err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
		if r.IntN(20) == 0 {
			w.b.tables.version = 0 // reads everything anew
		}
		check()
	}
	if most < 20 || widest < 10 {
		t.Errorf("at most %d copies were expected, and %d met: too few to try anything", most, widest)
	}
	for _, x := range all {
		if err := w.a.Unbind(x.c.slot, x.name, false); err != nil {
			t.Fatal(err)
		}
	}
	all = nil
	check()
}

// A loan takes as much memory with thousands of bindings to other names as
// without, and does not move when more than usual get the message.
func TestLoanWithManyBindings(t *testing.T) {
	w := newWorld(t, Config{MaxKsocks: 60, ArenaBytes: 1 << 20})
	from, other := w.open(ReadWrite), w.open(ReadWrite)
	loan := func() *Loan {
		t.Helper()
		l, err := from.Loan(64)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := loan()
	units := l.d.units
	l.Release()
	for i := range 3000 {
		for _, end := range []string{"", ".*", ".%"} {
			if err := w.a.Bind(other.slot, fmt.Sprintf("$.Other.N%d", i)+end, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if l = loan(); l.d.units != units {
		t.Errorf("%d units for 64 bytes, %d with 9000 bindings", units, l.d.units)
	}
	l.Release()
	var to []*Client
	for range 50 {
		c := w.open(ReadWrite)
		to = append(to, c)
		if err := w.a.Bind(c.slot, "$.Wide", false); err != nil {
			t.Fatal(err)
		}
	}
	l = loan()
	data, h := l.Data(), l.d.h
	data[7] = 9
	if _, err := from.SendLoan(&Header{Name: "$.Wide"}, l); err != nil {
		t.Fatal(err)
	}
	for _, c := range to {
		var m Message
		if ok, err := c.Take(&m); !ok || err != nil || m.Data()[7] != 9 || m.h != h {
			t.Fatalf("%v, %v, block %d, lent was %d", ok, err, m.h, h)
		}
		m.Release()
	}
}

// A sender of more names than usual, and their reader, keep what they know of each,
// within bounds.
func TestManyNames(t *testing.T) {
	w := newWorld(t, Config{MaxKsocks: 3, ArenaBytes: 1 << 20})
	from, to := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(to, "$.Many.*", false)
	pass := func(name string) {
		t.Helper()
		if _, err := from.Send(&Header{Name: name}, nil); err != nil {
			t.Fatal(err)
		}
		var m Message
		if ok, err := to.Take(&m); !ok || err != nil || m.Name != name {
			t.Fatalf("%v, %v, %q instead of %q", ok, err, m.Name, name)
		}
		m.Release()
	}
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("$.Many.Name%d", i)
		pass(names[i])
	}
	i := 0
	if n := testing.AllocsPerRun(len(names), func() { pass(names[i%len(names)]); i++ }); n > 0 {
		t.Errorf("%v allocations for a name that was sent before", n)
	}
	long := strings.Repeat("x", MaxName-20)
	for i := range mostRoutes + 10 {
		pass(fmt.Sprintf("$.Many.%s%d", long, i))
		if len(w.b.tables.routes) > mostRoutes || len(to.names) > mostNameBytes/(MaxName-20)+len(names) {
			t.Fatalf("%d routes and %d names are kept", len(w.b.tables.routes), len(to.names))
		}
	}
	if n := len(to.names); n > mostNameBytes/(MaxName-20) {
		t.Errorf("%d long names are kept", n)
	}
}
