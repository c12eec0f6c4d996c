package limpet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"kbus.internal/ksock"
)

// Options are what a Limpet is made of.
type Options struct {
	// Bus is the number of the bus, and Socket its supervisor's; "" is
	// [ksock.DefaultSocket].
	Bus    int
	Socket string
	// NetworkID tells this bus from all others that can be reached from it: not 0,
	// and different for every Limpet of the network (R8.8).
	NetworkID uint32
	// Name is of the messages that are passed on, and may be a wildcard; "" is $.*.
	// Requests for the names that are proxied, and their answers, pass whatever it is.
	Name string
	// Terminate is the message at which the Limpet ends, if it is not "" (R8.11). It
	// has to be one of those that are passed on.
	Terminate string
	// Connect makes the links.
	Connect Connector
	// MaxMessages is how many messages may wait for a slow link; what comes then is
	// missed, or refused (section 6). 0 is what a new Ksock has.
	MaxMessages uint32
	// MaxData is the largest data of a frame, in bytes; 0 is [MaxData].
	MaxData uint32
	// Logger is told what happens: at Info that the Limpet begins, connects and ends,
	// at Warn and Error what an operator should know, each once, at Debug every
	// message. nil: nothing.
	Logger *slog.Logger
}

// ErrTerminated says that the message at which the Limpet should end has come (R8.11).
var ErrTerminated = errors.New("limpet: told to end")

// Stats is what a Limpet has done since it was started, and how it stands.
type Stats struct {
	Bus         int      `json:"bus"`
	NetworkID   uint32   `json:"network_id"`
	Name        string   `json:"name"`
	Link        string   `json:"link"`  // where it connects or listens
	State       string   `json:"state"` // "linked", or what is waited for
	Peer        uint32   `json:"peer"`  // the other's network id; 0 while there is no link
	Ksock       uint32   `json:"ksock"` // 0 while there is none
	Proxied     []string `json:"proxied"`
	FramesIn    uint64   `json:"frames_in"`
	FramesOut   uint64   `json:"frames_out"`
	BytesIn     uint64   `json:"bytes_in"`
	BytesOut    uint64   `json:"bytes_out"`
	Refused     uint64   `json:"refused"`     // from the link, and the bus did not take them (R8.6)
	Looped      uint64   `json:"looped"`      // dropped because they had been here (R8.8)
	Waiting     int      `json:"waiting"`     // Requests passed on and not answered
	Reconnected uint64   `json:"reconnected"` // links that ended and were made anew
	ToBeBound   int      `json:"to_be_bound"` // proxied names whose binding is being tried again
	NamesTaken  []string `json:"names_taken"` // names with a Replier on both sides
}

// A Limpet joins its bus to another.
type Limpet struct {
	o   Options
	log *slog.Logger

	framesIn, framesOut, bytesIn, bytesOut, refused, looped, reconnected atomic.Uint64

	mu    sync.Mutex
	state string
	now   *session
	told  map[string]bool
}

// New makes a Limpet; [Limpet.Run] lets it work.
func New(o Options) (*Limpet, error) {
	if o.NetworkID == 0 {
		return nil, errors.New("limpet: network id 0 is not allowed: choose one that no other Limpet of the network has")
	}
	if o.Name == "" {
		o.Name = "$.*"
	}
	if o.MaxData == 0 {
		o.MaxData = MaxData
	}
	l := &Limpet{o: o, log: o.Logger, told: map[string]bool{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l, nil
}

// Stats may be called at any time.
func (l *Limpet) Stats() Stats {
	s := Stats{
		Bus: l.o.Bus, NetworkID: l.o.NetworkID, Name: l.o.Name,
		FramesIn: l.framesIn.Load(), FramesOut: l.framesOut.Load(), BytesIn: l.bytesIn.Load(), BytesOut: l.bytesOut.Load(),
		Refused: l.refused.Load(), Looped: l.looped.Load(), Reconnected: l.reconnected.Load(),
	}
	if l.o.Connect != nil {
		s.Link = l.o.Connect.String()
	}
	l.mu.Lock()
	s.State = l.state
	now := l.now
	l.mu.Unlock()
	if now != nil {
		s.Ksock, s.Peer = now.k.ID(), now.peer.Load()
		s.Proxied, s.NamesTaken, s.ToBeBound = now.names.list()
		s.Waiting = now.asked.count()
	}
	return s
}

// procs is how many threads a Limpet wants to run Go code: two goroutines of its
// are in system calls most of the time, and two more may be at once.
const procs = 4

// OwnProcess is for a process that does nothing but run a Limpet: it raises
// [runtime.GOMAXPROCS] to 4 on a smaller machine, unless the environment sets it.
// The kernel has a Limpet wait for some microseconds again and again. If as many
// goroutines wait as there may be threads, Go's runtime takes their places away
// every 20 µs, so that a thread has to look for one after every wait: on two CPUs
// that was a sixth of the time of a stream.
func OwnProcess() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < procs {
		runtime.GOMAXPROCS(procs)
	}
}

// Pauses between attempts grow from the first to the last, each a random part
// shorter, so that many who wait for one do not come together.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 3 * time.Second
	// A link that held so long was a good one: the next attempt is at once.
	goodTime = time.Second
)

