package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Floor measures what the machine can do without a bus: half of the time the
// round trip between two processes (of a cache line for Spin, of a futex that
// each sleeps on for Sleep), then a copy of Size bytes, then a bare ring with
// Listeners readers, in which nobody sleeps. Adaptive waiting has no floor.
func Floor(ctx context.Context, o Options) (*Result, error) {
	if o.Wait == Adaptive || o.Wait == "" {
		return nil, fmt.Errorf("%w: the floors are spin and sleep", ErrOptions)
	}
	return measure(ctx, o, "floor", func(s *stage) (err error) {
		r, whole := s.result, s.o.Duration
		r.System, r.Size, r.Wait, r.Readers = Machinery, s.o.Size, s.o.Wait, s.o.Listeners
		s.o.Duration = whole / 2
		if r.Latency, err = s.pingPong(); err != nil {
			return err
		}
		s.o.Duration = whole / 4
		if r.Memcpy, err = s.memcpy(); err != nil {
			return err
		}
		r.Ring, err = s.ring()
		return err
	})
}

// Words of the region that the round trip uses, each in a line of its own; the
// neighbour line is left free, too: CPUs fetch in pairs.
const (
	pingWord = 0
	pongWord = 16
	stopped  = 1 << 63 // in place of a number
)

func (s *stage) pingPong() (*Latency, error) {
	if err := s.memory(4096); err != nil {
		return nil, err
	}
	if err := s.enter("pong", "ping"); err != nil {
		return nil, err
	}
	r, err := s.play()
	if err != nil {
		return nil, err
	}
	return r[1].Latencies[""], nil
}

// await waits until the word is not old, and returns what it is.
func (w *worker) await(word *shm.Word, old uint64) (uint64, error) {
	for {
		v := word.Load()
		if v != old {
			return v, nil
		}
		if w.Wait == Spin {
			shm.Pause(1)
		} else if err := word.Wait(uint32(old), time.Hour); err != nil {
			return 0, err
		}
	}
}

func (w *worker) set(word *shm.Word, v uint64) {
	word.Store(v)
	if w.Wait != Spin {
		word.Wake()
	}
}

func ping(w *worker) (*report, error) {
	there, back := &w.mem.Words()[pingWord], &w.mem.Words()[pongWord]
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	defer w.set(there, stopped)
	n := uint64(0)
	return w.timed(1, step{do: func() error {
		n++
		w.set(there, n)
		v, err := w.await(back, n-1)
		if err == nil && v != n {
			return fmt.Errorf("%d came back instead of %d", v, n)
		}
		return err
	}})
}

func pong(w *worker) (*report, error) {
	there, back := &w.mem.Words()[pingWord], &w.mem.Words()[pongWord]
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	for n := uint64(0); ; n++ {
		v, err := w.await(there, n)
		if err != nil {
			return nil, err
		}
		if v == stopped {
			return &report{Messages: int64(n)}, nil
		}
		w.set(back, v)
	}
}

func (s *stage) memcpy() (*Latency, error) {
	if err := s.memory(max(4096, int64(s.o.Size+7)&^7)); err != nil {
		return nil, err
	}
	if err := s.enter("copier"); err != nil {
		return nil, err
	}
	r, err := s.play()
	if err != nil {
		return nil, err
	}
	return r[0].Latencies[""], nil
}

// copier copies so often between two looks at the clock that it takes a
// microsecond or so.
func copier(w *worker) (*report, error) {
	from, to := make([]byte, w.Size), w.mem.Bytes()[:w.Size]
	for i := range from {
		from[i] = byte(i)
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	batch := int64(min(max(16<<10/max(w.Size, 1), 1), 128))
	return w.timed(batch, step{do: func() error {
		for range batch {
			copy(to, from)
		}
		return nil
	}})
}

// The ring: a cursor for each reader, and slots of 64 bytes, the first word of
// which is the number of the message, written last.
const (
	ringSlots   = 1 << 15
	slotWords   = 8
	cursorWords = 16
	ringWords   = MaxListeners*cursorWords + ringSlots*slotWords
	ringCheck   = 64 // messages between two stores to a cursor
)

func (s *stage) ring() (float64, error) {
	if err := s.memory(ringWords * 8); err != nil {
		return 0, err
	}
	if err := s.enter("producer"); err != nil {
		return 0, err
	}
	if err := s.enter(slices.Repeat([]string{"reader"}, s.o.Listeners)...); err != nil {
		return 0, err
	}
	reports, err := s.play()
	if err != nil {
		return 0, err
	}
	return slowest(reports[1:], reports[0].Messages)
}

// slowest is the rate of the slowest reader, all of which have to have got what was sent.
func slowest(readers []*report, sent int64) (perSecond float64, err error) {
	for i, r := range readers {
		if r.Messages != sent {
			return 0, fmt.Errorf("reader %d got %d of %d messages", i+1, r.Messages, sent)
		}
		if each := rate(r.Messages, r.Elapsed); i == 0 || each < perSecond {
			perSecond = each
		}
	}
	return perSecond, nil
}

// relax is for the ring's processes, which may be more than there are CPUs:
// after some looks let others run.
func relax(looks int) {
	if looks%1000 != 999 {
		shm.Pause(1)
		return
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	runtime.Gosched()
}

func slot(words []shm.Word, n uint64) []shm.Word {
	at := MaxListeners*cursorWords + n%ringSlots*slotWords
	return words[at : at+slotWords : at+slotWords]
}

func producer(w *worker) (*report, error) {
	words := w.mem.Words()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	begin, read, n := now(), uint64(0), uint64(0)
	for {
		n++
		for looks := 0; n > read+ringSlots; looks++ {
			read = n
			for i := range w.Listeners {
				read = min(read, words[i*cursorWords].Load())
			}
			if n > read+ringSlots {
				relax(looks)
			}
		}
		s := slot(words, n)
		if n%1024 == 0 && now()-begin > int64(w.Duration) {
			s[0].Store(n | stopped)
			return &report{Messages: int64(n), Elapsed: time.Duration(now() - begin)}, nil
		}
		for i := 1; i < slotWords; i++ {
			s[i].Put(n)
		}
		s[0].Store(n)
	}
}

func reader(w *worker) (*report, error) {
	words := w.mem.Words()
	cursor := &words[w.Index*cursorWords]
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	begin := int64(0)
	for n := uint64(1); ; n++ {
		s := slot(words, n)
		looks := 0
		for s[0].Load()&^stopped != n {
			relax(looks)
			looks++
		}
		if n == 1 {
			begin = now()
		}
		if s[0].Load() == n|stopped {
			return &report{Messages: int64(n), Elapsed: time.Duration(now() - begin)}, nil
		}
		for i := 1; i < slotWords; i++ {
			if s[i].Load() != n {
				return nil, errors.New("a message was overwritten before it was read")
			}
		}
		if n%ringCheck == 0 {
			cursor.Store(n)
		}
	}
}
