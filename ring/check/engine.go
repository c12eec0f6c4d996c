//go:build kbuscheck

package check

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"runtime/debug"
	"time"

	"kbus.internal/shm"
)

// MaxProcesses is the largest number of simulated processes in a World.
const MaxProcesses = 8

// A choice is what happens next: process p goes on, is stopped for good, or
// dies. Its low 3 bits are the process.
type choice int16

const (
	run   choice = 0 * MaxProcesses
	stop  choice = 1 * MaxProcesses
	die   choice = 2 * MaxProcesses
	none  choice = -1 // nobody can go on
	cut   choice = -2 // what would follow is known
	unset choice = -3
)

func (c choice) process() int       { return int(c) % MaxProcesses }
func (c choice) kind() choice       { return c &^ (MaxProcesses - 1) }
func (c choice) bit() choices       { return 1 << uint(c) }
func of(k choice, p int) choice     { return k | choice(p) }
func (s choices) has(c choice) bool { return s&c.bit() != 0 }

// choices is a set of choices.
type choices uint32

func (s choices) first() choice { return choice(bits.TrailingZeros32(uint32(s))) }

type status uint8

const (
	ready    status = iota
	asleep          // in Word.Wait
	woken           // from Word.Wait, or by a death: about to go on
	paused          // in shm.Pause
	awaiting        // in AwaitEnd
	ended
	stopped
	dead
)

func (s status) String() string {
	return [...]string{"ready", "asleep", "woken", "spinning", "awaiting an end", "ended", "stopped", "dead"}[s]
}

// A hash is 128 bits wide, so that two of some hundred million states do not
// collide by chance.
type hash struct{ a, b uint64 }

func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x^0xa0761d6478bd642f, y^0xe7037ed1a0b428db)
	return hi ^ lo
}

func (h hash) fold(x uint64) hash {
	return hash{mix(h.a+0x9e3779b97f4a7c15, x), mix(h.b^x, 0x8ebc6af09c88c6e3+h.b)}
}

func (h hash) xor(o hash) hash { return hash{h.a ^ o.a, h.b ^ o.b} }
func (h hash) add(o hash) hash { return hash{h.a + o.a, h.b + o.b} }

// A clock holds, for each process, the position of its last step that happens
// before.
type clock [MaxProcesses]int32

func (c *clock) join(o *clock) {
	for i, v := range o {
		c[i] = max(c[i], v)
	}
}

// A process is one simulated process. It runs in a coroutine.
type process struct {
	id     int
	name   string
	body   func()
	daemon bool
	may    choices // ends that are to be tried on it: stop, die

	co     *coroutine
	status status
	unwind bool // never to go on: its next operation panics with gone
	local  hash // of everything that it has read: its local state is a function of it
	steps  int

	sleepOn int32  // word
	reads   []read // since its last Pause
	enough  int    // reads, to drop the superseded
	awaits  int    // process

	clock, base clock // base: before its present step

	ops     []Op
	inOp    bool
	opened  bool // the present op's first step is done
	opSteps int
	opLocal hash // local at the operation's beginning
	known   hash // of the operations that had ended when each of its own began
}

// A read is of a word; it is worth while to look again when that is no longer
// value, or, behind a CompareAndSwap that failed, when it is.
type read struct {
	word   int32
	value  uint64
	failed bool
}

// gone unwinds the stack of a process that will never go on.
type gone struct{}

// A coroutine runs the bodies of processes, one after the other.
type coroutine struct {
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	body  func()
}

func newCoroutine() *coroutine {
	c := &coroutine{}
	c.next, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		c.yield = yield
		for {
			if c.body != nil {
				c.body()
			}
			if !yield(struct{}{}) {
				return
			}
		}
	})
	return c
}

// A policy decides what happens next, and hears of each access of the step at
// position e.pos.
type policy interface {
	pick(e *engine) choice
	access(e *engine, p *process, a access)
}

// An access is what a step does to a shared variable.
type access struct {
	a    int32 // variable
	p    int8  // process
	kind kind
	x, y uint64 // the value before and after; of those that do nothing, what they expected and wanted
}

type kind int8

const (
	reads    kind = iota
	misses        // a CompareAndSwap that expected something else
	idles         // an Advance that expected something else
	writes        // all that set a value, but an Advance
	advances      // an Advance that found what it expected
	calls         // of the history
	returns
)

