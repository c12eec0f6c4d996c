//go:build kbuscheck

package check

import (
	"fmt"

	"kbus.internal/shm"
)

// A World is what one execution consists of: memory, simulated processes, and a
// judgement at the end. Run makes a new one for each execution and has the
// test's setup fill it; setup must do the same each time.
//
// The processes may share nothing but words of the World's memory (with the
// bytes that these publish) and what World's methods give them; variables of
// the test that one of them writes, only the judgement may read. Otherwise the
// explorer takes different states for the same.
type World struct {
	e       *engine
	regions int
	atEnd   func() error
}

// Memory returns a region of Go memory of the given size in bytes. init, if not
// nil, fills it once; each execution starts with what it left.
func (w *World) Memory(size int64, init func(*shm.Memory)) *shm.Memory {
	e := w.e
	k := w.regions
	w.regions++
	if k < len(e.regions) {
		return e.regions[k].mem
	}
	m := shm.Heap(size)
	if init != nil {
		shm.SetScheduler(nil)
		init(m)
		shm.SetScheduler(e)
	}
	first := e.words()
	e.regions = append(e.regions, region{
		base:  shm.Address(&m.Words()[0]),
		first: first,
		words: int32(len(m.Words())),
		mem:   m,
		image: append([]byte(nil), m.Bytes()...),
	})
	return m
}

// Plain tells that bytes [lo, hi) of m are also written as bytes, not as words:
// they are put back before each execution.
func (w *World) Plain(m *shm.Memory, lo, hi int) {
	for i := range w.e.regions {
		if r := &w.e.regions[i]; r.mem == m {
			r.lo, r.hi = lo, hi
		}
	}
}

// While tells that words [lo, hi) of m are of any importance only while live
// says so, or to the process that is writing them: two executions that differ
// in nothing else are in the same state. live may use words.
func (w *World) While(m *shm.Memory, lo, hi int, live func() bool) {
	for i := range w.e.regions {
		r := &w.e.regions[i]
		if r.mem != m || r.groupOf != nil && r.groupOf[lo] != nil {
			continue
		}
		g := &group{live: live}
		r.groups = append(r.groups, g)
		if r.groupOf == nil {
			r.groupOf = make([]*group, r.words)
		}
		for k := lo; k < hi; k++ {
			r.groupOf[k] = g
		}
	}
}

// Words returns n words of a region of their own, 0 at the start.
func (w *World) Words(n int) []shm.Word { return w.Memory(int64(n)*8, nil).Words() }

// Label has traces call the words of m by the names that name returns for their
// indices ("" for none).
func (w *World) Label(m *shm.Memory, name func(i int) string) {
	for i := range w.e.regions {
		if w.e.regions[i].mem == m {
			w.e.regions[i].label = name
		}
	}
}

// Go adds a process that runs body. body must not call t.FailNow, block on
// anything but words, or start goroutines that use them.
func (w *World) Go(name string, body func()) { w.add(name, body, false) }

// Daemon adds a process that may be left asleep, or awaiting an end, when
// nobody else has anything to do.
func (w *World) Daemon(name string, body func()) { w.add(name, body, true) }

func (w *World) add(name string, body func(), daemon bool) {
	e := w.e
	if len(e.procs) == MaxProcesses {
		panic("too many processes")
	}
	p := &process{id: len(e.procs), name: name, body: body, daemon: daemon}
	p.may = e.cfg.harm(name)
	e.procs = append(e.procs, p)
}

// AtEnd has f judge each execution that has come to its end, with no process
// running. f may use the shared words.
func (w *World) AtEnd(f func() error) { w.atEnd = f }

// Fail ends the execution as failed.
func (w *World) Fail(format string, args ...any) {
	w.e.fail(fmt.Errorf(format, args...))
	if p := w.e.cur; p != nil {
		panic(gone{})
	}
}

