package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/ring/control"
)

// What a client itself finds wrong, record.code of recWrong.
const (
	wrongError = 1 + iota
	wrongData
	wrongChanged
	wrongCopies
	wrongQuery
)

var wrongs = []string{
	wrongError:   "an operation failed in a way that it must not",
	wrongData:    "a message is not as it was sent (R2.1)",
	wrongChanged: "a message changed while it was held (I7)",
	wrongCopies:  "a message came in another number of copies than the Ksock has bindings (R4.6, R6.1)",
	wrongQuery:   "a query was answered wrongly (R3.7)",
}

const (
	announceNames = 8
	requestNames  = 6
	chainName     = "$.Chain"

	chainWindow = 16
	chainPrime  = 0x9e3779b97f4a7c15

	ksocksAtMost = 3
)

// A client is one process that uses the bus.
type client struct {
	b          *board
	place      int
	socket     string
	rng        *rand.Rand
	sent, read *journal
	ksocks     []*actor
	names      struct{ announce, request, reply []string }
}

// An actor is one Ksock of a client.
type actor struct {
	c        *client
	k        *ksock.Ksock
	life     uint32
	seq      uint32
	readOnly bool
	asks     bool // and so does not listen to Replies
	replier  []string
	listens  []string
	bindings int64 // when they changed last
	once     bool
	unsure   bool // about its bindings or settings
	owed     []ksock.Header
	stale    int // Requests whose askers have gone: they count as owed (R3.7)
	views    []held
	loans    []ksock.Loan
	waiting  uint32 // the message that waits in the Ksock
	called   bool   // a Call may have kept messages
	batch    []*ksock.Message
	batches  uint32       // sent so far
	taken    []ksock.View // by ViewBatch

	// the chain
	keys  [chainWindow]uint64
	count uint64
	hash  uint64
	lastC uint64
	torn  bool // it can't be compared any more

	// copies of one message
	run     uint64
	runName string
	runSent uint32
	runs    int
}

// held is a View that is kept for a while.
type held struct {
	v   ksock.View
	sum uint64
}