// conflict tells whether two accesses to one variable, one right after the other
// and by different processes, can make a difference by their order.
func (e *access) conflict(f *access) bool {
	if e.kind >= calls || f.kind >= calls {
		return e.kind != f.kind
	}
	if e.kind < writes {
		e, f = f, e
	}
	switch {
	case e.kind < writes:
		return false
	case f.kind >= writes:
		return true
	case e.x == e.y:
		return false
	case f.kind == reads:
		return true
	}
	return !e.same(f) && (e.x == f.x || e.y == f.x)
}

// same tells whether e is an Advance and f the same one, which comes too late:
// which of them is first nobody learns.
func (e *access) same(f *access) bool {
	return e.kind == advances && f.kind == idles && e.x == f.x && e.y == f.y
}

// The first shared variables are not words: whether process p has ended or died
// (p), and the history.
const (
	varHistory = MaxProcesses
	varWords   = MaxProcesses + 1
)

// engine runs the processes of one execution after another.
type engine struct {
	cfg     *Config
	policy  policy
	world   *World
	procs   []*process
	idle    []*coroutine
	cur     *process
	priming bool
	chosen  choice
	tracing bool
	trace   []string

	pos     int32    // of the present step, from 1
	took    []choice // all choices so far
	memory  hash     // of all words that differ from the start
	vars    int32    // number of shared variables
	varOf   []int32  // by word number and, behind them, by futex of a word
	regions []region
	failed  error
	nets    int

	steps    uint64 // in all executions
	maxDepth int
	maxOp    map[string]int
}

type region struct {
	base  uintptr
	first int32 // number of its first word
	words int32
	mem   *shm.Memory
	image []byte
	label func(i int) string
	// The words that the last execution has changed, and the bytes that it may
	// have changed as bytes.
	dirty  []int32
	lo, hi int
	// Words that count only at times (World.While).
	groupOf []*group // of each word
	groups  []*group
}

// A group is words that are part of the state only while live says so.
type group struct {
	live   func() bool
	memory hash
}

// restore makes the memory what it was at first.
func (r *region) restore() {
	w := r.mem.Words()
	for _, i := range r.dirty {
		w[i].Store(binary.NativeEndian.Uint64(r.image[8*i:]))
	}
	r.dirty = r.dirty[:0]
	for _, g := range r.groups {
		g.memory = hash{}
	}
	copy(r.mem.Bytes()[r.lo:r.hi], r.image[r.lo:r.hi])
}

func newEngine(cfg *Config) *engine {
	e := &engine{cfg: cfg, maxOp: map[string]int{}}
	e.vars = varWords
	return e
}

// number returns the number of a word among all words of the world.
func (e *engine) number(w *shm.Word) int32 {
	a := shm.Address(w)
	for i := range e.regions {
		if r := &e.regions[i]; a >= r.base && a-r.base < uintptr(r.words)*8 {
			return r.first + int32((a-r.base)/8)
		}
	}
	panic("a shared word outside the world's memory")
}

func (e *engine) words() int32 {
	if n := len(e.regions); n > 0 {
		return e.regions[n-1].first + e.regions[n-1].words
	}
	return 0
}

// variable returns the shared variable of word i, or of its futex.
func (e *engine) variable(i int32, futex bool) int32 {
	k := 2 * i
	if futex {
		k++
	}
	v := e.varOf[k]
	if v == 0 {
		v = e.vars
		e.vars++
		e.varOf[k] = v
	}
	return v
}

func (e *engine) wordName(i int32) string {
	r := e.regionOf(i)
	k := int(i - r.first)
	if r.label != nil {
		if s := r.label(k); s != "" {
			return s
		}
	}
	return fmt.Sprintf("word %d", k)
}

// execute runs one execution from its start and returns why it ended: none or
// cut. setup makes the processes.
func (e *engine) execute(setup func(*World)) choice {
	e.pos, e.took, e.memory, e.failed, e.nets = 0, e.took[:0], hash{}, nil, 0
	e.trace = e.trace[:0]
	e.procs = e.procs[:0]
	e.world = &World{e: e}
	for i := range e.regions {
		e.regions[i].restore()
	}
	shm.SetScheduler(e)
	defer shm.SetScheduler(nil)
	setup(e.world)
	e.varOf = append(e.varOf, make([]int32, max(0, 2*int(e.words())-len(e.varOf)))...)

	e.priming = true
	for _, p := range e.procs {
		if n := len(e.idle); n > 0 {
			p.co, e.idle = e.idle[n-1], e.idle[:n-1]
		} else {
			p.co = newCoroutine()
		}
		p.co.body = func() { e.live(p) }
		e.resume(p)
	}
	e.priming = false

	c := e.pick()
	for c >= 0 {
		p := e.procs[c.process()]
		e.begin(c)
		if c.kind() == run {
			e.chosen = unset
			e.resume(p)
			if e.chosen == unset {
				e.chosen = e.pick()
			}
			c = e.chosen
		} else {
			e.finish(p, c.kind())
			c = e.pick()
		}
	}
	e.maxDepth = max(e.maxDepth, int(e.pos))
	e.steps += uint64(e.pos)
	e.clear()
	if e.failed == nil && c == none {
		e.failed = e.judge()
	}
	return c
}

