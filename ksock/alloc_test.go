package ksock_test

import (
	"context"
	"testing"

	"kbus.internal/ksock"
)

// I8: sending and receiving in place allocates nothing on the Go heap.
func TestInPlaceAllocatesNothing(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.Video.Frame")
	h := &ksock.Header{Name: "$.Video.Frame"}
	for _, size := range []int{0, 64, 4096, 200_000} {
		n := testing.AllocsPerRun(1000, func() { inPlace(t, s, a, l, h, size) })
		s.want("allocations", n, 0.0)
	}
}

func inPlace(t testing.TB, s *stage, a, l *actor, h *ksock.Header, size int) {
	loan, err := a.Loan(size)
	if err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		loan.Data()[0], loan.Data()[size-1] = 1, 2
	}
	if _, err := a.SendLoan(s.ctx, h, loan); err != nil {
		t.Fatal(err)
	}
	v, err := l.View(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := v.Data(); len(d) != size || size > 0 && d[0] != 1 || v.Header().Name != h.Name {
		t.Fatal("not what was sent")
	}
	v.Release()
}

// I8 for a Request and its Reply.
func TestRequestsInPlaceAllocateNothing(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R")
	h := &ksock.Header{Name: "$.R", Flags: ksock.WantReply}
	s.want("allocations", testing.AllocsPerRun(1000, func() { askInPlace(t, s, a, r, h) }), 0.0)
}

func askInPlace(t testing.TB, s *stage, a, r *actor, h *ksock.Header) {
	loan, err := a.Loan(64)
	if err == nil {
		_, err = a.SendLoan(s.ctx, h, loan)
	}
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.View(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	qh := q.Header()
	reply := ksock.ReplyHeader(&qh)
	loan, err = r.Loan(64)
	if err == nil {
		_, err = r.TrySendLoan(&reply, loan)
	}
	if err != nil {
		t.Fatal(err)
	}
	q.Release()
	v, err := a.View(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	v.Release()
}

// I8 for those who sleep until a message comes.
func TestWaitingAllocatesNothing(t *testing.T) {
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": t.Context()} {
		t.Run(name, func(t *testing.T) {
			s := setStage(t)
			o := ksock.Options{Spin: -1}
			a, b := s.openWith(o), s.openWith(o)
			a.listen("$.Pong")
			b.listen("$.Ping")
			ping, pong := &ksock.Header{Name: "$.Ping"}, &ksock.Header{Name: "$.Pong"}
			go func() {
				for {
					v, err := b.View(ctx)
					if err != nil {
						return // closed
					}
					v.Release()
					loan, err := b.Loan(8)
					if err == nil {
						_, err = b.SendLoan(ctx, pong, loan)
					}
					if err != nil {
						return
					}
				}
			}()
			n := testing.AllocsPerRun(300, func() {
				loan, err := a.Loan(8)
				if err == nil {
					_, err = a.SendLoan(ctx, ping, loan)
				}
				if err != nil {
					t.Fatal(err)
				}
				v, err := a.View(ctx)
				if err != nil {
					t.Fatal(err)
				}
				v.Release()
			})
			s.want("allocations", n, 0.0)
		})
	}
}

// One message of 64 bytes in place, sent and received by one process.
func BenchmarkInPlace(b *testing.B) {
	s := setStage(b)
	a, l := s.open(), s.listener("$.Video.Frame")
	h := &ksock.Header{Name: "$.Video.Frame"}
	b.ReportAllocs()
	for b.Loop() {
		inPlace(b, s, a, l, h, 64)
	}
}

// The same with a copy on each side.
func BenchmarkCopied(b *testing.B) {
	s := setStage(b)
	a, l := s.open(), s.listener("$.Video.Frame")
	m := ksock.Announce("$.Video.Frame", make([]byte, 64))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Send(s.ctx, m); err != nil {
			b.Fatal(err)
		}
		if _, err := l.Next(s.ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// A Request of 64 bytes and its Reply, in place, by one process.
func BenchmarkRequestInPlace(b *testing.B) {
	s := setStage(b)
	a, r := s.open(), s.replier("$.R")
	h := &ksock.Header{Name: "$.R", Flags: ksock.WantReply}
	b.ReportAllocs()
	for b.Loop() {
		askInPlace(b, s, a, r, h)
	}
}