func runClient(b *board, place int, socket string, seed uint64) error {
	c := &client{b: b, place: place, socket: socket, rng: rand.New(rand.NewPCG(seed, uint64(place)))}
	c.sent, c.read = b.sent(place).writer(), b.read(place).writer()
	for i := range announceNames {
		c.names.announce = append(c.names.announce, fmt.Sprintf("$.T.%d", i))
	}
	for i := range requestNames {
		c.names.request = append(c.names.request, fmt.Sprintf("$.Q.%d", i))
	}
	c.names.reply = []string{"$.A.0", "$.A.1"}
	beat := b.beat(place)
	for b.phase() == phaseRun {
		beat.Add(1)
		if len(c.ksocks) == 0 || len(c.ksocks) < ksocksAtMost && c.chance(2000) {
			c.open()
			continue
		}
		a := c.ksocks[c.rng.IntN(len(c.ksocks))]
		a.step()
	}
	for _, a := range slices.Clone(c.ksocks) {
		if a.readOnly { // it can't reply: a Status has to
			a.close(false)
		}
	}
	for b.phase() == phaseSettle {
		beat.Add(1)
		n := 0
		for _, a := range c.ksocks {
			n += a.settle()
		}
		if n == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for _, a := range slices.Clone(c.ksocks) {
		beat.Add(1)
		a.close(true)
	}
	return nil
}

// chance is true once in n times.
func (c *client) chance(n int) bool { return c.rng.IntN(n) == 0 }

func pick(c *client, l []string) string { return l[c.rng.IntN(len(l))] }

// patience bounds calls to the supervisor, which may be dead for a while.
const patience = 10 * time.Second

func patient() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (c *client) put(j *journal, r record) {
	r.at = c.b.now()
	j.put(&r)
}

func (c *client) wrong(life uint32, code uint16, err error, more uint64) {
	var errno unix.Errno
	errors.As(err, &errno)
	if err != nil {
		fmt.Fprintf(os.Stderr, "torture: place %d, process %d, Ksock %d: %v\n", c.place, os.Getpid(), life, err)
	}
	c.put(c.sent, record{kind: recWrong, life: life, code: code, reply: uint64(errno), origin: more})
}

// open opens a Ksock and binds it.
func (c *client) open() {
	ctx, cancel := patient()
	defer cancel()
	readOnly := c.chance(20)
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: c.socket, ReadOnly: readOnly, Spin: -1})
	if err != nil {
		if !noSupervisor(err) {
			c.wrong(0, wrongError, err, 0)
		}
		time.Sleep(time.Duration(1+c.rng.IntN(3)) * time.Millisecond)
		return
	}
	a := &actor{c: c, k: k, life: uint32(c.b.w[bLives].Add(1)), readOnly: readOnly}
	c.put(c.sent, record{kind: recOpened, life: a.life, id: uint64(k.ID())})
	c.ksocks = append(c.ksocks, a)
	a.asks = !readOnly && !c.chance(4)
	chain := !c.chance(3)
	most := []uint32{10, 100, 1000, 4096}[c.rng.IntN(4)]
	all := !a.asks && c.chance(6)
	if chain || all {
		most = 4096
	}
	if _, err := k.SetMaxMessages(ctx, most); a.failed(err) {
		return
	}
	if c.chance(4) {
		a.switchOnce(ctx)
	}
	for range 1 + c.rng.IntN(4) {
		a.listen(ctx, pick(c, []string{pick(c, c.names.announce), "$.T.%", "$.T.*"}))
	}
	switch {
	case all:
		a.listen(ctx, "$.*")
	case !a.asks && c.chance(2):
		a.listen(ctx, "$.A.*")
	}
	if c.chance(10) {
		a.listen(ctx, "$.Q.*")
	}
	if c.chance(20) {
		a.listen(ctx, ring.ReplierBindEvent)
	}
	for range c.rng.IntN(3) {
		a.bindReplier(ctx)
	}
	if chain && a.k != nil {
		if err := k.Bind(ctx, chainName, ksock.Listener); !a.failed(err) {
			a.bindings = c.b.now()
			a.listens = append(a.listens, chainName)
			c.put(c.read, record{kind: recBound, life: a.life})
		}
	}
}

// noSupervisor tells an error that is only the supervisor's absence.
func noSupervisor(err error) bool {
	var errno unix.Errno
	return errors.Is(err, ksock.ErrNoSupervisor) || errors.Is(err, control.ErrLost) || errors.As(err, &errno) && (errno == unix.EAGAIN || errno == unix.ECONNRESET || errno == unix.EPIPE)
}

// failed tells whether a call to the supervisor failed, which it must not; then
// the Ksock is closed, since nobody knows what was done.
func (a *actor) failed(err error) bool {
	if err == nil {
		return false
	}
	a.unsure = true
	if !noSupervisor(err) {
		a.c.wrong(a.life, wrongError, err, 0)
	}
	return true
}

func (a *actor) listen(ctx context.Context, name string) {
	if len(a.listens) > 6 {
		return
	}
	if err := a.k.Bind(ctx, name, ksock.Listener); !a.failed(err) {
		a.listens = append(a.listens, name)
		a.bindings = a.c.b.now()
	}
}

func (a *actor) bindReplier(ctx context.Context) {
	name := pick(a.c, []string{pick(a.c, a.c.names.request), pick(a.c, a.c.names.request), "$.Q.%", "$.Q.*"})
	err := a.k.Bind(ctx, name, ksock.Replier)
	switch {
	case errors.Is(err, ksock.ErrReplierExists), errors.Is(err, ksock.ErrWouldBlock): // R4.2, R7.3
	case !a.failed(err):
		a.replier = append(a.replier, name)
	}
}