// clear ends all processes and takes their coroutines back.
func (e *engine) clear() {
	for _, p := range e.procs {
		if p.co.body != nil {
			p.unwind = true
			e.resume(p)
		}
		e.idle = append(e.idle, p.co)
	}
}

func (e *engine) judge() error {
	for _, p := range e.procs {
		switch p.status {
		case paused:
			if !p.daemon {
				return fmt.Errorf("deadlock: %s spins for ever (%s)", p.name, e.statuses())
			}
		case asleep:
			if !p.daemon {
				return fmt.Errorf("deadlock: %s sleeps for ever (%s)", p.name, e.statuses())
			}
		case awaiting:
			if !p.daemon {
				return fmt.Errorf("deadlock: %s waits for ever for an end (%s)", p.name, e.statuses())
			}
		}
	}
	if e.world.atEnd != nil {
		return e.world.atEnd()
	}
	return nil
}

func (e *engine) statuses() string {
	s := ""
	for i, p := range e.procs {
		if i > 0 {
			s += ", "
		}
		s += p.name + " " + p.status.String()
		if p.status == asleep {
			s += " on " + e.wordName(p.sleepOn)
		}
	}
	return s
}

// live is what p's coroutine runs.
func (e *engine) live(p *process) {
	defer func() {
		p.co.body = nil
		r := recover()
		if _, ok := r.(gone); ok {
			return
		}
		if r != nil {
			e.fail(fmt.Errorf("%s: panic: %v\n%s", p.name, r, debug.Stack()))
		}
		if p.unwind {
			return
		}
		p.status = ended
		if !e.priming {
			e.write(p, int32(p.id))
		}
	}()
	p.body()
}

// resume lets p's coroutine run until it yields or ends.
func (e *engine) resume(p *process) {
	e.cur = p
	p.co.next()
	e.cur = nil
}

func (e *engine) fail(err error) {
	if e.failed == nil {
		e.failed = err
	}
}

func (e *engine) pick() choice {
	if e.failed != nil {
		return cut
	}
	if int(e.pos) >= e.cfg.MaxSteps {
		e.fail(fmt.Errorf("still going on after %d steps (%s)", e.pos, e.statuses()))
		return cut
	}
	if e.cfg.Net && e.enabled() == 0 {
		// The last net: the timeouts of all sleeps end at once.
		for _, p := range e.procs {
			if p.status == asleep && !p.daemon {
				p.status = woken
				e.nets++
			}
		}
	}
	return e.policy.pick(e)
}

// enabled returns the processes that can go on.
func (e *engine) enabled() choices {
	var s choices
	for i, p := range e.procs {
		switch p.status {
		case ready, woken:
			s |= of(run, i).bit()
		case paused:
			if e.changed(p) {
				s |= of(run, i).bit()
			}
		case awaiting:
			if e.procs[p.awaits].status >= ended && e.procs[p.awaits].status != stopped {
				s |= of(run, i).bit()
			}
		}
	}
	return s
}

// ends returns the ways to end process i that are to be tried.
func (e *engine) ends(i int) choices {
	p := e.procs[i]
	if p.status >= ended {
		return 0
	}
	return p.may << uint(i)
}

func (e *engine) changed(p *process) bool {
	for _, r := range p.reads {
		if (e.value(r.word) == r.value) == r.failed {
			return true
		}
	}
	return false
}

// begin starts the step c.
func (e *engine) begin(c choice) {
	e.pos++
	e.took = append(e.took, c)
	p := e.procs[c.process()]
	p.base = p.clock
	p.clock[p.id] = e.pos
	if c.kind() != run {
		return
	}
	p.steps++
	switch p.status {
	case paused:
		p.status = ready
		for _, r := range p.reads {
			e.read(p, e.variable(r.word, false))
		}
		p.reads = p.reads[:0]
	case awaiting, woken:
		p.status = ready
	}
	if p.inOp {
		p.opSteps++
		if n := e.cfg.OpSteps; n > 0 && p.opSteps > n {
			e.fail(fmt.Errorf("%s: %s takes more than %d steps of its own", p.name, p.ops[len(p.ops)-1].Name, n))
		}
		e.open(p)
	}
}

