package model

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	plus  = "ReplierBindEvent@0=+$."
	minus = "ReplierBindEvent@0=-$."
	lost  = "UnbindEventsLost@0"
)

func TestEvents(t *testing.T) { // R7.1
	b := start(t)
	a, r, w := b.open(), b.open(), b.open()
	b.reply(r, "$.Before")
	b.listen(a, BindEventName)
	b.listen(w, "$.*", "$.KBUS.%")
	b.once(w)
	_, err := b.ReportReplierBinds(w, On)
	b.no(err)
	b.gets(w, "1 "+plus+"Before")
	b.reply(r, "$.Q")
	b.listen(r, "$.L") // not reported
	b.reply(a, "$.Mine.*")
	b.no(b.Unbind(r, "$.Q", true))
	b.gets(a, "2 "+plus+"Q", "3 "+plus+"Mine.*", "4 "+minus+"Q")
	b.gets(w, "2 "+plus+"Q", "3 "+plus+"Mine.*", "4 "+minus+"Q")
	_, err = b.ReportReplierBinds(r, Off)
	b.no(err)
	b.reply(r, "$.Silent")
	b.no(b.Close(w))
	b.no(b.Close(a))
	_, err = b.ReportReplierBinds(r, On)
	b.no(err)
	b.gets(r, "5 "+plus+"Silent", "6 "+plus+"Before")
	b.reply(r, "$.Unheard") // uses an id all the same
	b.sends(r, announce("$.X", ""), 8)
}

func TestEventMessage(t *testing.T) { // R7.1
	b := start(t)
	r := b.open()
	b.listen(r, BindEventName)
	b.reports(r)
	for _, name := range []string{"$.A", "$.AB", "$.ABC", "$.ABCD"} {
		b.reply(r, name)
		m, _, err := b.Next(r)
		b.no(err)
		data := binary.NativeEndian.AppendUint32(nil, 1)
		data = binary.NativeEndian.AppendUint32(data, r)
		data = binary.NativeEndian.AppendUint32(data, uint32(len(name)))
		data = append(append(data, name...), 0)
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
		want := Message{ID: m.ID, Name: "$.KBUS.ReplierBindEvent", Flags: Synthetic | AllOrFail, Data: string(data)}
		if m != want {
			t.Errorf("%s: %+v, want %+v", name, m, want)
		}
	}
}

func TestEventBeforeEffect(t *testing.T) { // R7.1
	b := start(t)
	s, w, r := b.open(), b.open(), b.open()
	b.listen(w, BindEventName)
	b.listen(s, "$.T")
	b.reports(w)
	b.no(b.BindBegin(r, "$.Q", true))
	b.gets(w, "1 "+plus+"Q")
	b.fails(s, ask("$.Q", ""), unix.EADDRNOTAVAIL, true)
	b.no(b.BindEnd(r, "$.Q", true))
	b.sends(s, ask("$.Q", ""), 3)
	b.no(b.UnbindBegin(r, "$.Q", true))
	b.gets(w, "4 "+minus+"Q")
	b.sends(s, ask("$.Q", ""), 5)
	b.no(b.UnbindEdit(r, "$.Q", true))
	b.fails(s, ask("$.Q", ""), unix.EADDRNOTAVAIL, true)
	b.gets(s)
	if !b.UnbindStep(r) {
		t.Fatal("no Status was due")
	}
	b.gets(s, "7 Replier.Unbound<3@3")
	if !b.UnbindStep(r) || b.UnbindStep(r) {
		t.Fatal("not two Statuses were due")
	}
	b.gets(s, "8 Replier.Unbound<5@3")
}

