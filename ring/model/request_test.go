package model

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestRequest(t *testing.T) { // R5.1, R5.2, R5.8
	b := start(t)
	s, r, l := b.open(), b.open(), b.open()
	b.fails(s, ask("$.Q", ""), unix.EADDRNOTAVAIL, true)
	b.reply(r, "$.Q")
	b.listen(l, "$.Q", "$.A")
	b.listen(s, "$.Q")
	b.sends(s, ask("$.Q", "1"), 2)
	b.sends(s, announce("$.Q", "2"), 3) // a Replier's binding gets only Requests
	stateful := ask("$.Q", "3")
	stateful.To = l
	b.fails(s, stateful, unix.EPIPE, true)
	stateful.To = r
	b.sends(s, stateful, 5)
	b.gets(r, "2 Q?!=1", "5 Q?!=3")
	b.sends(r, answerTo(s, 2, "a"), 6)
	b.gets(s, "2 Q?=1", "3 Q=2", "5 Q?=3", "6 A<2=a")
	b.gets(l, "2 Q?=1", "3 Q=2", "5 Q?=3", "6 A<2=a")
}

func TestRelay(t *testing.T) { // R8.5, R8.9
	b := start(t)
	k, l, r, full := b.open(), b.open(), b.open(), b.open()
	b.listen(l, "$.Q", "$.A")
	b.reply(r, "$.Q")
	b.listen(full, "$.F")
	b.limit(full, 1)
	b.limit(k, 1)
	relay := func(m Message, copy bool, want unix.Errno) {
		t.Helper()
		_, err := b.Relay(k, m, copy)
		b.is(err, want)
	}
	wait := announce("$.F", "")
	wait.Flags |= AllOrWait
	relay(wait, false, 0)
	relay(wait, false, unix.EBUSY)
	for range 3 { // no place is held
		relay(ask("$.Q", "c"), true, 0)
		relay(answerTo(l, 9, "d"), true, 0)
	}
	b.gets(l, "3 Q?=c", "4 A<9=d", "5 Q?=c", "6 A<9=d", "7 Q?=c", "8 A<9=d")
	relay(ask("$.Q", "e"), false, 0)
	relay(ask("$.Q", "f"), false, unix.ENOLCK)
	b.gets(r, "9 Q?!=e")
}

func TestPlaceForTheAnswer(t *testing.T) { // R5.3
	b := start(t)
	s, r := b.open(), b.open()
	b.reply(r, "$.Q")
	b.limit(s, 1)
	b.sends(s, ask("$.Q", ""), 1)
	b.fails(s, ask("$.Q", ""), unix.ENOLCK, false)
	b.gets(r, "1 Q?!")
	b.sends(r, answerTo(s, 1, ""), 2)
	b.fails(s, ask("$.Q", ""), unix.ENOLCK, false)
	b.gets(s, "2 A<1")
	b.sends(s, ask("$.Q", ""), 3)
}

func TestReplierFull(t *testing.T) { // R5.4, R6.3
	b := start(t)
	s, r, l := b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.listen(l, "$.Q")
	b.limit(r, 1)
	b.sends(s, ask("$.Q", ""), 1)
	b.fails(s, ask("$.Q", ""), unix.EBUSY, true)
	b.gets(l, "1 Q?")
}

func TestAskerOverFull(t *testing.T) { // R5.5, R6.3
	b := start(t)
	s, r, x, l := b.open(), b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.listen(s, "$.T", "$.T")
	b.listen(l, "$.A")
	b.limit(s, 2)
	b.sends(s, ask("$.Q", ""), 1)
	b.sends(x, announce("$.T", ""), 2)
	b.gets(r, "1 Q?!")
	b.fails(r, answerTo(s, 1, ""), unix.EBUSY, true)
	b.unreplied(r, 1)
	b.gets(l) // nobody gets it
	if _, ok, _ := b.Next(s); !ok {
		t.Fatal("nothing to read")
	}
	b.sends(r, answerTo(s, 1, ""), 4)
	b.gets(s, "2 T", "4 A<1")
	b.gets(l, "4 A<1")
}