func (a *actor) unbind(ctx context.Context) {
	if len(a.replier) > 0 && a.c.chance(2) {
		i := a.c.rng.IntN(len(a.replier))
		a.c.put(a.c.sent, record{kind: recUnbind, life: a.life})
		err := a.k.Unbind(ctx, a.replier[i], ksock.Replier)
		if !errors.Is(err, ksock.ErrWouldBlock) && !a.failed(err) {
			a.replier = slices.Delete(a.replier, i, i+1)
		}
		return
	}
	for i, name := range a.listens {
		if name != chainName && a.c.chance(2) {
			if !a.failed(a.k.Unbind(ctx, name, ksock.Listener)) {
				// What came by it alone, before this Ksock was of the chain, may be gone
				// from the middle of what it reads (R4.5).
				a.torn = a.torn || ring.Match(name, chainName)
				a.listens = slices.Delete(a.listens, i, i+1)
				a.bindings = a.c.b.now()
			}
			return
		}
	}
}

func (a *actor) switchOnce(ctx context.Context) {
	s := ksock.Off
	if !a.once {
		s = ksock.On
	}
	was, err := a.k.SetOnlyOnce(ctx, s)
	if a.failed(err) {
		return
	}
	if was != a.once {
		a.c.wrong(a.life, wrongQuery, nil, 1)
	}
	a.once = !a.once
	a.bindings = a.c.b.now()
}

// step does something.
func (a *actor) step() {
	c := a.c
	n := 0
	if c.chance(2) {
		n = a.receiveBatch()
	} else {
		n = a.receive(64)
	}
	if a.unsure {
		a.close(false)
		return
	}
	if len(a.owed) > 0 && !a.readOnly && (len(a.owed) > 20 || c.chance(2)) {
		a.reply()
	}
	switch x := c.rng.IntN(1000); {
	case x < 300:
		a.announceBatch()
	case x < 600:
		for range 1 + c.rng.IntN(16) {
			a.announce()
		}
	case x < 850:
		a.ask()
	case x < 855:
		a.wait()
	case x < 920:
		a.query()
	case x < 950:
		a.letGo()
	case x < 960:
		if a.asks && a.waiting == 0 {
			a.call()
		}
	case x < 970:
		a.settings()
	case x < 973:
		a.close(false)
		return
	}
	if n == 0 && c.chance(16) {
		a.wait()
	}
}

func (a *actor) settings() {
	ctx, cancel := patient()
	defer cancel()
	switch x := a.c.rng.IntN(100); {
	case x < 25:
		a.listen(ctx, pick(a.c, a.c.names.announce))
	case x < 50:
		a.bindReplier(ctx)
	case x < 85:
		a.unbind(ctx)
	case x < 90:
		a.switchOnce(ctx)
	case x < 98:
		if n, err := a.k.SetMaxMessages(ctx, uint32(50+a.c.rng.IntN(4000))); !a.failed(err) && n < 50 {
			a.c.wrong(a.life, wrongQuery, nil, uint64(n))
		}
	default:
		s := ksock.Off
		if a.c.chance(2) {
			s = ksock.On
		}
		if _, err := a.k.SetReportReplierBinds(ctx, s); !errors.Is(err, ksock.ErrQueueFull) {
			a.failed(err)
		}
	}
}

// size is small most of the time, and up to 4 MiB.
func (c *client) size() int {
	switch x := c.rng.IntN(10000); {
	case x < 8500:
		return c.rng.IntN(65)
	case x < 9700:
		return c.rng.IntN(1 << 10)
	case x < 9990:
		return c.rng.IntN(16 << 10)
	case x < 9998:
		return c.rng.IntN(256 << 10)
	}
	return c.rng.IntN(4<<20 + 1)
}

// data is some bytes to send.
func (c *client) data() []byte {
	n := c.size()
	at := c.rng.IntN(len(c.b.pool) - n)
	return c.b.pool[at : at+n]
}

func (c *client) micros() uint32 { return uint32(c.b.now() / 1000) }