func TestSwitchingOn(t *testing.T) { // R7.2
	b := start(t)
	a, r, w := b.open(), b.open(), b.open()
	b.reply(a, "$.A")
	b.reply(r, "$.B", "$.C.*")
	b.listen(w, BindEventName)
	b.limit(a, 3)
	b.sends(a, ask("$.B", ""), 1)
	_, err := b.ReportReplierBinds(a, On)
	b.is(err, unix.EBUSY) // a place is held
	was, err := b.ReportReplierBinds(a, Ask)
	if was || err != nil {
		t.Fatalf("the reports are on: %v, %v", was, err)
	}
	b.gets(a) // nothing has changed
	b.limit(a, 4)
	b.reports(a) // no id was used
	b.gets(a, "2 "+plus+"C.*", "3 "+plus+"B", "4 "+plus+"A")
	b.gets(w) // for the one that switched it alone
	b.reports(w)
	b.no(b.Unbind(w, BindEventName, false)) // they came by no binding
	b.gets(w, "5 "+plus+"C.*", "6 "+plus+"B", "7 "+plus+"A")
	b.no(b.Close(a))
	b.no(b.Close(r))
	b.limit(w, 1)
	b.listen(w, "$.T")
	b.sends(w, announce("$.T", ""), 11)
	b.reports(w) // none to report, so they fit
}

func TestEventWithoutRoom(t *testing.T) { // R7.3
	b := start(t)
	r, l, m := b.open(), b.open(), b.open()
	b.listen(l, BindEventName)
	b.listen(m, BindEventName)
	b.limit(l, 1)
	b.reports(r)
	b.reply(r, "$.A")
	b.is(b.Bind(r, "$.B", true), unix.EAGAIN)
	b.is(b.Unbind(r, "$.A", true), unix.EAGAIN)
	b.is(b.Bind(m, "$.A", true), unix.EADDRINUSE) // found first, and use no id
	b.is(b.Unbind(r, "$.B", true), unix.EINVAL)
	if id, _ := b.Replier("$.A"); id != r {
		t.Error("a failed unbind was done")
	}
	if id, _ := b.Replier("$.B"); id != 0 {
		t.Error("a failed bind was done")
	}
	b.listen(r, "$.B")
	b.gets(m, "1 "+plus+"A") // nobody heard of the others
	b.gets(l, "1 "+plus+"A")
	b.no(b.Unbind(r, "$.A", true))
	b.gets(l, "4 "+minus+"A") // two ids were used up
}

func TestNobodyRepliesToEvents(t *testing.T) { // R7.5
	b := start(t)
	k := b.open()
	b.is(b.Bind(k, "$.KBUS.ReplierBindEvent", true), unix.EBADMSG)
	b.is(b.Unbind(k, "$.KBUS.ReplierBindEvent", true), unix.EINVAL)
	b.reply(k, "$.KBUS.*", "$.KBUS.UnbindEventsLost")
}

// full returns a bus with reports on and a Ksock w that listens to the events by the bindings given, and to $.T, by which
// it has got one message "1 T" that fills it: limit is 1. x sent it.
func full(t *testing.T, kept int, bindings ...string) (b bus, w, x uint32) {
	b = startWith(t, Config{KeptEvents: kept})
	w, x = b.open(), b.open()
	b.listen(w, bindings...)
	b.listen(w, "$.T")
	b.limit(w, 1)
	b.reports(x)
	b.sends(x, announce("$.T", ""), 1)
	return b, w, x
}

// gone has a new Ksock bind as Replier to the names unreported, and close.
func (b bus) gone(by uint32, names ...string) {
	b.Helper()
	_, err := b.ReportReplierBinds(by, Off)
	b.no(err)
	r := b.open()
	b.reply(r, names...)
	b.Bus.reports = true // without events for those that are bound
	b.no(b.Close(r))
}

func TestKeptEvents(t *testing.T) { // R7.4
	b, w, x := full(t, 0, BindEventName)
	v := b.open()
	b.listen(v, "$.KBUS.*")
	b.gone(x, "$.P", "$.Q", "$.R")
	b.gets(v, "2 "+minus+"R", "3 "+minus+"Q", "4 "+minus+"P") // v has room
	b.unread(w, 4)                                            // they count in R3.7 ...
	b.limit(w, 2)
	if n := len(b.find(w).queue); n != 2 { // ... and not in R3.3: the first is let in
		t.Fatalf("%d in the queue", n)
	}
	b.fails(x, with(announce("$.T", ""), AllOrFail), unix.EBUSY, true)
	b.sends(x, announce("$.T", "missed"), 6)
	if m, _, _ := b.Next(w); text(m) != "1 T" {
		t.Fatalf("read %s", text(m))
	}
	b.fails(x, with(announce("$.T", ""), AllOrFail), unix.EBUSY, true) // the next one took the place
	b.is(b.Bind(x, "$.P", true), unix.EAGAIN)
	b.gets(w, "2 "+minus+"R", "3 "+minus+"Q", "4 "+minus+"P")
	b.unread(w, 0)
}

