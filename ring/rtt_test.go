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
	a = w.again(a)
	done := make(chan error)
	take := func(k *Client, m *Message) error { return await(context.Background(), k, 1<<20, m) }
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
