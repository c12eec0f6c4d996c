package ksock_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"kbus.internal/ksock"
)

// answers replies to what r hears until ctx ends, with f of the data.
func (a *actor) answers(ctx context.Context, f func(string) string) {
	for m := range a.Messages(ctx) {
		if !m.MustReply() {
			continue
		}
		if _, err := a.Send(ctx, ksock.ReplyTo(m, []byte(f(string(m.Data))))); err != nil && ctx.Err() == nil {
			a.s.Error(err)
		}
	}
}

func echo(s string) string { return "re: " + s }

// Call gives the Reply; what else has come stays, in order, and counts as unread.
func TestCallLeavesTheRest(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A", "$.R"), s.replier("$.R"), s.open()
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	for i := range 5 {
		b.announce("$.A", fmt.Sprint("before ", i))
	}
	go r.answers(ctx, func(q string) string {
		b.announce("$.A", "meanwhile")
		return echo(q)
	})
	m, err := a.Call(s.ctx, say("$.R", "q")) // made a Request
	if err != nil {
		t.Fatal(err)
	}
	s.want("answer", string(m.Data), "re: q")
	b.announce("$.A", "after")
	a.unread(9) // with the copies of Request and Reply that it hears as Listener
	a.poll(true, true)
	a.hears("before 0", "before 1", "before 2", "before 3", "before 4", "q", "meanwhile", "re: q", "after")
	a.unread(0)
	a.poll(false, true)
}

// Many goroutines call on one Ksock while others read it: each gets its own answer.
func TestManyCalls(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A"), s.replier("$.R"), s.open()
	r.holds(4096)
	a.holds(4096)
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	for range 2 {
		go r.answers(ctx, echo)
	}
	const callers, calls, said = 8, 100, 400
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range calls {
				q := fmt.Sprint(i, " ", j)
				m, err := a.Call(s.ctx, ask("$.R", q))
				if err != nil || string(m.Data) != "re: "+q {
					t.Errorf("%s: %v, %v", q, m, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for i := range said {
			if _, err := b.Send(s.ctx, flagged(say("$.A", fmt.Sprint(i)), ksock.AllOrWait)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range said {
			m, err := a.Next(s.ctx)
			if err != nil || string(m.Data) != fmt.Sprint(i) {
				t.Errorf("heard %v, %v, want %d", m, err, i)
				return
			}
		}
	})
	wg.Wait()
	stop()
	a.hears()
}

// Replies in another order than the Requests find their Calls, also those that
// bear one id of another network.
func TestRepliesOutOfOrder(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R")
	same := ksock.MessageID{Network: 7, Serial: 7}
	for _, id := range []ksock.MessageID{{}, same} {
		var wg sync.WaitGroup
		var asked []*ksock.Message
		for i := range 5 {
			wg.Go(func() {
				q := ask("$.R", fmt.Sprint(i))
				q.ID = id
				m, err := a.Call(s.ctx, q)
				if err != nil || id != same && string(m.Data) != echo(fmt.Sprint(i)) {
					t.Errorf("%d: %v, %v", i, m, err)
				}
			})
			q, err := r.Next(s.ctx)
			s.wantErr(err, nil)
			asked = append(asked, q)
		}
		for i := range asked {
			q := asked[len(asked)-1-i]
			r.reply(q, echo(string(q.Data)))
		}
		wg.Wait()
		a.hears()
	}
}

// A Status is an error of Call that says which (R5.6).
func TestCallStatuses(t *testing.T) {
	s := setStage(t)
	a := s.open()
	for want, act := range map[string]func(r *actor){
		ksock.StatusUnbound:  func(r *actor) { r.unbind("$.R", ksock.Replier) },
		ksock.StatusGoneAway: func(r *actor) { r.Close() },
		ksock.StatusIgnored:  func(r *actor) { r.one(); r.Close() },
	} {
		r := s.replier("$.R")
		done := make(chan error)
		go func() {
			_, err := a.Call(s.ctx, ask("$.R", "q"))
			done <- err
		}()
		if err := r.WaitReadable(s.ctx); err != nil {
			t.Fatal(err)
		}
		act(r)
		err := <-done
		var status *ksock.StatusError
		var e *ksock.Error
		if !errors.As(err, &status) || status.Name() != want || !errors.As(err, &e) || e.ID != a.ID() || e.Name != "$.R" {
			t.Errorf("%s: %v", want, err)
		}
		r.Close()
	}
	_, err := a.Call(s.ctx, ask("$.R", ""))
	s.wantErr(err, ksock.ErrNoReplier)
	_, err = a.Call(s.ctx, ask("$.", ""))
	s.wantErr(err, ksock.ErrBadName)
	a.hears()
}

// Call does not heap up messages without end: when as many lie there as the queue would hold, it refuses.
func TestCallWithoutReading(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A"), s.replier("$.R"), s.open()
	a.holds(10)
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	go r.answers(ctx, echo)
	var err error
	heard := 0
	for calls := 0; err == nil; calls++ {
		if calls > 10 {
			t.Fatal("no end")
		}
		for range 5 {
			b.announce("$.A", fmt.Sprint(heard))
			heard++
		}
		_, err = a.Call(s.ctx, ask("$.R", ""))
	}
	s.wantErr(err, ksock.ErrNoReplyRoom)
	var want []string
	for i := range heard {
		want = append(want, fmt.Sprint(i))
	}
	a.hears(want...)
	if _, err := a.Call(s.ctx, ask("$.R", "")); err != nil {
		t.Error(err)
	}
}

// R8.6: errnos of a bus behind a Limpet.
func TestRemoteErrors(t *testing.T) {
	for name, want := range map[string]int{"32": 32, "11": 11, "": 0, "x": 0, "3x": 0, "-1": 0, "99999": 0, "0": 0} {
		e := &ksock.StatusError{Status: &ksock.Message{Header: ksock.Header{Name: ksock.StatusRemoteError + name}}}
		n, ok := e.Errno()
		if int(n) != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", name, n, ok)
		}
		if ok && !errors.Is(&ksock.Error{Err: e}, n) {
			t.Errorf("%v is not %v", e, n)
		}
	}
}

// While a Call waits the rest stays in the queue, with its places (R3.3), for
// whoever reads beside.
func TestReadingBesideACall(t *testing.T) {
	s := setStage(t)
	a, r, b := s.listener("$.A"), s.replier("$.R"), s.open()
	b.announce("$.A", "first")
	a.holds(3)
	done := make(chan error)
	go func() {
		_, err := a.Call(s.ctx, ask("$.R", "q"))
		done <- err
	}()
	q, err := r.Next(s.ctx) // the Call holds a place now
	s.wantErr(err, nil)
	b.announce("$.A", "second")
	b.announce("$.A", "missed")
	a.hears("first", "second")
	a.holds(2)
	for i := range 20 {
		b.announce("$.A", fmt.Sprint("heard ", i))
		b.announce("$.A", "missed")
		a.unread(1)
		m, err := a.Next(s.ctx)
		s.wantErr(err, nil)
		s.want("heard", string(m.Data), fmt.Sprint("heard ", i))
		// And one who waits before anything is there.
		next := make(chan string)
		go func() {
			m, err := a.Next(s.ctx)
			if err != nil {
				t.Error(err)
				m = &ksock.Message{}
			}
			next <- string(m.Data)
		}()
		for a.Readers() == 0 {
			runtime.Gosched()
		}
		b.announce("$.A", "waited for")
		s.want("heard", <-next, "waited for")
	}
	r.reply(q, "answer")
	s.wantErr(<-done, nil)
}