// finish ends p for good: stopped or dead.
func (e *engine) finish(p *process, k choice) {
	if k == stop {
		p.status = stopped
	} else {
		p.status = dead
		e.write(p, int32(p.id))
	}
	if e.tracing {
		e.log(p, "%s", p.status)
	}
}

func (e *engine) log(p *process, format string, args ...any) {
	e.trace = append(e.trace, fmt.Sprintf("%5d %-12s ", e.pos, p.name)+fmt.Sprintf(format, args...))
}

// boundary is where p's step ends and another begins, p's or somebody else's.
func (e *engine) boundary(p *process) {
	if p.unwind {
		panic(gone{})
	}
	if !e.priming {
		c := e.pick()
		if c == of(run, p.id) {
			e.begin(c)
			return
		}
		e.chosen = c
	}
	e.away(p)
}

// block ends p's step, which has changed its status.
func (e *engine) block(p *process) {
	e.chosen = e.pick()
	if e.chosen == of(run, p.id) { // woken by the net
		e.begin(e.chosen)
		return
	}
	e.away(p)
}

// away gives the processor to the others until p is chosen again.
func (e *engine) away(p *process) {
	p.co.yield(struct{}{})
	if p.unwind {
		panic(gone{})
	}
}

// access notes what p's present step does to shared variable a.
func (e *engine) access(p *process, a int32, k kind, x, y uint64) {
	e.policy.access(e, p, access{a, int8(p.id), k, x, y})
}

func (e *engine) read(p *process, a int32)  { e.access(p, a, reads, 0, 0) }
func (e *engine) write(p *process, a int32) { e.access(p, a, writes, 0, 1) }

// Before is for package shm.
func (e *engine) Before(w *shm.Word, op shm.Op) {
	p := e.cur
	if p == nil {
		return
	}
	if op == shm.OpPut && !e.cfg.Puts {
		if p.unwind {
			panic(gone{})
		}
		return
	}
	e.boundary(p)
}

// After is for package shm.
func (e *engine) After(w *shm.Word, op shm.Op, old, new, seen uint64) {
	i := e.number(w)
	if old != new {
		r := e.regionOf(i)
		r.dirty = append(r.dirty, i-r.first)
	}
	p := e.cur
	if p == nil {
		return
	}
	a := e.variable(i, false)
	if old != new {
		h := hash{uint64(i), ^uint64(i)}
		m := &e.memory
		if r := e.regionOf(i); r.groupOf != nil {
			if g := r.groupOf[i-r.first]; g != nil {
				m = &g.memory
			}
		}
		*m = m.xor(h.fold(old)).xor(h.fold(new))
	}
	if op == shm.OpLoad || op == shm.OpAdd {
		p.look(read{i, new, false})
	}
	p.local = p.local.fold(seen)
	if e.priming {
		return // a Put ahead of the first step: nobody has read the word yet
	}
	switch op {
	case shm.OpLoad:
		e.read(p, a)
	case shm.OpAdvance:
		e.access(p, a, advances, old, new)
	default:
		e.access(p, a, writes, old, new)
	}
	if e.tracing {
		e.traceWord(p, i, op, old, new)
	}
}

// Failed is for package shm.
func (e *engine) Failed(w *shm.Word, is, expected uint64) {
	p := e.cur
	if p == nil {
		return
	}
	i := e.number(w)
	p.look(read{i, expected, true})
	p.local = p.local.fold(0)
	e.access(p, e.variable(i, false), misses, expected, 0)
	if e.tracing {
		e.log(p, "cas   %s: failed, is %#x, not %#x", e.wordName(i), is, expected)
	}
}

// Advanced is for package shm.
func (e *engine) Advanced(w *shm.Word, was, expected, new uint64) {
	if was == expected {
		e.After(w, shm.OpAdvance, was, new, 0)
		return
	}
	p := e.cur
	if p == nil {
		return
	}
	i := e.number(w)
	p.local = p.local.fold(0)
	e.access(p, e.variable(i, false), idles, expected, new)
	if e.tracing {
		e.log(p, "adv   %s: not %#x, is %#x", e.wordName(i), expected, was)
	}
}

