package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
)

// Pair is what a pair of Limpets does, beside what that is made of.
type Pair struct {
	Bus *Latency `json:"one_bus"`       // Request and Reply within one bus
	TCP *Latency `json:"tcp_ping_pong"` // messages of the same size over plain TCP
	// LatencyRatio is the median over that of TCP plus two buses.
	LatencyRatio float64 `json:"latency_ratio"`
	TCPPerSecond float64 `json:"tcp_per_second"` // in a stream over plain TCP
	StreamRatio  float64 `json:"stream_ratio"`   // time for a message, over that of TCP
}

// Limpet measures two buses that a pair of Limpets joins over TCP loopback: a
// Request and its Reply from one to the other, and a stream of announcements.
// Beside it, by turns: the same Request within one bus, and messages of the same
// size over plain TCP, to and fro and in a stream. Asker, Replier and each
// Limpet are processes of their own. Each of the five takes a fifth of Duration.
func Limpet(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "limpet", func(s *stage) error {
		s.o.Copy = false
		s.o.Duration /= 5
		r, p := s.result, &Pair{}
		r.ofMessages(s.o)
		r.Wait, r.Pair = s.o.Wait, p
		if s.o.Size == 0 {
			return fmt.Errorf("%w: there is no TCP message of 0 bytes", ErrOptions)
		}
		if err := s.bus(); err != nil {
			return err
		}
		if _, err := ksock.NewBus(s.ctx, s.socket(), nil); err != nil {
			return err
		}
		var err error
		if p.TCP, err = s.tcpPingPong(); err != nil {
			return err
		}
		if p.Bus, err = s.roundTrip(); err != nil {
			return err
		}
		reports, err := s.across("replier", "asker")
		if err != nil {
			return err
		}
		r.Latency = reports[1].Latencies[""]
		p.LatencyRatio = ratio(r.P50, p.TCP.P50+2*p.Bus.P50)
		if p.TCPPerSecond, err = s.tcpStream(); err != nil {
			return err
		}
		if reports, err = s.across("drain", "spring"); err != nil {
			return err
		}
		r.PerSecond, r.Sent = reports[0].perSecond(), reports[1].Messages
		r.Missed = r.Sent - reports[0].Messages
		p.StreamRatio = p.TCPPerSecond / max(r.PerSecond, 1)
		return nil
	})
}

// roundTrip is RTT on a stage with a bus.
func (s *stage) roundTrip() (*Latency, error) {
	if err := s.enter("asker", "replier"); err != nil {
		return nil, err
	}
	l, _, err := s.ask()
	return l, err
}

// across lets far play on bus 1 and near on bus 0, with a pair of Limpets in between.
func (s *stage) across(far, near string) ([]*report, error) {
	for i, role := range []string{far, near} {
		s.onBus = 1 - i
		if err := s.enter(role); err != nil {
			return nil, err
		}
	}
	s.address = "" // the first Limpet listens, the second connects to it
	for bus := range 2 {
		s.onBus = bus
		if err := s.start("limpet", nil, &s.extras); err != nil {
			return nil, err
		}
	}
	s.onBus = 0
	return s.play()
}

// serveLimpet is a Limpet until the parent ends it. The messages that it counts are
// frames, in and out.
func serveLimpet(w *worker) (*report, error) {
	limpet.OwnProcess()
	var words warnings
	o := limpet.Options{
		Bus: w.Bus, Socket: w.Socket, NetworkID: uint32(w.Bus + 1), MaxMessages: fanQueue,
		Logger: slog.New(slog.NewTextHandler(&words, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	ready := report{}
	if w.Address == "" {
		l, err := limpet.Listen(loopback, nil)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		o.Connect, ready.Address = l, l.Addr()
	} else {
		o.Connect = limpet.Dial(w.Address, nil)
	}
	l, err := limpet.New(o)
	if err != nil {
		return nil, err
	}
	if err := w.begin(ready); err != nil {
		return nil, err
	}
	err = l.Run(w.ctx)
	stats := l.Stats()
	switch {
	case err != nil:
	case stats.Refused > 0:
		err = fmt.Errorf("the bus refused %d messages", stats.Refused)
	case stats.FramesIn == 0:
		err = errors.New("no frame came: " + string(words))
	}
	return &report{Messages: int64(stats.FramesIn + stats.FramesOut)}, err
}

// warnings keeps the beginning of what a Limpet complains of.
type warnings []byte

func (w *warnings) Write(p []byte) (int, error) {
	*w = append(*w, p[:min(len(p), mostWords-min(len(*w), mostWords))]...)
	return len(p), nil
}

var _ io.Writer = (*warnings)(nil)

// joined waits until a name that is bound on the other bus has a Replier on this one.
func (w *worker) joined(k *ksock.Ksock, name string) error {
	if w.Bus == 1 {
		return nil // it is bound here
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if id, err := k.Replier(name); err != nil || id != 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

// A stream's messages that are on their way at most, and how many of them are
// acknowledged at once: a Limpet drops what finds no room at the other end, so the
// two ends agree on how much they have under way.
const (
	streamMost  = 2048
	streamBytes = 16 << 20
)

func (w *worker) underWay() (most, step uint64) {
	most = uint64(min(max(streamBytes/w.Size, 4), streamMost))
	return most, most / 4
}

const (
	streamName = "$.Bench.Stream"
	ackName    = "$.Bench.Ack"
	sinkName   = "$.Bench.Sink"
)

func spring(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if err := e.k.Bind(w.ctx, ackName, ksock.Listener); err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	if err := w.joined(e.k, sinkName); err != nil {
		return nil, err
	}
	h := ksock.Header{Name: streamName, Flags: ksock.AllOrWait}
	most, step := w.underWay()
	n, acked := uint64(0), uint64(0)
	for begin := now(); now()-begin < int64(w.Duration) || n < 3; { // a rate takes a few
		for n-acked >= most {
			v, err := e.k.View(w.ctx)
			if err != nil {
				return nil, err
			}
			v.Release()
			acked += step
		}
		n++
		if err := e.send(&h, n); err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n)}, e.finish(endName)
}

func drain(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	if _, err := e.k.SetMaxMessages(w.ctx, fanQueue); err != nil {
		return nil, err
	}
	for _, name := range []string{streamName, endName} {
		if err := e.k.Bind(w.ctx, name, ksock.Listener); err != nil {
			return nil, err
		}
	}
	if err := e.k.Bind(w.ctx, sinkName, ksock.Replier); err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	n, begun, begin, over := uint64(0), uint64(0), int64(0), false
	most, step := w.underWay()
	check := func(h *ksock.Header, data []byte) error {
		if h.Name == endName {
			over = true
			return nil
		}
		if n++; !marked(data, w.Size, n) {
			return fmt.Errorf("another message than number %d", n)
		}
		return nil
	}
	ack := ksock.Announce(ackName, nil)
	ack.Flags |= ksock.AllOrWait
	for !over {
		if err := e.receive(check); err != nil {
			return nil, err
		}
		if begin == 0 || n == most && begun < n { // by then the memory is there
			begin, begun = now(), n
		}
		if n%step == 0 && !over {
			if _, err := e.k.Send(w.ctx, ack); err != nil {
				return nil, err
			}
		}
	}
	return &report{Messages: int64(n), Timed: int64(n - begun), Elapsed: time.Duration(now() - begin)}, nil
}