// AwaitEnd has the calling process sleep until the process of that name has
// ended or died, and tells whether it died. One that is stopped for good has
// not ended.
func (w *World) AwaitEnd(name string) (died bool) {
	e, p := w.e, w.e.cur
	q := w.process(name)
	e.boundary(p)
	if q.status != ended && q.status != dead {
		p.status, p.awaits = awaiting, q.id
		e.block(p)
	}
	e.read(p, int32(q.id))
	died = q.status == dead
	if e.tracing {
		e.log(p, "sees that %s has %s", q.name, q.status)
	}
	if died {
		p.local = p.local.fold(3)
	} else {
		p.local = p.local.fold(4)
	}
	return died
}

// Status tells AtEnd how the process of that name is left: "ended", "asleep",
// "awaiting an end", "dead", or "stopped".
func (w *World) Status(name string) string { return w.process(name).status.String() }

// Steps returns the number of steps that the process of that name has made.
func (w *World) Steps(name string) int { return w.process(name).steps }

// Nets returns how many sleeps only their timeout has ended.
func (w *World) Nets() int { return w.e.nets }

func (w *World) process(name string) *process {
	for _, p := range w.e.procs {
		if p.name == name {
			return p
		}
	}
	panic("no process named " + name)
}

// An Op is one operation of a history.
type Op struct {
	Process string
	Name    string
	In, Out any
	// Call and Return are the places of its first and its last step in the
	// execution. Return is 0 for one that its process did not live to end:
	// it may have taken effect or not.
	Call, Return int
}

// Done tells whether the operation has returned.
func (o Op) Done() bool { return o.Return > 0 }

// Do runs f as one operation of the history, which AtEnd can judge: its result
// is kept as Out. That one operation ends before another begins is part of what
// is explored.
func (w *World) Do(name string, in any, f func() any) any {
	e, p := w.e, w.e.cur
	p.ops = append(p.ops, Op{Process: p.name, Name: name, In: in})
	p.inOp, p.opened, p.opSteps = true, false, 0
	p.opLocal = p.local
	out := f()
	e.open(p)
	p.inOp = false
	op := &p.ops[len(p.ops)-1]
	op.Out, op.Return = out, int(e.pos)+1
	if !e.priming {
		e.access(p, varHistory, returns, 0, 0)
	}
	if p.opSteps > e.maxOp[name] {
		e.maxOp[name] = p.opSteps
	}
	if e.tracing {
		e.log(p, "      %s(%v) = %v", name, in, out)
	}
	return out
}

// Keep promises that of all that the calling process has read since its last Do
// began, only that operation's result and keep have any influence on what it
// will do.
func (w *World) Keep(keep ...any) {
	e, p := w.e, w.e.cur
	if e.cfg.Remember {
		return
	}
	op := &p.ops[len(p.ops)-1]
	h := p.opLocal.fold(uint64(len(p.ops)))
	for i, b := range fmt.Append(nil, op.Out, keep) {
		h = h.fold(uint64(b) + uint64(i)<<8)
	}
	p.local = h
	p.reads = p.reads[:0]
}

// open puts the beginning of p's operation at its present step.
func (e *engine) open(p *process) {
	if p.opened {
		return
	}
	p.opened = true
	op := &p.ops[len(p.ops)-1]
	op.Call = int(e.pos) + 1
	if e.priming {
		return
	}
	e.access(p, varHistory, calls, 0, 0)
	// From here on it is known which operations have ended before it, whatever its
	// process forgets.
	for _, q := range e.procs {
		n := len(q.ops)
		if q.inOp {
			n--
		}
		p.known = p.known.fold(uint64(n))
	}
}

// History returns the operations that were begun, process by process.
func (w *World) History() []Op {
	var h []Op
	for _, p := range w.e.procs {
		for i, op := range p.ops {
			if i < len(p.ops)-1 || p.opened {
				h = append(h, op)
			}
		}
	}
	return h
}