// pause grows and waits; false if ctx ended.
func pause(ctx context.Context, p *time.Duration) bool {
	*p = min(max(2**p, firstPause), lastPause)
	t := time.NewTimer(*p - rand.N(*p/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Run joins the buses until ctx ends, or the terminating message comes; then it
// returns nil. It begins anew whatever ends a link, with a new Ksock each time, and
// waits for whatever is not there yet: supervisor, bus, other Limpet. So it fails
// only if the Limpet can't work at all.
func (l *Limpet) Run(ctx context.Context) error {
	l.log.Info("begins", "bus", l.o.Bus, "network_id", l.o.NetworkID, "name", l.o.Name)
	defer func() { l.setState("ended"); l.log.Info("ends", "bus", l.o.Bus, "network_id", l.o.NetworkID) }()
	var p time.Duration
	for n := 0; ctx.Err() == nil; n++ {
		if n > 0 && !pause(ctx, &p) {
			break
		}
		k := l.open(ctx, &p)
		if k == nil {
			break
		}
		err := l.link(ctx, k, &p)
		k.Close()
		switch {
		case errors.Is(err, ErrTerminated):
			l.log.Info("the message at which to end has come", "message", l.o.Terminate)
			return nil
		case ctx.Err() != nil:
		case errors.Is(err, errUnfit):
			l.tell("this bus", err, "this bus can't be joined")
		default:
			l.reconnected.Add(1)
			l.tell("link", err, "the link ended; connecting anew")
		}
	}
	return nil
}

// open opens a Ksock, as soon as that can be done; nil if ctx ended.
func (l *Limpet) open(ctx context.Context, p *time.Duration) *ksock.Ksock {
	for {
		try, cancel := context.WithTimeout(ctx, connectTime)
		// Between two messages there is a link: looking for the next one for a few
		// microseconds only keeps the CPU from those who are to send it.
		k, err := ksock.Open(try, l.o.Bus, &ksock.Options{Socket: l.o.Socket, Logger: l.log, Spin: -1})
		cancel()
		if err == nil {
			l.forget("bus")
			return k
		}
		if ctx.Err() != nil {
			return nil
		}
		l.setState(fmt.Sprintf("waiting for bus %d", l.o.Bus))
		text := "waiting for the bus"
		if errors.Is(err, ksock.ErrNoBus) {
			text = "waiting for the bus, which has to be made (kbus up --buses)"
		}
		l.tell("bus", err, text)
		if !pause(ctx, p) {
			return nil
		}
	}
}

// link makes a link and serves it.
func (l *Limpet) link(ctx context.Context, k *ksock.Ksock, p *time.Duration) error {
	for {
		l.setState("waiting for the other Limpet")
		if l.first("wait", "") {
			l.log.Info("waiting for the other Limpet, " + l.o.Connect.String())
		}
		link, err := l.o.Connect.Connect(ctx)
		if err == nil {
			begun := time.Now()
			err = l.Serve(ctx, k, link)
			if time.Since(begun) > goodTime {
				*p = 0
				l.forget("link", "this bus", "wait")
			}
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.tell("connect", err, "waiting for the other Limpet")
		if !pause(ctx, p) {
			return context.Cause(ctx)
		}
	}
}

func (l *Limpet) setState(s string) {
	l.mu.Lock()
	l.state = s
	l.mu.Unlock()
}

// tell warns once of each trouble of a kind, until it is over (forget).
func (l *Limpet) tell(kind string, err error, text string, args ...any) {
	if l.first(kind, trouble(err)) {
		l.log.Warn(text, append(args, "err", err)...)
	}
}

// first tells whether it is asked about this for the first time since the kind was
// forgotten.
func (l *Limpet) first(kind, what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := kind + "\x00" + what
	told := l.told[key]
	if len(l.told) >= 1000 {
		clear(l.told)
	}
	l.told[key] = true
	return !told
}

// trouble tells troubles apart. The text of an error may name the port of the one
// attempt that it is of.
func trouble(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + " " + op.Err.Error()
	}
	return err.Error()
}

// forget: troubles of that kind are told anew from now on.
func (l *Limpet) forget(kinds ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range kinds {
		for key := range l.told {
			if len(key) > len(kind) && key[:len(kind)+1] == kind+"\x00" {
				delete(l.told, key)
			}
		}
	}
}