// checksum of a name and data.
func checksum(name string, data []byte) uint32 { return sum32(sum64(sum64(0, data), []byte(name))) }

// begin makes a header one that can be checked, and writes the intent down. batch
// is the number of the batch that it is in, or 0.
func (a *actor) begin(class uint8, h *ksock.Header, data []byte, batch uint32) uint64 {
	a.seq++
	h.OrigFrom = ksock.EndPoint{Network: a.life, Ksock: a.seq}
	h.FinalTo = ksock.EndPoint{Network: checksum(h.Name, data), Ksock: a.c.micros()}
	origin := uint64(a.life)<<32 | uint64(a.seq)
	a.c.put(a.c.sent, record{kind: recIntent, class: class, life: a.life, origin: origin, reply: pair(h.InReplyTo), to: h.To, flags: batch})
	return origin
}

func pair(id ksock.MessageID) uint64 { return uint64(id.Network)<<32 | uint64(id.Serial) }

// send sends a message in one of the ways that there are.
func (a *actor) send(class uint8, h *ksock.Header, data []byte) error {
	c := a.c
	if c.chance(200) && class != reply {
		h.ID = ksock.MessageID{Network: 1000 + a.life, Serial: a.seq + 1}
	}
	var id ksock.MessageID
	var err error
	var l ksock.Loan
	loan := !a.readOnly && (c.chance(8) || len(data) > 64<<10 && c.chance(2))
	if loan {
		if l, err = a.k.Loan(len(data)); err != nil {
			if !errors.Is(err, ksock.ErrNoMemory) {
				c.wrong(a.life, wrongError, err, 0)
			}
			return err
		}
		copy(l.Data(), data)
	}
	origin := a.begin(class, h, data, 0)
	switch {
	case h.Flags&ksock.AllOrWait != 0 && c.chance(2):
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.rng.IntN(2000))*time.Microsecond)
		if loan {
			id, err = a.k.SendLoan(ctx, h, l)
		} else {
			id, err = a.k.Send(ctx, &ksock.Message{Header: *h, Data: data})
		}
		cancel()
	case loan:
		id, err = a.k.TrySendLoan(h, l)
	default:
		id, err = a.k.TrySend(&ksock.Message{Header: *h, Data: data})
	}
	if loan && err != nil {
		if c.chance(4) && len(a.loans) < 8 {
			a.loans = append(a.loans, l)
		} else {
			l.Release()
		}
	}
	a.outcome(class, origin, h.To, id, err)
	return err
}

func (a *actor) outcome(class uint8, origin uint64, to uint32, id ksock.MessageID, err error) {
	a.outcomeOf(record{class: class, origin: origin, to: to, id: pair(id)}, err)
}

// outcomeOf writes down what became of a message; r has it but for the error.
func (a *actor) outcomeOf(r record, err error) {
	c := a.c
	code := errnoOf(err)
	switch code {
	case 0, unix.EBUSY, unix.ENOMEM, unix.ECANCELED:
	case unix.EAGAIN:
		a.waiting = uint32(r.origin)
	default:
		may := code == unix.EALREADY && a.waiting != 0 ||
			r.class == request && (code == unix.EADDRNOTAVAIL || code == unix.EPIPE || code == unix.ENOLCK) ||
			r.class == reply && code == unix.EADDRNOTAVAIL ||
			a.readOnly && code == unix.EBADF
		if !may {
			c.wrong(a.life, wrongError, err, r.origin)
		}
	}
	r.kind, r.life, r.code = recOutcome, a.life, uint16(code)
	c.put(c.sent, r)
}

// errnoOf is the errno of a send's error; ECANCELED if its time was over.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.DeadlineExceeded):
		return unix.ECANCELED
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}

