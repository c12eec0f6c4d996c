package model

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHeader(t *testing.T) { // R2.1, R2.3, R2.4
	b := start(t)
	s, r, l := b.open(), b.open(), b.open()
	b.reply(r, "$.A")
	b.listen(l, "$.A")
	sent := Message{
		ID: MessageID{0, 77}, To: r, From: 99, OrigFrom: EndPoint{1, 2}, FinalTo: EndPoint{3, 4},
		Flags: 0xFFFF_FCFF, Name: "$.A", Data: "\x00\xff",
	}
	b.sends(s, sent, 1)
	want := sent
	want.ID, want.From = MessageID{0, 1}, s
	for k, flags := range map[uint32]uint32{r: 0xFFFF_FCFB, l: 0xFFFF_FCF9} { // one reader is to reply, nobody's is SYNTHETIC
		want.Flags = flags
		if got, ok, err := b.Next(k); got != want || !ok || err != nil {
			t.Errorf("%d read %+v, %v, %v, want %+v", k, got, ok, err, want)
		}
	}
}

func TestIDs(t *testing.T) { // R2.2
	b := start(t)
	k := b.open()
	b.sends(k, announce("$.A", ""), 1)
	b.sends(k, Message{Name: "$.A", ID: MessageID{0, 555}}, 2)
	b.sends(k, Message{Name: "$.A", ID: MessageID{7, 1000}}, 1000)
	b.sends(k, Message{Name: "$.A", ID: MessageID{7, 0}}, 0)
	b.sends(k, announce("$.A", ""), 3)
	b.serial = 1<<32 - 2
	b.sends(k, announce("$.A", ""), 1<<32-1)
	b.sends(k, announce("$.A", ""), 1)
}

func TestBothAtOnce(t *testing.T) { // R2.4, R2.5
	b := start(t)
	s, r := b.open(), b.open()
	b.reply(r, "$.A")
	b.fails(s, with(announce("$.A", ""), AllOrWait|AllOrFail), unix.EINVAL, false)
	b.fails(s, Message{Name: "$.A", Flags: WantReply, InReplyTo: MessageID{0, 1}}, unix.EINVAL, false)
	b.fails(s, Message{Name: "$.A", InReplyTo: MessageID{0, 1}}, unix.EADDRNOTAVAIL, true) // a Reply
	b.fails(s, Message{Name: "$.A", InReplyTo: MessageID{1, 0}}, unix.EADDRNOTAVAIL, true)
}

func TestSize(t *testing.T) { // R2.6
	if DefaultSize != 409600 {
		t.Errorf("the traces assume 409600, not %d", DefaultSize)
	}
	for _, c := range []struct{ name, data, want int }{
		{3, 0, 96}, {4, 0, 100}, {7, 0, 100}, {8, 0, 104}, {3, 1, 100}, {3, 4, 100}, {3, 5, 104}, {1000, 0, 1096},
	} {
		if got := Size(c.name, c.data); got != c.want {
			t.Errorf("Size(%d, %d) = %d, want %d", c.name, c.data, got, c.want)
		}
	}
	b := start(t)
	k, other := b.open(), b.Open(true)
	set := func(n, want uint32, err unix.Errno) {
		t.Helper()
		got, e := b.MaxMessageSize(k, n)
		b.is(e, err)
		if got != want {
			t.Fatalf("MaxMessageSize(%d) = %d, want %d", n, got, want)
		}
	}
	set(0, 409600, 0)
	set(1, 409600, 0)
	set(2, 0, unix.EINVAL)
	set(99, 0, unix.EINVAL)
	set(409601, 0, unix.EINVAL)
	set(409600, 409600, 0)
	b.listen(other, "$.A")
	b.sends(k, announce("$.A", "long enough to be too large soon"), 1)
	set(100, 100, 0)
	set(1, 409600, 0) // asks
	set(0, 100, 0)
	if n, err := b.MaxMessageSize(other, 0); n != 100 || err != nil {
		t.Errorf("the limit is not the bus's: %d, %v", n, err)
	}
	b.sends(k, announce("$.A", "abcd"), 2)
	b.fails(k, announce("$.A", "abcde"), unix.EMSGSIZE, false)
	b.reports(k)
	b.listen(other, "$.KBUS.*")
	b.reply(k, "$."+strings.Repeat("x", 200)) // the bus's own are not limited
	b.gets(other, "1 A=long enough to be too large soon", "2 A=abcd", "3 ReplierBindEvent@0=+$."+strings.Repeat("x", 200))
}
