package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// OneWay measures the way of announcements from one process through Stages others
// to a Listener, by a clock that they share. Each stage fills a message of its
// own in place from one that it reads in place. With a Rate, a time begins when
// the message was to be sent, whenever it was: so a delay counts for each message
// that it made late (coordinated omission). Without, messages are sent as fast as
// the Listener takes them, and a time is mostly spent in queues.
func OneWay(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "oneway", func(s *stage) error {
		if s.o.Slow > 0 || s.o.Stopped > 0 {
			return fmt.Errorf("%w: Listeners that do not keep up are for mix", ErrOptions)
		}
		if err := s.result.ofWay(s.o); err != nil {
			return err
		}
		s.result.Stages = s.o.Stages
		return s.oneWay(s.result)
	})
}

// Mix measures the same way, without stages, beside Slow and Stopped Listeners to
// the same messages, and before that alone; half of the time each. Nobody waits
// for those who do not keep up.
func Mix(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "mix", func(s *stage) error {
		switch {
		case s.o.Slow+s.o.Stopped == 0:
			return fmt.Errorf("%w: neither slow nor stopped Listeners", ErrOptions)
		case s.o.Rate == 0:
			return fmt.Errorf("%w: as fast as it goes nobody keeps up: a rate is needed", ErrOptions)
		}
		r := s.result
		if err := r.ofWay(s.o); err != nil {
			return err
		}
		r.Slow, r.Stopped = s.o.Slow, s.o.Stopped
		with := s.o
		with.Stages, with.Duration = 0, s.o.Duration/2
		s.o = with
		s.o.Slow, s.o.Stopped = 0, 0
		alone := &Result{}
		if err := s.oneWay(alone); err != nil {
			return err
		}
		s.o = with
		if err := s.oneWay(r); err != nil {
			return err
		}
		r.Alone = alone.Latency
		r.Sent += alone.Sent
		r.Missed += alone.Missed
		return nil
	})
}

// ofWay takes over what the messages are like.
func (r *Result) ofWay(o Options) error {
	if o.Size < waySize {
		return fmt.Errorf("%w: messages of %d bytes: these carry times, and have %d at least", ErrOptions, o.Size, waySize)
	}
	r.ofMessages(o)
	r.Wait, r.Rate = o.Wait, o.Rate
	return nil
}

func (s *stage) oneWay(r *Result) error {
	roles := append([]string{"source"}, slices.Repeat([]string{"stage"}, s.o.Stages)...)
	if err := s.set(append(roles, "sink")...); err != nil {
		return err
	}
	reports, err := s.play()
	if err != nil {
		return err
	}
	from, to := reports[0], reports[len(reports)-1]
	r.Latency, r.Uncorrected = to.Latencies["due"], to.Latencies["sent"]
	r.Skew = from.Skew + to.Skew
	r.count([]*report{to}, from.Messages)
	return nil
}

// What a message carries, in words of eight bytes: its number, when it was to be
// sent, when it was, and at its end its number again.
const (
	wayDue  = 8
	waySent = 16
	waySize = 32
)

// hopName is the name of what the source, or the stage before, sends.
func hopName(hop int) string { return fmt.Sprintf("$.Bench.Hop%d", hop) }

// lastName is that of the end of it.
func lastName(hop int) string { return fmt.Sprintf("$.Bench.Last%d", hop) }

// window is how many messages wait in each queue at most, such that all of them
// find room in the memory of the bus.
func (w *worker) window() uint32 {
	const room = 128 << 20
	return uint32(min(max(room/(w.Size+4096)/(w.Stages+1), 2), fanQueue))
}

// A shared clock is CLOCK_MONOTONIC, which all processes see alike, read by way of
// this process's own, which is quicker.
type sharedClock struct{ offset, skew int64 }

// newSharedClock compares both clocks again and again: the true offset is in each
// of the intervals found, and so in what all of them have in common.
func newSharedClock() (sharedClock, error) {
	low, high := int64(-1<<62), int64(1<<62)
	for range 10_000 {
		var t unix.Timespec
		before := now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
			return sharedClock{}, fmt.Errorf("clock_gettime: %w", err)
		}
		low, high = max(low, t.Nano()-now()), min(high, t.Nano()-before)
	}
	return sharedClock{low + (high-low)/2, (high - low + 1) / 2}, nil
}

func (c sharedClock) now() int64 { return now() + c.offset }