func TestKeptEventsAndAnswers(t *testing.T) { // R7.4
	b, w, x := full(t, 0, BindEventName)
	r := b.open()
	b.limit(w, 9)
	b.reply(r, "$.Q", "$.P") // 2, 3
	b.sends(w, ask("$.Q", ""), 4)
	b.sends(w, ask("$.P", ""), 5)
	b.gets(w, "1 T", "2 "+plus+"Q", "3 "+plus+"P")
	b.sends(x, announce("$.T", ""), 6)
	b.limit(w, 3)
	b.gone(x, "$.X", "$.Y") // 7, 8
	b.gets(r, "4 Q?!", "5 P?!")
	b.sends(r, answerTo(w, 4, ""), 9) // passes the kept ones, and makes no room
	if len(b.find(w).kept) != 2 {
		t.Fatal("the held places were not counted")
	}
	b.no(b.Close(r)) // 10, 11 are kept; so does the Status 12 pass
	b.gets(w, "6 T", "9 A<4", "12 Replier.Ignored<5@3", "7 "+minus+"Y", "8 "+minus+"X", "10 "+minus+"P", "11 "+minus+"Q")
}

func TestKeptEventAndUrgent(t *testing.T) { // R7.4
	b, w, x := full(t, 0, BindEventName)
	b.gone(x, "$.P")
	b.sends(x, with(announce("$.T", ""), Urgent), 3) // has no room either
	b.limit(w, 3)
	b.sends(x, with(announce("$.T", ""), Urgent), 4)
	b.gets(w, "4 T", "1 T", "2 "+minus+"P")
}

func TestUnbindMakesRoomForKept(t *testing.T) { // R7.4, as doc.go decides: behind the Statuses
	b, w, x := full(t, 0, BindEventName)
	b.limit(w, 4)
	b.reply(w, "$.Me")
	b.gets(w, "1 T", "2 "+plus+"Me")
	b.sends(w, ask("$.Me", ""), 3)
	b.sends(x, announce("$.T", ""), 4)
	b.limit(w, 3)
	b.gone(x, "$.P") // 5
	_, err := b.ReportReplierBinds(x, Off)
	b.no(err)
	b.no(b.Unbind(w, "$.Me", true))
	b.gets(w, "4 T", "6 Replier.Unbound<3@1", "5 "+minus+"P")
}

func TestCloserGetsNoEvents(t *testing.T) { // R7.4
	b, w, _ := full(t, 0, BindEventName)
	_, err := b.ReportReplierBinds(w, Off)
	b.no(err)
	r := b.open()
	b.listen(r, BindEventName)
	b.reply(r, "$.P")
	b.limit(w, 9)
	b.limit(r, 1)
	b.Bus.reports = true
	b.no(b.Close(r)) // it would have no room for its second
	b.gets(w, "1 T", "2 "+minus+"P")
	b.sends(w, announce("$.X", ""), 3) // so nobody missed one
}

func TestKeptCopies(t *testing.T) { // R7.4
	b, w, x := full(t, 0, BindEventName, "$.KBUS.*")
	b.gone(x, "$.P") // 2: a copy by each binding
	b.once(w)
	b.gone(x, "$.Q") // 3: one copy, by the newest
	b.unread(w, 4)
	clone := bus{t, b.Clone()}
	b.no(b.Unbind(w, "$.KBUS.*", false)) // drops what came by that binding, and no other
	b.gets(w, "1 T", "2 "+minus+"P")
	clone.no(clone.Unbind(w, "$.KBUS.ReplierBindEvent", false))
	clone.is(clone.Unbind(w, "$.KBUS.*", true), unix.EINVAL) // a refused one drops nothing
	clone.no(clone.Unbind(w, "$.T", false))                  // makes room
	clone.gets(w, "2 "+minus+"P", "3 "+minus+"Q")
}

