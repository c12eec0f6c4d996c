package model

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestBindTwice(t *testing.T) { // R4.1, R4.2
	b := start(t)
	k, other := b.open(), b.open()
	b.listen(k, "$.A", "$.A", "$.A.*")
	b.reply(k, "$.A")
	b.is(b.Bind(k, "$.A", true), unix.EADDRINUSE) // also counting oneself
	b.is(b.Bind(other, "$.A", true), unix.EADDRINUSE)
	b.reply(other, "$.*", "$.%", "$.A.*") // overlap
	b.is(b.Bind(k, "$.*", true), unix.EADDRINUSE)
	b.no(b.Close(other))
	b.reply(k, "$.*")
}

func TestMostSpecificReplier(t *testing.T) { // R4.3
	names := []string{"$.A.B.C", "$.A.B.%", "$.A.B.*", "$.A.*", "$.*"} // the most specific first
	for range 2 {
		b := start(t)
		s := b.open()
		for _, n := range names {
			b.reply(b.open(), n)
		}
		for serial := range uint32(len(names)) {
			b.sends(s, ask("$.A.B.C", ""), 2*serial+1)
			var best uint32
			for _, n := range []string{"$.A.B.C", "$.A.B.%", "$.A.B.*", "$.A.*", "$.*"} {
				if best, _ = b.Replier(n); best != 0 {
					break
				}
			}
			b.unread(best, 1)
			b.no(b.Close(best))
		}
		b.fails(s, ask("$.A.B.C", ""), unix.EADDRNOTAVAIL, true)
		names = []string{"$.*", "$.A.*", "$.A.B.*", "$.A.B.%", "$.A.B.C"} // the age does not matter
	}
}

func TestUnbind(t *testing.T) { // R4.4, R4.5
	b := start(t)
	s, k := b.open(), b.open()
	b.is(b.Unbind(k, "$.A", false), unix.EINVAL)
	b.listen(k, "$.A")
	b.is(b.Unbind(k, "$.A", true), unix.EINVAL)
	b.is(b.Unbind(s, "$.A", false), unix.EINVAL)
	b.sends(s, announce("$.A", "1"), 1)
	b.listen(k, "$.A")
	b.sends(s, announce("$.A", "2"), 2)
	b.listen(k, "$.*")
	b.sends(s, announce("$.A", "3"), 3)
	b.no(b.Unbind(k, "$.A", false)) // the newest of identical bindings, and only what came by it
	b.gets(k, "1 A=1", "2 A=2", "3 A=3", "3 A=3")
	b.no(b.Unbind(k, "$.A", false))
	b.is(b.Unbind(k, "$.A", false), unix.EINVAL)
}

func TestUnbindReplier(t *testing.T) { // R4.5
	b := start(t)
	s, z, r := b.open(), b.open(), b.open()
	b.reply(r, "$.Q", "$.P")
	b.listen(r, "$.Q")
	b.reply(s, "$.S")
	b.sends(s, ask("$.Q", "read"), 1)
	b.gets(r, "1 Q?!=read", "1 Q?=read")
	b.sends(r, ask("$.S", ""), 2)
	b.gets(s, "2 S?!")
	b.sends(s, answerTo(r, 2, "kept"), 3) // came by no binding
	b.sends(z, ask("$.Q", ""), 4)
	b.sends(s, with(ask("$.Q", ""), Urgent), 5)
	b.sends(s, ask("$.P", ""), 6)
	b.no(b.Unbind(r, "$.Q", true))
	b.gets(s, "7 Replier.Unbound<5@3") // in queue order: the urgent one first
	b.gets(z, "8 Replier.Unbound<4@3")
	b.gets(r, "5 Q?", "3 A<2=kept", "4 Q?", "6 P?!")
	b.sends(r, answerTo(s, 1, ""), 9) // one already read can still be answered
}

func TestOnlyOnce(t *testing.T) { // R4.6
	b := start(t)
	s, l, n := b.open(), b.open(), b.open()
	for _, k := range []uint32{l, n} {
		b.listen(k, "$.A", "$.*")
		b.reply(k, map[uint32]string{l: "$.A", n: "$.N"}[k])
	}
	b.once(l)
	same := Message{Name: "$.A", ID: MessageID{9, 1}}
	b.sends(s, same, 1)
	b.sends(s, same, 1)
	b.gets(l, "1 A", "1 A") // one of each send, also if two bear the same id
	b.gets(n, "1 A", "1 A", "1 A", "1 A")
	b.sends(s, announce("$.A", ""), 1)
	b.no(b.Unbind(l, "$.A", false)) // it came by the newest binding, $.*
	b.unread(l, 1)
	b.no(b.Unbind(l, "$.*", false))
	b.unread(l, 0)
	b.listen(l, "$.*")
	b.sends(s, ask("$.A", ""), 2) // the Replier's copy wins
	b.gets(l, "2 A?!")
	b.once(s)
	b.listen(s, "$.*")
	b.sends(l, answerTo(s, 2, ""), 3) // the Reply wins
	b.no(b.Unbind(s, "$.*", false))
	b.gets(s, "3 A<2")
	b.gets(n, "1 A", "1 A", "2 A?", "2 A?", "3 A<2", "3 A<2")
}

