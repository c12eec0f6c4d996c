package trace

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
	"kbus.internal/ring/model"
)

// WireFormat is the format of transcripts: what a Limpet wrote on its link and did on its bus, while applications and the
// peer, whom the transcript plays, did prescribed things.
const WireFormat = "limpet-wire/1"

// Wire is a recorded transcript.
type Wire struct {
	File, Name, About string
	NetworkID, Peer   uint32
	MessageName       string
	Terminate         string
	Accidents         []string // as in a Trace
	Corrected         []string
	Steps             []WireStep
}

// WireStep is one line of a transcript: exactly one of its kinds.
type WireStep struct {
	Line   int
	Bus    *Step
	In     []byte // the peer writes, and closes the link if EOF
	EOF    bool
	Out    []byte // the Limpet has written
	Closed bool   // the Limpet has closed link and Ksock
}

func (w *Wire) header(f *fields) {
	get[string](f, "format")
	w.Name = get[string](f, "name")
	w.About = get[string](f, "about")
	w.NetworkID = get[uint32](f, "network_id")
	w.Peer = get[uint32](f, "peer_network_id")
	if role := get[string](f, "role"); role != "connect" && role != "listen" {
		f.fail("role is %q, not \"connect\" or \"listen\"", role)
	}
	if id := get[uint32](f, "limpet_ksock"); id != 1 {
		f.fail("limpet_ksock is %d, not 1", id)
	}
	get[string](f, "limpet_ksock_opened")
	for key, to := range map[string]*string{"message_name": &w.MessageName, "terminate": &w.Terminate} {
		if f.has(key) {
			*to = get[string](f, key)
		}
	}
	for key, to := range map[string]*[]string{"limpet_args": new([]string), "mended": new([]string), "accidents": &w.Accidents, "corrected": &w.Corrected} {
		if f.has(key) {
			*to = get[[]string](f, key)
		}
	}
}

func (s *WireStep) read(f *fields) {
	bytesOf := func(key string) []byte {
		b, err := hex.DecodeString(get[string](f, key))
		if err != nil {
			f.fail("%s: %w", key, err)
		}
		return b
	}
	if f.has("frame") { // for readers only
		f.take("frame")
	}
	switch {
	case f.has("bus"):
		o := f.object("bus")
		s.Bus = &Step{Line: s.Line}
		s.Bus.read(o)
		f.adopt("bus", o)
	case f.has("in"):
		s.In = bytesOf("in")
		if f.has("eof") {
			s.EOF = get[bool](f, "eof")
		}
	case f.has("out"):
		s.Out = bytesOf("out")
	case f.has("closed"):
		if s.Closed = get[bool](f, "closed"); !s.Closed {
			f.fail("closed is not true")
		}
	default:
		f.fail("neither bus, in, out nor closed")
	}
}

// op is what a difference in the step is told of.
func (s *WireStep) op() string {
	switch {
	case s.Bus != nil:
		return s.Bus.Op
	case s.Out != nil:
		return "out"
	case s.Closed:
		return "closed"
	}
	return "in"
}

// after tells whether a step only says what the one before it caused.
func (s *WireStep) after() bool { return s.Out != nil || s.Closed }

// limit is how long a replay waits for what should come of itself. All of it comes at once, so only a difference costs time.
var limit = 5 * time.Second

// Play plays w on a bus of its own and returns every difference; ctx ends it between two steps.
func (w *Wire) Play(ctx context.Context, start Start) (list []Difference, err error) {
	p, err := start(Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	buses, ok := p.(*realBuses)
	if !ok {
		return nil, errors.New("a transcript of a Limpet is played on a real bus only")
	}
	r, err := w.start(buses)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	ksocks := map[string]Ksock{}
	for i := range w.Steps {
		if ctx.Err() != nil {
			return list, context.Cause(ctx)
		}
		s := &w.Steps[i]
		if want, got := r.step(s, p, ksocks); want != got {
			list = append(list, Difference{w.File, s.Line, s.op(), want, got})
		}
		if i+1 < len(w.Steps) && w.Steps[i+1].after() {
			continue
		}
		if got := r.rest(s.EOF); got != "" {
			list = append(list, Difference{w.File, s.Line, s.op(), "nothing more on the link", got})
		}
	}
	return list, nil
}

// replay is a Limpet at work, its peer's end of the link, and what has come from it.
type replay struct {
	limpet  *limpet.Limpet
	peer    net.Conn
	stop    context.CancelFunc
	ended   chan struct{}
	written uint64
	closed  bool // a step has said so

	mu   sync.Mutex
	buf  []byte
	got  uint64 // bytes
	over bool   // the Limpet has closed the link
	news chan struct{}
}

func (w *Wire) start(buses *realBuses) (*replay, error) {
	ctx, cancel := wait()
	defer cancel()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: buses.socket})
	if err != nil {
		return nil, err
	}
	buses.ksocks = append(buses.ksocks, k)
	l, err := limpet.New(limpet.Options{
		NetworkID: w.NetworkID, Name: w.MessageName, Terminate: w.Terminate, MaxData: model.DefaultSize,
	})
	if err != nil {
		return nil, err
	}
	mine, peer, err := linkPair()
	if err != nil {
		return nil, err
	}
	r := &replay{limpet: l, peer: peer, ended: make(chan struct{}), news: make(chan struct{})}
	serving, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.ended)
		_ = l.Serve(serving, k, mine) // why it ended is not in a transcript
	}()
	go r.read()
	return r, nil
}