// settleWaiting deals with the message that waits in the Ksock, if there is one;
// sure ends it.
func (a *actor) settleWaiting(sure bool) {
	if a.waiting == 0 {
		return
	}
	origin := uint64(a.life)<<32 | uint64(a.waiting)
	var code unix.Errno
	switch {
	case sure || a.c.chance(10):
		// What SendAgain says first tells whether there is anything left to discard.
		_, err := a.k.SendAgain()
		if code = errnoOf(err); code == unix.EAGAIN {
			if err := a.k.Discard(); err != nil {
				a.c.wrong(a.life, wrongError, err, origin)
			}
			code = unix.ECANCELED
		}
	default:
		_, err := a.k.SendAgain()
		code = errnoOf(err)
	}
	switch code {
	case unix.EAGAIN:
		return
	case 0, unix.ENOMSG, unix.ECANCELED, unix.EBUSY, unix.EADDRNOTAVAIL, unix.EPIPE, unix.ENOLCK, unix.ENOMEM:
	default:
		a.c.wrong(a.life, wrongError, fmt.Errorf("send again: %w", code), origin)
	}
	a.c.put(a.c.sent, record{kind: recLater, life: a.life, code: uint16(code), origin: origin})
	a.waiting = 0
}

// mayAnnounce tells whether to try: what is bound to fail is tried now and then.
func (a *actor) mayAnnounce() bool {
	if a.readOnly && !a.c.chance(50) {
		return false
	}
	a.settleWaiting(false)
	return a.waiting == 0 || a.c.chance(20)
}

func (a *actor) announce() {
	c := a.c
	if !a.mayAnnounce() {
		return
	}
	h := ksock.Header{Flags: uint32(c.rng.IntN(1<<16)) << 16}
	class := uint8(announcement)
	switch x := c.rng.IntN(100); {
	case x < 40:
		class, h.Name = chained, chainName
		h.Flags |= ksock.AllOrFail
		if c.chance(6) {
			h.Flags ^= ksock.AllOrFail | ksock.AllOrWait
		}
	case x < 97:
		h.Name = pick(c, c.names.announce)
		if c.chance(20) {
			h.Flags |= []uint32{ksock.AllOrFail, ksock.AllOrWait}[c.rng.IntN(2)]
		}
	default:
		h.Name = pick(c, c.names.announce)
		h.Flags |= ksock.Urgent
	}
	a.send(class, &h, c.data())
}

func (a *actor) ask() {
	if !a.asks {
		return
	}
	a.settleWaiting(false)
	if a.waiting != 0 {
		return
	}
	h := a.question()
	switch a.c.rng.IntN(12) {
	case 0:
		h.Flags |= ksock.AllOrFail
	case 1:
		h.Flags |= ksock.AllOrWait
	case 2:
		h.Flags |= ksock.Urgent
	}
	a.send(request, &h, a.c.data())
}

func (a *actor) question() ksock.Header {
	h := ksock.Header{Name: pick(a.c, a.c.names.request), Flags: ksock.WantReply}
	if a.c.chance(4) { // as a stateful Request has it
		h.To, _ = a.k.Replier(h.Name)
	}
	return h
}

// call asks by Call, and gives up soon.
func (a *actor) call() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+a.c.rng.IntN(5))*time.Millisecond)
	defer cancel()
	h := a.question()
	data := a.c.data()
	origin := a.begin(request, &h, data, 0)
	before, _ := a.k.LastSent()
	a.called = true
	m, err := a.k.Call(ctx, &ksock.Message{Header: h, Data: data})
	var status *ksock.StatusError
	switch {
	case errors.As(err, &status):
		m = status.Status
	case err != nil:
		code := errnoOf(err)
		id, _ := a.k.LastSent()
		if code == unix.ECANCELED && id != before { // it is asked, and its answer will be dropped
			code = 0
			a.c.put(a.c.sent, record{kind: recDropped, life: a.life, id: pair(id)})
		}
		a.outcome(request, origin, h.To, id, codeError(code))
		return
	}
	a.outcome(request, origin, h.To, m.InReplyTo, nil)
	a.note(&m.Header, m.Data, true)
}