func TestOrderOfCopies(t *testing.T) { // R4.7
	b := start(t)
	a := b.open()
	b.listen(a, "$.A")
	b.reply(a, "$.A")
	b.listen(a, "$.*")
	b.sends(a, ask("$.A", ""), 1)
	queue := func() (vias [3]uint64) {
		for i, q := range b.find(a).queue {
			vias[i] = q.via
		}
		return vias
	}
	if got := queue(); got != [3]uint64{2, 3, 1} {
		t.Errorf("the Request's copies came by %v", got)
	}
	b.gets(a, "1 A?!", "1 A?", "1 A?")
	b.sends(a, answerTo(a, 1, ""), 2)
	if got := queue(); got != [3]uint64{0, 3, 1} {
		t.Errorf("the Reply's copies came by %v", got)
	}
}

func TestClose(t *testing.T) { // R4.8
	b := start(t)
	s, w, r, other := b.open(), b.open(), b.open(), b.open()
	b.listen(w, BindEventName)
	b.reports(w)
	b.reply(r, "$.Q", "$.P")
	b.listen(r, "$.P")
	b.reply(other, "$.O")
	b.gets(w, "1 ReplierBindEvent@0=+$.Q", "2 ReplierBindEvent@0=+$.P", "3 ReplierBindEvent@0=+$.O")
	for i := range uint32(4) {
		b.sends(s, ask([]string{"$.Q", "$.P"}[i%2], ""), 4+i)
	}
	b.sends(r, ask("$.Q", "to itself"), 8)
	b.sends(s, announce("$.P", "vanishes"), 9)
	for range 3 { // reads 4, 5 and the copy of 5
		if _, _, err := b.Next(r); err != nil {
			t.Fatal(err)
		}
	}
	b.sends(r, ask("$.O", "not withdrawn"), 10)
	b.no(b.Close(r))
	b.gets(s, "11 Replier.GoneAway<6@3", "12 Replier.GoneAway<7@3", "16 Replier.Ignored<5@3", "17 Replier.Ignored<4@3")
	b.gets(w, "14 ReplierBindEvent@0=-$.P", "15 ReplierBindEvent@0=-$.Q") // 13 answered r itself
	b.gets(other, "10 O?!=not withdrawn")
	b.fails(other, answerTo(r, 10, ""), unix.EADDRNOTAVAIL, true)
	b.unreplied(other, 1)
	b.sends(s, announce("$.X", ""), 19)
}

func TestCloseDropsWhatWaits(t *testing.T) { // R4.8
	b := start(t)
	s, l := b.open(), b.open()
	b.listen(l, "$.A")
	b.limit(l, 1)
	b.sends(s, announce("$.A", "1"), 1)
	b.fails(s, with(announce("$.A", "2"), AllOrWait), unix.EAGAIN, true)
	b.no(b.Close(s))
	b.gets(l, "1 A=1")
	b.poll(l, false, true)
}

func TestCloseStepByStep(t *testing.T) { // R4.8, as doc.go decides
	b := start(t)
	s, w, r := b.open(), b.open(), b.open()
	b.listen(w, BindEventName)
	b.reports(w)
	b.listen(r, "$.*")
	b.reply(r, "$.Q", "$.P")
	b.reply(s, "$.S")
	b.gets(w, "1 ReplierBindEvent@0=+$.Q", "2 ReplierBindEvent@0=+$.P", "3 ReplierBindEvent@0=+$.S")
	b.sends(s, ask("$.Q", ""), 4)
	b.sends(r, ask("$.S", ""), 5)
	b.gets(s, "5 S?!")
	b.no(b.CloseBegin(r))
	b.is(b.CloseBegin(r), unix.EBADF)
	b.fails(s, ask("$.P", ""), unix.EADDRNOTAVAIL, true)
	b.fails(s, answerTo(r, 5, ""), unix.EADDRNOTAVAIL, true)
	if id, err := b.Replier("$.P"); id != 0 || err != nil {
		t.Errorf("Replier = %d, %v", id, err)
	}
	step := func(want bool) {
		t.Helper()
		if got := b.CloseStep(r); got != want {
			t.Fatalf("CloseStep = %v", got)
		}
	}
	b.gets(s)
	step(true)
	b.gets(s, "8 Replier.GoneAway<4@3")
	b.gets(w)
	step(true)
	b.gets(w, "9 ReplierBindEvent@0=-$.P")
	step(true)
	b.gets(w, "10 ReplierBindEvent@0=-$.Q")
	step(false)
	b.CloseEnd(r)
	if b.find(r) != nil {
		t.Error("it is still there")
	}
}

func TestCloseEndsUnbind(t *testing.T) { // R4.5, R4.8: whoever finishes it, each Request is answered
	b := start(t)
	s, r := b.open(), b.open()
	b.reply(r, "$.Q", "$.P")
	b.sends(s, ask("$.P", ""), 1)
	b.sends(s, ask("$.Q", ""), 2)
	b.no(b.UnbindBegin(r, "$.Q", true))
	b.no(b.UnbindEdit(r, "$.Q", true))
	b.is(b.UnbindEdit(r, "$.Q", true), unix.EINVAL)
	b.no(b.Close(r))
	b.gets(s, "3 Replier.Unbound<2@2", "4 Replier.GoneAway<1@2")
}