// Here is for package shm.
func (e *engine) Here() [2]uint64 {
	if p := e.cur; p != nil {
		return [2]uint64{p.local.a, p.local.b}
	}
	return [2]uint64{}
}

// Forget is for package shm.
func (e *engine) Forget(here [2]uint64, keep []uint64) {
	p := e.cur
	if p == nil || e.cfg.Remember {
		return
	}
	p.local = hash{here[0], here[1]}.fold(uint64(7 + len(keep)))
	for _, x := range keep {
		p.local = p.local.fold(x)
	}
	p.reads = p.reads[:0]
}

func (p *process) look(r read) {
	p.reads = append(p.reads, r)
	if len(p.reads) > p.enough {
		p.compact()
		p.enough = 2 * max(len(p.reads), 32)
	}
}

// compact drops all but the last read of each word.
func (p *process) compact() {
	kept := p.reads[:0]
	for i, r := range p.reads {
		last := true
		for _, s := range p.reads[i+1:] {
			last = last && (s.word != r.word || s.failed != r.failed)
		}
		if last {
			kept = append(kept, r)
		}
	}
	p.reads = kept
}

func (e *engine) traceWord(p *process, i int32, op shm.Op, old, new uint64) {
	if op == shm.OpLoad {
		e.log(p, "load  %s = %#x", e.wordName(i), new)
		return
	}
	name := map[shm.Op]string{shm.OpStore: "store", shm.OpPut: "put  ", shm.OpAdd: "add  ", shm.OpCompareAndSwap: "cas  ", shm.OpAdvance: "adv  "}[op]
	e.log(p, "%s %s: %#x -> %#x", name, e.wordName(i), old, new)
}

// Wait is for package shm.
func (e *engine) Wait(w *shm.Word, old uint32, timeout time.Duration) {
	p := e.cur
	if p == nil {
		return
	}
	if timeout <= 0 {
		return
	}
	e.boundary(p)
	i := e.number(w)
	e.read(p, e.variable(i, false))
	if uint32(e.value(i)) != old {
		p.local = p.local.fold(1)
		if e.tracing {
			e.log(p, "wait  %s: changed, does not sleep", e.wordName(i))
		}
		return
	}
	e.write(p, e.variable(i, true))
	if e.tracing {
		e.log(p, "wait  %s = %#x", e.wordName(i), old)
	}
	// It does not learn whether it slept; but while it does it is elsewhere.
	behind := p.local.fold(1)
	p.local = p.local.fold(5)
	p.status, p.sleepOn = asleep, i
	e.block(p)
	p.local = behind
}

func (e *engine) value(i int32) uint64 {
	cur := e.cur
	e.cur = nil
	r := e.regionOf(i)
	x := r.mem.Words()[i-r.first].Load()
	e.cur = cur
	return x
}

func (e *engine) regionOf(i int32) *region {
	for k := range e.regions {
		if r := &e.regions[k]; i < r.first+r.words {
			return r
		}
	}
	panic("no such word")
}

// Wake is for package shm.
func (e *engine) Wake(w *shm.Word) {
	p := e.cur
	if p == nil {
		return
	}
	e.boundary(p)
	i := e.number(w)
	p.local = p.local.fold(2)
	var sleepers []*process
	for _, q := range e.procs {
		if q.status == asleep && q.sleepOn == i {
			sleepers = append(sleepers, q)
		}
	}
	if len(sleepers) > 0 {
		e.write(p, e.variable(i, true))
	} else {
		e.read(p, e.variable(i, true))
	}
	for _, q := range sleepers {
		q.status = woken
		q.clock.join(&p.clock)
	}
	if e.tracing {
		e.log(p, "wake  %s: %d woken", e.wordName(i), len(sleepers))
	}
}

// Pause is for package shm.
func (e *engine) Pause() {
	p := e.cur
	if p == nil || e.cfg.FreeSpin {
		return
	}
	if p.unwind {
		panic(gone{})
	}
	p.compact()
	if len(p.reads) == 0 || e.priming {
		return
	}
	for _, r := range p.reads {
		e.read(p, e.variable(r.word, false))
	}
	if e.changed(p) {
		p.reads = p.reads[:0]
		return
	}
	if e.tracing {
		e.log(p, "spins")
	}
	behind := p.local
	p.local = p.local.fold(6)
	p.status = paused
	e.block(p)
	p.local = behind
}
