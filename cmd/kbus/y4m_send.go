package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"kbus.internal/cmd/internal/y4m"
	"kbus.internal/ksock"
)

// videoSender sends one stream; package y4m says how it travels.
type videoSender struct {
	k    *ksock.Ksock
	name string
	rate y4m.Ratio // 0:0: the stream's own
	fast bool

	stream uint64
	line   string // the stream's header

	mu     sync.Mutex // who sends: the reading goroutine, or the end
	ended  bool
	number uint64 // of the next frame
	unsent int    // frames for which the bus had no memory
	asked  []*ksock.Message
}

func (s *videoSender) run(ctx context.Context, in io.Reader) error {
	if err := s.k.Bind(ctx, s.name+y4m.EndSuffix, ksock.Replier); err != nil {
		if errors.Is(err, ksock.ErrReplierExists) {
			return fmt.Errorf("somebody is sending a video as %s already: %w", s.name, err)
		}
		return err
	}
	s.stream = rand.Uint64()
	err := untilInterrupted(ctx, func() error { return s.frames(ctx, in) })
	if err != nil && !interrupted(ctx, err) {
		return err // no End: receivers learn that the sender is gone
	}
	if endErr := s.end(ctx); endErr != nil {
		return endErr
	}
	fmt.Fprintf(os.Stderr, "sent %s\n", plural(int(s.number)-s.unsent, "frame"))
	if s.unsent > 0 {
		fmt.Fprintf(os.Stderr, "%s could not be sent: the bus had no memory left (kbus stat shows whose queues hold it)\n", plural(s.unsent, "frame"))
		return errQuiet
	}
	if err != nil {
		return errors.New("interrupted before the stream's end")
	}
	return nil
}

// frames reads the stream to its end and sends each frame when it is due.
func (s *videoSender) frames(ctx context.Context, in io.Reader) error {
	r, err := y4m.NewReader(in)
	if err != nil {
		return inputError(err)
	}
	s.mu.Lock()
	s.line = r.Header().Line
	s.mu.Unlock()
	rate := s.rate
	if rate == (y4m.Ratio{}) {
		rate = r.Header().Rate
	}
	if rate == (y4m.Ratio{}) && !s.fast {
		return errors.New("the stream does not name its rate; give it by --rate FPS, or use --fast")
	}
	var start time.Time
	for n := uint64(0); ; n++ {
		params, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return inputError(err)
		}
		p := y4m.Packet{Kind: y4m.Frame, Stream: s.stream, Number: n, Header: s.line, Params: params}
		loan, err := s.loan(ctx, p.PrefixSize()+r.Header().FrameSize())
		if errors.Is(err, ksock.ErrNoMemory) {
			// A live source does not wait: receivers see the gap in the numbers.
			if err := r.Skip(); err != nil {
				return inputError(err)
			}
			s.mu.Lock()
			s.unsent++
			s.number = n + 1
			s.mu.Unlock()
			continue
		}
		if err != nil {
			return err
		}
		if err := r.ReadFrame(p.PutPrefix(loan.Data())); err != nil {
			loan.Release()
			return inputError(err)
		}
		if start.IsZero() {
			start = time.Now()
		}
		if !s.fast {
			if err := until(ctx, start.Add(y4m.Due(n, rate))); err != nil {
				loan.Release()
				return err
			}
		}
		if err := s.send(ctx, n, loan); err != nil {
			return err
		}
	}
}

// loan lends the memory for a frame. A fast sender waits for it.
func (s *videoSender) loan(ctx context.Context, size int) (ksock.Loan, error) {
	for {
		loan, err := s.k.Loan(size)
		if !s.fast || !errors.Is(err, ksock.ErrNoMemory) {
			return loan, err
		}
		if err := until(ctx, time.Now().Add(time.Millisecond)); err != nil {
			return ksock.Loan{}, err
		}
	}
}

func (s *videoSender) send(ctx context.Context, n uint64, loan ksock.Loan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		loan.Release()
		return context.Canceled
	}
	if err := s.collect(); err != nil {
		loan.Release()
		return err
	}
	if _, err := s.k.SendLoan(ctx, &ksock.Header{Name: s.name, Flags: s.flags()}, loan); err != nil {
		return err
	}
	s.number = n + 1
	return nil
}

func (s *videoSender) flags() uint32 {
	if s.fast {
		return ksock.AllOrWait
	}
	return 0
}

// collect keeps the Requests of those who want to be told of the end.
func (s *videoSender) collect() error {
	for {
		m, err := s.k.TryNext()
		if err != nil || m == nil {
			return err
		}
		if m.MustReply() {
			s.asked = append(s.asked, m)
		}
	}
}

// end tells everybody that the stream has ended: who listens, and who asked.
func (s *videoSender) end(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.line == "" {
		return nil // it had not begun
	}
	p := y4m.Packet{Kind: y4m.End, Stream: s.stream, Number: s.number, Header: s.line}
	data := make([]byte, p.PrefixSize())
	p.PutPrefix(data)
	m := ksock.Announce(s.name, data)
	m.Flags |= s.flags()
	_, err := s.k.Send(ctx, m)
	if interrupted(ctx, err) { // whoever has no room misses it
		m.Flags = 0
		_, err = s.k.Send(context.WithoutCancel(ctx), m)
	}
	if err != nil {
		return err
	}
	// Whoever asks after this finds no Replier, and the End in its queue.
	if err := s.collect(); err != nil {
		return err
	}
	for _, request := range s.asked {
		_, err := s.k.Send(context.WithoutCancel(ctx), ksock.ReplyTo(request, data))
		if err != nil && !errors.Is(err, ksock.ErrAskerGone) {
			fmt.Fprintf(os.Stderr, "kbus: tell Ksock %d of the end: %v\n", request.From, err)
		}
	}
	return nil
}

// until waits for a moment, or for the end of ctx.
func until(ctx context.Context, due time.Time) error {
	wait := time.Until(due)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
