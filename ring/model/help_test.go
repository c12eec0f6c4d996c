package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// bus is a bus under test: a call that fails where it must not ends the test.
type bus struct {
	*testing.T
	*Bus
}

func start(t *testing.T) bus { return startWith(t, Config{}) }

func startWith(t *testing.T, c Config) bus {
	t.Helper()
	b, err := New(c).Bus(0)
	if err != nil {
		t.Fatal(err)
	}
	return bus{t, b}
}

func (b bus) open() uint32 { return b.Open(false) }

// no ends the test if err is one.
func (b bus) no(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// is checks that an operation failed with want, or succeeded if that is 0.
func (b bus) is(err error, want unix.Errno) {
	b.Helper()
	if want == 0 && err == nil {
		return
	}
	if err != want {
		b.Fatalf("answered %v, want %v", err, want)
	}
}

// listen and reply bind.
func (b bus) listen(k uint32, names ...string) {
	b.Helper()
	for _, n := range names {
		b.no(b.Bind(k, n, false))
	}
}

func (b bus) reply(k uint32, names ...string) {
	b.Helper()
	for _, n := range names {
		b.no(b.Bind(k, n, true))
	}
}

// limit sets max_messages.
func (b bus) limit(k, n uint32) {
	b.Helper()
	if got, err := b.MaxMessages(k, n); err != nil || got != n {
		b.Fatalf("MaxMessages(%d) = %d, %v", n, got, err)
	}
}

func (b bus) once(k uint32) {
	b.Helper()
	_, err := b.OnlyOnce(k, On)
	b.no(err)
}

func (b bus) reports(k uint32) {
	b.Helper()
	_, err := b.ReportReplierBinds(k, On)
	b.no(err)
}

// sends sends m and checks the serial number that it gets.
func (b bus) sends(k uint32, m Message, serial uint32) {
	b.Helper()
	id, err := b.Send(k, m)
	if err != nil || id.Serial != serial {
		b.Fatalf("Send = %v, %v, want serial %d", id, err, serial)
	}
}

// fails sends m and checks how that fails, and whether it uses an id and becomes last sent (R3.8).
func (b bus) fails(k uint32, m Message, want unix.Errno, usesID bool) {
	b.Helper()
	before, serial := b.find(k).last, b.serial
	_, err := b.Send(k, m)
	b.is(err, want)
	if used := b.serial != serial; used != usesID {
		b.Fatalf("an id used: %v, want %v", used, usesID)
	}
	if changed := b.find(k).last != before; changed != usesID {
		b.Fatalf("last sent changed: %v, want %v", changed, usesID)
	}
}

// gets reads everything that k has to read and compares it with want, messages written as text writes them.
func (b bus) gets(k uint32, want ...string) {
	b.Helper()
	var got []string
	for {
		m, ok, err := b.Next(k)
		b.no(err)
		if !ok {
			break
		}
		got = append(got, text(m))
	}
	if !slices.Equal(got, want) {
		b.Fatalf("%d reads\n\t%s, want\n\t%s", k, strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

// text writes a message as ID NAME, with = DATA, ? for a Request, ! if its reader must reply, < ID of what it answers, and @
// who it is from if the bus made it.
func text(m Message) string {
	s := fmt.Sprintf("%d %s", m.ID.Serial, strings.TrimPrefix(strings.TrimPrefix(m.Name, "$."), "KBUS."))
	if m.IsRequest() {
		s += "?"
	}
	if m.Flags&MustReply != 0 {
		s += "!"
	}
	if m.IsReply() {
		s += fmt.Sprintf("<%d", m.InReplyTo.Serial)
	}
	if m.Flags&Synthetic != 0 {
		s += fmt.Sprintf("@%d", m.From)
	}
	if m.Name == BindEventName && m.Flags&Synthetic != 0 {
		return s + "=" + string("-+"[m.Data[0]+m.Data[3]]) + strings.TrimRight(m.Data[12:], "\x00")
	}
	if m.Data != "" {
		s += "=" + m.Data
	}
	return s
}

func (b bus) unread(k uint32, want int) {
	b.Helper()
	if n, err := b.Unread(k); err != nil || n != want {
		b.Fatalf("Unread(%d) = %d, %v, want %d", k, n, err, want)
	}
}

func (b bus) unreplied(k uint32, want int) {
	b.Helper()
	if n, err := b.Unreplied(k); err != nil || n != want {
		b.Fatalf("Unreplied(%d) = %d, %v, want %d", k, n, err, want)
	}
}

func (b bus) poll(k uint32, readable, writable bool) {
	b.Helper()
	r, w, err := b.Poll(k)
	if err != nil || r != readable || w != writable {
		b.Fatalf("Poll(%d) = %v, %v, %v, want %v, %v", k, r, w, err, readable, writable)
	}
}

func announce(name, data string) Message { return Message{Name: name, Data: data} }
func ask(name, data string) Message      { return Message{Name: name, Data: data, Flags: WantReply} }

func with(m Message, flags uint32) Message {
	m.Flags |= flags
	return m
}

// answerTo is a Reply to the Request of that serial number that asker sent.
func answerTo(asker, serial uint32, data string) Message {
	return Message{Name: "$.A", Data: data, To: asker, InReplyTo: MessageID{0, serial}}
}
