package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"kbus.internal/cmd/internal/y4m"
	"kbus.internal/ksock"
)

// videoReceiver receives one stream; package y4m says how it travels.
type videoReceiver struct {
	k    *ksock.Ksock
	name string
	out  io.Writer

	w      *y4m.Writer     // nil until the first message of the stream
	stream uint64          // its number
	sender uint32          // its sender's Ksock
	asked  ksock.MessageID // the Request for the end; zero: not sent yet
	gone   bool            // the sender is gone: what it sent is in the queue

	mu    sync.Mutex // the books, for who tells of them
	books videoBooks
}

type videoBooks struct {
	first   uint64 // number of the first frame heard
	next    uint64 // number that the next frame should have
	frames  int    // written
	missed  uint64
	foreign int // messages of that name that are of no video, or of another
}

var errSenderGone = errors.New("the sender went away without ending the stream")

func (r *videoReceiver) run(ctx context.Context) error {
	if err := r.k.Bind(ctx, r.name, ksock.Listener); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening")
	err := untilInterrupted(ctx, func() error { return r.receive(ctx) })

	r.mu.Lock()
	b := r.books
	r.mu.Unlock()
	fmt.Fprintf(os.Stderr, "received %s, missed %d\n", plural(b.frames, "frame"), b.missed)
	if b.first > 0 {
		fmt.Fprintf(os.Stderr, "joined at frame %d\n", b.first)
	}
	if b.foreign > 0 {
		fmt.Fprintf(os.Stderr, "passed over %s named %s of no video or of another\n", plural(b.foreign, "message"), r.name)
	}
	switch {
	case interrupted(ctx, err):
		return errors.New("interrupted before the stream's end")
	case err == nil && b.missed > 0:
		return errQuiet
	}
	return err
}

func (r *videoReceiver) book(change func(b *videoBooks)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.books)
}

// receive receives until the stream's end.
func (r *videoReceiver) receive(ctx context.Context) error {
	for {
		v, err := r.next(ctx)
		if err != nil {
			return err
		}
		ended, err := r.message(v)
		v.Release() // before asking, so that there is room for the answer
		if err != nil || ended {
			return err
		}
		if err := r.ask(ctx); err != nil {
			return err
		}
	}
}

// next waits for a message, but not for one of a sender that is gone.
func (r *videoReceiver) next(ctx context.Context) (ksock.View, error) {
	if !r.gone {
		return r.k.View(ctx)
	}
	v, ok, err := r.k.TryView()
	if err == nil && !ok {
		err = errSenderGone
	}
	return v, err
}

// ask asks the sender to tell of the end, as soon as there is a sender, and
// room for the answer.
func (r *videoReceiver) ask(ctx context.Context) error {
	if r.w == nil || r.gone || r.asked != (ksock.MessageID{}) {
		return nil
	}
	m := ksock.Request(r.name+y4m.EndSuffix, nil)
	m.To = r.sender
	id, err := r.k.Send(ctx, m)
	switch {
	case err == nil:
		r.asked = id
	case errors.Is(err, ksock.ErrNoReplyRoom), errors.Is(err, ksock.ErrQueueFull), errors.Is(err, ksock.ErrNoMemory):
		// Again after the next message.
	case errors.Is(err, ksock.ErrNoReplier), errors.Is(err, ksock.ErrReplierChanged):
		r.gone = true
	default:
		return err
	}
	return nil
}

// message takes in one message, and says whether it was the stream's end.
func (r *videoReceiver) message(v ksock.View) (ended bool, err error) {
	h := v.Header()
	reply := h.InReplyTo != (ksock.MessageID{})
	if reply && h.InReplyTo != r.asked {
		return false, nil
	}
	p, err := y4m.ParsePacket(v.Data())
	switch {
	case err != nil && reply:
		return false, errSenderGone // a Status
	case err != nil, r.w != nil && p.Stream != r.stream:
		r.book(func(b *videoBooks) { b.foreign++ })
		return false, nil
	}
	if r.w == nil {
		if err := r.begin(p, h.From); err != nil {
			return false, err
		}
	}
	return p.Kind == y4m.End, r.packet(p)
}

// begin begins with whatever message of the stream is heard first.
func (r *videoReceiver) begin(p *y4m.Packet, sender uint32) error {
	header, err := y4m.ParseHeader(p.Header)
	if err != nil {
		return fmt.Errorf("from Ksock %d: %w", sender, err)
	}
	if p.Kind == y4m.End && p.Number > 0 {
		return fmt.Errorf("came too late: a stream of %d frames has just ended", p.Number)
	}
	if r.w, err = y4m.NewWriter(r.out, header); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	r.stream, r.sender = p.Stream, sender
	r.book(func(b *videoBooks) { b.first, b.next = p.Number, p.Number })
	return nil
}

func (r *videoReceiver) packet(p *y4m.Packet) error {
	var late bool
	r.book(func(b *videoBooks) {
		if late = p.Number < b.next; !late {
			b.missed += p.Number - b.next
			b.next = p.Number
		}
	})
	if late {
		return fmt.Errorf("frame %d came out of order", p.Number)
	}
	if p.Kind == y4m.End {
		return nil
	}
	if err := r.w.WriteFrame(p.Params, p.Planes); err != nil {
		return fmt.Errorf("write frame %d: %w", p.Number, err)
	}
	r.book(func(b *videoBooks) {
		b.next++
		b.frames++
	})
	return nil
}