// R5.6: each of the Statuses of a sent Request is in TestUnbindReplier (Unbound) or TestClose (GoneAway, Ignored), also for
// Requests to oneself; here the stateful ones. Those of waiting Requests are in TestWaitingRequestFails.
func TestStatefulIsAnswered(t *testing.T) { // R5.6, R5.7
	b := start(t)
	s, r, l := b.open(), b.open(), b.open()
	b.listen(l, "$.*")
	b.listen(s, "$.*")
	b.limit(s, 1)
	b.reply(r, "$.Q")
	stateful := Message{
		Name: "$.Q", To: r, Flags: WantReply | Urgent | 1<<20, OrigFrom: EndPoint{1, 2}, FinalTo: EndPoint{3, 4},
		ID: MessageID{7, 3}, Data: "x",
	}
	b.sends(s, stateful, 3)
	b.no(b.Unbind(r, "$.Q", true))
	b.unread(l, 1) // the Request's copy, not the Status
	b.unread(s, 2) // though it is full, and not twice
	if _, _, err := b.Next(s); err != nil {
		t.Fatal(err)
	}
	want := Message{
		ID: MessageID{0, 1}, InReplyTo: MessageID{7, 3}, To: s, From: r, Flags: Synthetic, Name: "$.KBUS.Replier.Unbound",
	}
	if m, ok, err := b.Next(s); m != want || !ok || err != nil {
		t.Errorf("the Status is %+v, %v, %v, want %+v", m, ok, err, want)
	}
	b.reply(r, "$.Q")
	b.sends(s, ask("$.Q", ""), 2) // it holds no place any more
	b.no(b.Close(s))
	b.no(b.Close(r)) // none is made for an asker that is gone
	b.sends(l, announce("$.X", ""), 3)
}

func TestWhoCanAnswer(t *testing.T) { // R5.9
	b := start(t)
	s, r, x := b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	b.sends(s, ask("$.Q", ""), 1)
	b.fails(r, answerTo(s, 1, ""), unix.ECONNREFUSED, true) // before reading
	b.gets(r, "1 Q?!")
	b.fails(x, answerTo(s, 1, ""), unix.ECONNREFUSED, true)
	b.fails(r, answerTo(x, 1, ""), unix.ECONNREFUSED, true)
	b.fails(r, answerTo(s, 2, ""), unix.ECONNREFUSED, true)
	b.fails(r, answerTo(0, 1, ""), unix.EADDRNOTAVAIL, true)
	b.unreplied(r, 1)
	b.sends(r, answerTo(s, 1, ""), 7)
	b.unreplied(r, 0)
	b.fails(r, answerTo(s, 1, ""), unix.ECONNREFUSED, true) // twice
	b.gets(s, "7 A<1")
}

func TestEqualRequests(t *testing.T) { // R5.9
	b := start(t)
	a, z, r := b.open(), b.open(), b.open()
	b.reply(r, "$.Q")
	preset := ask("$.Q", "")
	preset.ID = MessageID{7, 3}
	reply := answerTo(a, 3, "")
	reply.InReplyTo = preset.ID
	for _, k := range []uint32{a, z, a} {
		b.sends(k, preset, 3)
	}
	b.gets(r, "3 Q?!", "3 Q?!", "3 Q?!")
	b.sends(r, reply, 1) // the one read last
	b.unreplied(r, 2)
	b.no(b.Close(r))
	b.gets(a, "1 A<3", "3 Replier.Ignored<3@3")
	b.gets(z, "2 Replier.Ignored<3@3")
	if b.find(a).asked != 0 || b.find(z).asked != 0 {
		t.Error("places are held for Requests that were answered")
	}
}
