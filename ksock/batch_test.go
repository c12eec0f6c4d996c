package ksock_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"kbus.internal/ksock"
)

func sayAll(name string, from, n int, flags uint32) (ms []*ksock.Message) {
	for i := range n {
		ms = append(ms, flagged(say(name, fmt.Sprint(from+i)), flags))
	}
	return ms
}

// A batch that waits for room (R6.5) gets through whole, in order, and with numbers
// in a row (R2.2), to a reader who takes several at once.
func TestBatch(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	l.holds(100)
	const n = 5000
	first := a.announce("$.A", "0").Serial
	sent := make(chan error, 1)
	go func() {
		for at := 1; at < n; at += 250 {
			k, err := a.SendBatch(s.ctx, sayAll("$.A", at, min(250, n-at), ksock.AllOrWait))
			if err == nil && k != min(250, n-at) {
				err = fmt.Errorf("%d went out", k)
			}
			if err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	vs := make([]ksock.View, 64)
	for got := 0; got < n; {
		k, err := l.ViewBatch(s.ctx, vs)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs[:k] {
			if h := v.Header(); string(v.Data()) != fmt.Sprint(got) || h.ID.Serial != first+uint32(got) {
				t.Fatalf("message %d is %q, %v", got, v.Data(), h.ID)
			}
			got++
		}
		l.ReleaseAll(vs[:k])
		if vs[0].Data() != nil {
			t.Fatal("released, and still there")
		}
		vs[0].Release()
	}
	s.wantErr(<-sent, nil)
	l.unread(0)
}

// What stops a batch is told of the message that it is about.
func TestBatchErrors(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	l.holds(3)
	batch := func(ctx context.Context, want int, wantErr error, ms ...*ksock.Message) {
		t.Helper()
		n, err := a.SendBatch(ctx, ms)
		s.want("sent", n, want)
		s.wantErr(err, wantErr)
	}
	batch(s.ctx, 0, nil)
	batch(s.ctx, 2, ksock.ErrBadName, say("$.A", "1"), say("$.A", "2"), say("$.*", ""), say("$.A", "no"))
	batch(s.ctx, 1, ksock.ErrQueueFull, sayAll("$.A", 3, 3, ksock.AllOrFail)...)
	over, cancel := context.WithCancel(s.ctx)
	cancel()
	batch(over, 0, context.Canceled, say("$.A", "no"))
	l.hears("1", "2", "3")

	// The end of a wait discards the message that waits, and those behind it.
	for range 3 {
		a.announce("$.A", "x")
	}
	waits, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		batch(waits, 0, context.Canceled, sayAll("$.A", 0, 3, ksock.AllOrWait)...)
	}()
	for !a.Pending() {
		s.wantErr(s.ctx.Err(), nil)
	}
	cancel()
	<-done
	s.want("pending", a.Pending(), false)
	l.hears("x", "x", "x")

	n, err := l.ViewBatch(s.ctx, nil)
	s.want("views", n, 0)
	s.wantErr(err, nil)
	a.announce("$.A", "1")
	a.announce("$.A", "2")
	vs := make([]ksock.View, 8)
	n, err = l.ViewBatch(s.ctx, vs)
	s.want("views", n, 2)
	s.wantErr(err, nil)
	l.Close()
	s.want("held beyond the end", string(vs[1].Data()), "2")
	l.ReleaseAll(vs)
	if _, err := l.ViewBatch(s.ctx, vs); !errors.Is(err, ksock.ErrClosed) {
		t.Errorf("%v", err)
	}
	a.Close()
	batch(s.ctx, 0, ksock.ErrClosed, say("$.A", ""))
}

// I8.
func TestBatchesAllocateNothingForEachMessage(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	ms, vs := sayAll("$.A", 0, 50, 0), make([]ksock.View, 50)
	n := testing.AllocsPerRun(1000, func() {
		if _, err := a.SendBatch(s.ctx, ms); err != nil {
			t.Fatal(err)
		}
		k, err := l.ViewBatch(s.ctx, vs)
		if err != nil || k != 50 {
			t.Fatal(k, err)
		}
		l.ReleaseAll(vs)
	})
	if n > 2 {
		t.Errorf("%v allocations for 50 messages", n)
	}
}

// 50 messages of 64 bytes, sent and received by one process.
func BenchmarkBatch(b *testing.B) {
	s := setStage(b)
	a, l := s.open(), s.listener("$.A")
	vs := make([]ksock.View, 50)
	var ms []*ksock.Message
	for range vs {
		ms = append(ms, ksock.Announce("$.A", make([]byte, 64)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.SendBatch(s.ctx, ms); err != nil {
			b.Fatal(err)
		}
		n, err := l.ViewBatch(s.ctx, vs)
		if err != nil {
			b.Fatal(err)
		}
		l.ReleaseAll(vs[:n])
	}
}