func TestEventsLost(t *testing.T) { // R7.4
	b, w, x := full(t, 2, BindEventName)
	v, u := b.open(), b.open()
	for _, k := range []uint32{v, u} {
		b.listen(k, BindEventName)
	}
	b.gone(x, "$.1", "$.2", "$.3", "$.4") // 2, 3, then 4 and 6 with an UnbindEventsLost each: 5 and 7
	b.unread(w, 4)                        // what it is told of it counts, but not among the 2 kept
	b.gets(v, "2 "+minus+"4", "3 "+minus+"3", "4 "+minus+"2", "6 "+minus+"1")
	b.listen(v, "$.T")
	b.limit(v, 1)
	b.sends(x, announce("$.T", ""), 8)
	next := func(want string) {
		t.Helper()
		if m, _, err := b.Next(w); err != nil || text(m) != want {
			t.Fatalf("read %s, %v, want %s", text(m), err, want)
		}
	}
	next("1 T")
	b.gone(x, "$.5") // 9: kept for v, missed by w until all is delivered; 10 was not needed
	next("2 " + minus + "4")
	next("3 " + minus + "3")
	if k := b.find(w); k.queue[0].msg.Name != EventsLostName || len(k.kept) != 0 || k.lost {
		t.Fatal("not all that was kept has been delivered")
	}
	b.gone(x, "$.6", "$.7", "$.8") // 11 kept for both; 12 kept for w, missed by v (13); 14 missed by both, told (15) to w
	b.gets(w, "5 "+lost, "11 "+minus+"8", "12 "+minus+"7", "15 "+lost)
	b.gets(v, "8 T", "9 "+minus+"5", "11 "+minus+"8", "13 "+lost)
	b.unread(u, 8) // it had room for them all
	b.sends(x, announce("$.X", ""), 16)
}

func TestEventsAreMissedUntilLostIsDelivered(t *testing.T) { // R7.4, as doc.go decides
	b, w, x := full(t, 1, BindEventName)
	b.gone(x, "$.1", "$.2") // 2 kept, 3 missed, 4
	if m, _, _ := b.Next(w); text(m) != "1 T" {
		t.Fatal(text(m))
	}
	b.gone(x, "$.3") // 5: the event kept is in the queue, but not the UnbindEventsLost; 6 is not needed
	b.gets(w, "2 "+minus+"2", "4 "+lost)
	b.gone(x, "$.4") // 7
	b.gets(w, "7 "+minus+"4")
}

func TestCopiesAreKeptTogether(t *testing.T) { // R7.4, as doc.go decides
	b, w, x := full(t, 3, BindEventName, BindEventName)
	b.gone(x, "$.1", "$.2")
	b.gets(w, "1 T", "2 "+minus+"2", "2 "+minus+"2", "4 "+lost)
}

func TestUnbindingLost(t *testing.T) { // R7.4
	b, w, x := full(t, 2, BindEventName, "$.KBUS.*")
	b.gone(x, "$.1", "$.2") // 2 kept twice, 3 missed: 4 comes by the newest binding
	b.unread(w, 4)
	clone := bus{t, b.Clone()}
	clone.no(clone.Unbind(w, BindEventName, false))
	clone.gets(w, "1 T", "2 "+minus+"2", "4 "+lost)

	b.no(b.Unbind(w, "$.KBUS.*", false))
	b.unread(w, 2)
	b.gone(x, "$.3") // 5: missed, as something is kept; told again (6), as that was removed
	b.unread(w, 3)
	b.no(b.Unbind(w, BindEventName, false))
	b.listen(w, BindEventName)
	b.gone(x, "$.4") // 7: nothing was kept any more
	b.gets(w, "1 T", "7 "+minus+"4")
}

func TestKeptLimit(t *testing.T) { // R7.4
	b, w, x := full(t, 0, BindEventName)
	var names []string
	for i := range 1002 {
		names = append(names, fmt.Sprintf("$.P%d", i))
	}
	b.gone(x, names...)
	b.unread(w, 1+1000+1)
}