func codeError(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func (a *actor) reply() {
	i := a.c.rng.IntN(len(a.owed))
	a.settleWaiting(true)
	q := &a.owed[i]
	h := ksock.ReplyHeader(q)
	h.Name = pick(a.c, a.c.names.reply)
	err := a.send(reply, &h, a.c.data())
	if errors.Is(err, ksock.ErrAskerGone) {
		a.stale++
	}
	if !known(err) {
		a.owed = slices.Delete(a.owed, i, i+1)
	}
}

// known tells errors after which a Reply is still owed.
func known(err error) bool {
	return errors.Is(err, ksock.ErrQueueFull) || errors.Is(err, ksock.ErrNoMemory)
}

// receive reads up to n messages.
func (a *actor) receive(n int) int {
	for i := range n {
		v, ok, err := a.k.TryView()
		if err != nil {
			a.c.wrong(a.life, wrongError, err, 0)
			a.unsure = true
			return i
		}
		if !ok {
			a.called = false
			return i
		}
		a.take(v)
	}
	return n
}

func (a *actor) take(v ksock.View) {
	h := v.Header()
	a.note(&h, v.Data(), false)
	if len(a.views) < 8 && a.c.chance(50) {
		a.views = append(a.views, held{v, sum64(0, v.Data())})
		return
	}
	v.Release()
}

// note writes a message down that was read, or that a Call has let pass others.
func (a *actor) note(h *ksock.Header, data []byte, passed bool) {
	c := a.c
	r := record{
		kind: recMessage, life: a.life, id: pair(h.ID), reply: pair(h.InReplyTo), from: h.From, to: h.To, flags: h.Flags,
		origin: uint64(h.OrigFrom.Network)<<32 | uint64(h.OrigFrom.Ksock),
	}
	if passed {
		r.code = 1
	}
	if h.Flags&ksock.Synthetic != 0 {
		r.name = uint32(slices.Index(busNames, h.Name))
		if int32(r.name) < 1 {
			c.wrong(a.life, wrongData, fmt.Errorf("the bus sent %s", h.Name), r.id)
			return
		}
		c.put(c.read, r)
		return
	}
	if checksum(h.Name, data) != h.FinalTo.Network {
		c.wrong(a.life, wrongData, fmt.Errorf("%s of %d bytes from Ksock %d", h.Name, len(data), h.From), r.origin)
	}
	if h.Name == chainName && r.origin != a.lastC {
		a.lastC = r.origin
		old := a.keys[a.count%chainWindow]
		a.keys[a.count%chainWindow] = r.origin
		a.count++
		a.hash = a.hash*chainPrime + r.origin - old*chainPower
	}
	if h.Name == chainName && a.count >= chainWindow && !a.torn {
		r.hash = a.hash | 1
	}
	if h.Flags&(ksock.WantReply|ksock.MustReply) == ksock.WantReply|ksock.MustReply {
		a.owed = append(a.owed, *h)
	}
	c.put(c.read, r)
	if h.Flags&ksock.Urgent == 0 && !passed {
		a.copies(r.origin, h)
	}
}

// chainPower is what the oldest key of the window was multiplied with.
var chainPower = func() uint64 {
	p := uint64(1)
	for range chainWindow {
		p *= chainPrime
	}
	return p
}()

// copies counts the copies of each announcement.
func (a *actor) copies(origin uint64, h *ksock.Header) {
	if origin == a.run {
		a.runs++
		return
	}
	if a.run != 0 && int32(a.runSent-uint32((a.bindings+skew)/1000)) > 0 && !a.unsure {
		want := 0
		for _, l := range a.listens {
			if ring.Match(l, a.runName) {
				want++
			}
		}
		if a.once {
			want = min(want, 1)
		}
		if a.runs != want {
			a.c.wrong(a.life, wrongCopies, fmt.Errorf("%s in %d copies, not %d", a.runName, a.runs, want), a.run)
		}
	}
	a.run = 0
	if h.Flags&ksock.WantReply == 0 && h.InReplyTo == (ksock.MessageID{}) {
		a.run, a.runName, a.runSent, a.runs = origin, h.Name, h.FinalTo.Ksock, 1
	}
}

// wait sleeps for a message, but not long.
func (a *actor) wait() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(100+a.c.rng.IntN(3000))*time.Microsecond)
	defer cancel()
	v, err := a.k.View(ctx)
	switch {
	case err == nil:
		a.take(v)
	case !errors.Is(err, context.DeadlineExceeded):
		a.c.wrong(a.life, wrongError, err, 0)
		a.unsure = true
	}
}