// linkPair is a link with both its ends here.
func linkPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		conn, failed := net.FileConn(f)
		err = errors.Join(err, failed, f.Close())
		c[i] = conn
	}
	return c[0], c[1], err
}

func (r *replay) close() error {
	r.stop()
	<-r.ended
	return r.peer.Close()
}

func (r *replay) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := r.peer.Read(b)
		r.mu.Lock()
		r.buf = append(r.buf, b[:n]...)
		r.got += uint64(n)
		r.over = err != nil
		close(r.news)
		r.news = make(chan struct{})
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits until ready, called with the lock held, says so, or the limit passes.
func (r *replay) await(ready func() bool) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		ok, news := ready(), r.news
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-timeout.C:
			return
		}
	}
}

// next takes the first whole thing off what has come, the greeting or a frame, or n bytes if it is neither.
func (r *replay) next(n int) []byte {
	size := min(n, len(r.buf))
	if bytes.HasPrefix(r.buf, []byte("HELO")) {
		size = min(8, len(r.buf))
	} else if len(r.buf) >= 64 {
		word := func(i int) int { return int(r.buf[i])<<24 | int(r.buf[i+1])<<16 | int(r.buf[i+2])<<8 | int(r.buf[i+3]) }
		size = min(64+4*((word(52)+4)/4)+4*((word(56)+3)/4)+4, len(r.buf))
	}
	b := r.buf[:size]
	r.buf = r.buf[size:]
	return b
}

// step does one step, or waits for what it says.
func (r *replay) step(s *WireStep, p Player, ksocks map[string]Ksock) (want, got string) {
	switch {
	case s.Bus != nil:
		return r.bus(s.Bus, p, ksocks)
	case s.Closed:
		r.closed = true
		select {
		case <-r.ended:
			return "closed", "closed"
		case <-time.After(limit):
			return "closed", "nothing"
		}
	case s.Out != nil:
		r.await(func() bool { return len(r.buf) >= len(s.Out) || r.over })
		r.mu.Lock()
		defer r.mu.Unlock()
		return short(s.Out), short(r.next(len(s.Out)))
	}
	_, err := r.peer.Write(s.In)
	r.written += uint64(len(s.In))
	if s.EOF && err == nil {
		err = r.peer.(interface{ CloseWrite() error }).CloseWrite()
	}
	if err != nil {
		return "written", err.Error()
	}
	return "", ""
}

// bus does an application's step; one that only asks is repeated until its answer is right, or the limit passes: a Limpet
// tries some things again by itself.
func (r *replay) bus(s *Step, p Player, ksocks map[string]Ksock) (want, got string) {
	want = s.Want.String()
	deadline := time.Now().Add(limit)
	for {
		got = s.do(p, ksocks).String()
		if want == got || time.Now().After(deadline) {
			return want, got
		}
		switch s.Op {
		case "replier", "num_messages", "unreplied_to", "poll":
		case "next":
			if got != (answer{"msg": nil}).String() {
				return want, got
			}
		default:
			return want, got
		}
		time.Sleep(time.Millisecond)
	}
}

// rest waits until the Limpet has nothing left to do and returns what it did that no step tells.
func (r *replay) rest(eof bool) string {
	if eof && !r.closed {
		select { // it can't but notice
		case <-r.ended:
		case <-time.After(limit):
			return "a Limpet that does not notice the end"
		}
	} else if !r.closed {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := r.limpet.Settled(ctx, r.written); err != nil {
			return "a Limpet that does not come to rest"
		}
	}
	sent := r.limpet.Stats().BytesOut
	r.await(func() bool { return r.got >= sent || r.over })
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.buf
	r.buf = nil
	if len(left) > 0 {
		return short(left)
	}
	select {
	case <-r.ended:
		if !r.closed {
			r.closed = true
			return "the link closed"
		}
	default:
	}
	return ""
}

// short is bytes as a difference shows them.
func short(b []byte) string {
	const most = 2000
	if len(b) == 0 {
		return "nothing"
	}
	if len(b) <= most {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%s… (%d bytes)", hex.EncodeToString(b[:most]), len(b))
}