// flags are those of messages on the way: all are waited for who are to keep up.
func (w *worker) flags() uint32 {
	if w.Workload == "mix" {
		return 0
	}
	return ksock.AllOrWait
}

func source(w *worker) (*report, error) {
	e, err := w.openEnd()
	if err != nil {
		return nil, err
	}
	clock, err := newSharedClock()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	h := ksock.Header{Name: w.name(hopName(0)), Flags: w.flags()}
	whole := int64(w.Duration) * 11 / 10 // with the warm-up
	n, begin, measured := uint64(0), clock.now(), false
	for {
		due := clock.now()
		if w.Rate > 0 {
			due = begin + int64(float64(n)*1e9/w.Rate)
			w.until(clock, due)
		}
		// Who can't keep to the rate at all is to come to an end nevertheless.
		if measured && (due-begin >= whole || clock.now()-begin >= 2*whole) {
			break
		}
		n++
		measured = measured || due-begin >= w.warmUp()
		err := e.put(&h, n, func(data []byte) {
			binary.LittleEndian.PutUint64(data[wayDue:], uint64(due))
			binary.LittleEndian.PutUint64(data[waySent:], uint64(clock.now()))
		})
		if err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n), Skew: clock.skew}, e.finish(lastName(0))
}

// warmUp is for how long, in ns, times do not count.
func (w *worker) warmUp() int64 { return int64(w.Duration) / 10 }

// early is how long before its time a sender that may sleep wakes up.
const early = 200 * time.Microsecond

// until waits for a time, in the end by looking at the clock again and again.
func (w *worker) until(clock sharedClock, t int64) {
	for {
		left := t - clock.now()
		if left <= 0 {
			return
		}
		if w.Wait != Spin && left > 2*int64(early) {
			time.Sleep(time.Duration(left) - early)
		}
	}
}

// relay is a stage: it passes on what it gets.
func relay(w *worker) (*report, error) {
	e, err := w.openListener(w.window(), hopName(w.Index), lastName(w.Index))
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	n, over := uint64(0), false
	out := ksock.Header{Name: w.name(hopName(w.Index + 1)), Flags: w.flags()}
	pass := func(h *ksock.Header, data []byte) error {
		if h.Name == lastName(w.Index) {
			over = true
			return nil
		}
		if n++; !marked(data, w.Size, n) {
			return fmt.Errorf("another message than number %d", n)
		}
		return e.put(&out, n, func(to []byte) { copy(to[wayDue:waySent+8], data[wayDue:waySent+8]) })
	}
	for !over {
		if err := e.receive(pass); err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n)}, e.finish(lastName(w.Index + 1))
}

func sink(w *worker) (*report, error) { return w.collect(func(uint64) {}) }

// collect takes the times of what comes; seen is told of each message's number.
func (w *worker) collect(seen func(uint64)) (*report, error) {
	hop := w.Stages
	e, err := w.openListener(w.window(), hopName(hop), lastName(hop))
	if err != nil {
		return nil, err
	}
	clock, err := newSharedClock()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	fromDue, fromSent := newRecorder(1), newRecorder(1)
	count, last, begin, over := int64(0), uint64(0), int64(0), false
	check := func(h *ksock.Header, data []byte) error {
		t := clock.now()
		if h.Name == lastName(hop) {
			over = true
			return nil
		}
		if len(data) < waySize {
			return fmt.Errorf("a message of %d bytes", len(data))
		}
		n := binary.LittleEndian.Uint64(data)
		if n <= last || !marked(data, w.Size, n) || w.flags() != 0 && n != last+1 {
			return fmt.Errorf("message %d after number %d", n, last)
		}
		last = n
		seen(n)
		due, sent := int64(binary.LittleEndian.Uint64(data[wayDue:])), int64(binary.LittleEndian.Uint64(data[waySent:]))
		if count++; count == 1 {
			begin = due
		}
		if due-begin >= w.warmUp() {
			fromDue.add(t - due)
			fromSent.add(t - sent)
		}
		return nil
	}
	for !over {
		if err := e.receive(check); err != nil {
			return nil, err
		}
	}
	r := &report{Messages: count, Elapsed: time.Duration(clock.now() - begin), Skew: clock.skew, Latencies: map[string]*Latency{}}
	if r.Latencies["due"], err = fromDue.latency(); err == nil && w.Rate > 0 {
		r.Latencies["sent"], err = fromSent.latency()
	}
	return r, err
}