func (a *actor) query() {
	c := a.c
	n, err := a.k.Unreplied()
	if owed := len(a.owed) + a.stale; err != nil || n < owed || n > owed && !a.called {
		c.wrong(a.life, wrongQuery, err, uint64(n)<<32|uint64(owed))
	}
	if _, err := a.k.Unread(); err != nil {
		c.wrong(a.life, wrongQuery, err, 0)
	}
	if len(a.replier) > 0 {
		if id, err := a.k.Replier(a.replier[0]); err != nil || id != a.k.ID() {
			c.wrong(a.life, wrongQuery, err, uint64(id))
		}
	}
	if _, _, err := a.k.Poll(); err != nil {
		c.wrong(a.life, wrongQuery, err, 0)
	}
}

// letGo takes a loan for a while, or gives back what is held.
func (a *actor) letGo() {
	c := a.c
	if len(a.loans) < 8 && !a.readOnly && c.chance(2) {
		l, err := a.k.Loan(c.size())
		switch {
		case err == nil:
			a.loans = append(a.loans, l)
		case !errors.Is(err, ksock.ErrNoMemory):
			c.wrong(a.life, wrongError, err, 0)
		}
	}
	if n := len(a.loans); n > 0 && c.chance(2) {
		a.loans[n-1].Release()
		a.loans = a.loans[:n-1]
	}
	if n := len(a.views); n > 0 {
		a.release(n - 1)
	}
}

func (a *actor) release(i int) {
	h := a.views[i]
	if sum64(0, h.v.Data()) != h.sum {
		a.c.wrong(a.life, wrongChanged, nil, pair(h.v.Header().ID))
	}
	h.v.Release()
	a.views = slices.Delete(a.views, i, i+1)
}

// settle comes to rest: it tells how much there was to do.
func (a *actor) settle() int {
	n := a.receive(256)
	if a.waiting != 0 {
		a.settleWaiting(true)
		n++
	}
	for range len(a.owed) {
		a.reply()
		n++
	}
	for len(a.views) > 0 {
		a.release(0)
	}
	for _, l := range a.loans {
		l.Release()
	}
	a.loans = nil
	return n
}

// close closes the Ksock, sometimes after having read all that is there.
func (a *actor) close(last bool) {
	c := a.c
	c.ksocks = slices.DeleteFunc(c.ksocks, func(x *actor) bool { return x == a })
	if last || !a.unsure && c.chance(2) {
		before := c.b.now()
		n := 0
		for ; n < 10000 && a.receive(1) == 1; n++ {
			c.b.beat(c.place).Add(1)
		}
		if n < 10000 && !a.unsure {
			r := record{kind: recDrained, life: a.life, reply: uint64(before)}
			if last {
				r.code = 1
			}
			c.put(c.read, r)
		}
	}
	closing := record{kind: recClosing, life: a.life}
	if a.called {
		closing.code = 1
	}
	c.put(c.sent, closing)
	keep := a.views
	if len(keep) > 0 && c.chance(2) { // in use beyond the end
		if err := a.k.Close(); err != nil {
			c.wrong(a.life, wrongError, err, 0)
		}
	}
	for len(a.views) > 0 {
		a.release(0)
	}
	for _, l := range a.loans {
		l.Release()
	}
	if err := a.k.Close(); err != nil {
		c.wrong(a.life, wrongError, err, 0)
	}
}
