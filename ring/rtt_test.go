package ring

import (
	"context"
	"testing"
)

// BenchmarkRoundTrip is a Request and its Reply between two threads that poll.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b, Config{MaxKsocks: 6})
	r, a := w.open(ReadWrite), w.open(ReadWrite)
	w.bind(a, "$.X", true)
	data := make([]byte, 64)
	other, err := Attach(w.b.mem)
	if err != nil {
		b.Fatal(err)
	}
	if a, err = other.Client(a.slot, a.id, ReadWrite); err != nil {
		b.Fatal(err)
	}
	done := make(chan error)
	take := func(k *Client, m *Message) error {
		for {
			if ok, err := k.Take(m); ok || err != nil {
				return err
			}
			if err := k.WaitReadable(context.Background(), 1<<20); err != nil {
				return err
			}
		}
	}
	go func() {
		var m Message
		for {
			err := take(a, &m)
			if err == nil {
				_, err = a.Send(&Header{Name: "$.X", To: m.From, InReplyTo: m.ID}, m.Data())
				m.Release()
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	var m Message
	for b.Loop() {
		if _, err := r.Send(&Header{Name: "$.X", Flags: WantReply}, data); err != nil {
			b.Fatal(err)
		}
		if err := take(r, &m); err != nil {
			b.Fatal(err)
		}
		m.Release()
	}
	a.Interrupt()
	<-done
}
