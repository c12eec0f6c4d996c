package ksock_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// R1.1, R1.4: which names can be sent, and the error for each that can't.
func TestNamesToSend(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.*")
	for _, c := range []struct {
		name string
		want error
	}{
		{"$.A", nil}, {"$.a.B.c9", nil}, {"$.0", nil}, {name1000(1000), nil},
		{"", unix.EINVAL}, {name1000(1001), unix.ENAMETOOLONG}, {strings.Repeat("!", 1001), unix.ENAMETOOLONG},
		{"$", unix.EBADMSG}, {"$.", unix.EBADMSG}, {"A", unix.EBADMSG}, {"$.A.", unix.EBADMSG}, {"$..A", unix.EBADMSG},
		{"$.A..B", unix.EBADMSG}, {"$.A_B", unix.EBADMSG}, {"$.Ä", unix.EBADMSG}, {"$.A B", unix.EBADMSG}, {"$.A\x00", unix.EBADMSG},
		{"$.*", unix.EBADMSG}, {"$.A.%", unix.EBADMSG}, {"$.A*", unix.EBADMSG},
	} {
		_, err := a.TrySend(say(c.name, "x"))
		s.wantErr(err, c.want)
		if c.want == nil {
			s.want("name", l.one().Name, c.name)
		}
		l.hears()
	}
}

// R1.2, R1.4: which names can be bound, and the error for each that can't.
func TestNamesToBind(t *testing.T) {
	s := setStage(t)
	a := s.open()
	for _, c := range []struct {
		name string
		want error
	}{
		{"$.A", nil}, {"$.*", nil}, {"$.%", nil}, {"$.A.B.*", nil}, {"$.A.B.%", nil}, {name1000(1000), nil},
		{"", unix.EBADMSG}, {name1000(1001), unix.ENAMETOOLONG}, {"$", unix.EBADMSG}, {"$.", unix.EBADMSG}, {"$.*.A", unix.EBADMSG},
		{"$.A*", unix.EBADMSG}, {"$.%%", unix.EBADMSG}, {"$.*%", unix.EBADMSG}, {"*", unix.EBADMSG}, {"$.A..*", unix.EBADMSG},
	} {
		for _, role := range []ksock.Role{ksock.Listener, ksock.Replier} {
			err := a.Bind(s.ctx, c.name, role)
			s.wantErr(err, c.want)
			err = a.Unbind(s.ctx, c.name, role)
			s.wantErr(err, c.want)
		}
	}
}

// R1.3: what the wildcards match.
func TestWildcards(t *testing.T) {
	s := setStage(t)
	a := s.open()
	deep, one, exact := s.listener("$.A.*"), s.listener("$.A.%"), s.listener("$.A")
	for _, n := range []string{"$.A", "$.A.B", "$.A.B.C", "$.AB", "$.a.B", "$.B.A"} {
		a.announce(n, n)
	}
	deep.hears("$.A.B", "$.A.B.C")
	one.hears("$.A.B")
	exact.hears("$.A")
}

// R1.5: names in $.KBUS. are free, but for R7.5.
func TestReservedNames(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.KBUS.*")
	a.bind("$.KBUS.Mine", ksock.Replier)
	a.announce(ksock.ReplierBindEvent, "not an event")
	m := l.one()
	s.want("flags", m.Flags, uint32(0))
	if _, ok := ksock.ParseBindEvent(m); ok {
		t.Error("a user's message passes for an event of the bus")
	}
	s.wantErr(a.Bind(s.ctx, ksock.ReplierBindEvent, ksock.Replier), unix.EBADMSG) // R7.5
	a.listen(ksock.ReplierBindEvent)
}

// R2.1, R2.3, R2.4: what the bus sets, and what passes through untouched.
func TestFields(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	data := bytes.Repeat([]byte{0, 255, 7}, 1000)
	m := &ksock.Message{Header: ksock.Header{
		Name: "$.A", To: 4711, From: 99, OrigFrom: ksock.EndPoint{Network: 1, Ksock: 2}, FinalTo: ksock.EndPoint{Network: 3, Ksock: 4},
		Flags: 0xabcd_0000 | ksock.MustReply | ksock.Synthetic | 0xf0,
	}, Data: data}
	id := a.send(m)
	got := l.one()
	want := m.Header
	want.ID, want.From, want.Flags = id, a.ID(), 0xabcd_00f0
	s.want("header", got.Header, want)
	if !bytes.Equal(got.Data, data) {
		t.Error("the data differ")
	}
	for _, f := range []uint32{ksock.AllOrFail, ksock.AllOrWait} {
		a.send(flagged(say("$.A", "x"), f))
		s.want("send flag", l.one().Flags, f)
	}
	a.fails(flagged(say("$.A", ""), ksock.AllOrFail|ksock.AllOrWait), unix.EINVAL, false)
	a.announce("$.A", "")
	s.want("empty data", len(l.one().Data), 0)
}

// R2.2: ids of the bus's own count up from 1; those of other networks are kept and use no number.
func TestIDs(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A")
	serial := func(n uint32) ksock.MessageID { return ksock.MessageID{Serial: n} }
	s.want("before the first", value(s, a.LastSent), serial(0))
	s.want("first", a.announce("$.A", "1"), serial(1))
	m := say("$.A", "2")
	m.ID = serial(77)
	s.want("serial of the sender's", a.send(m), serial(2))
	m.ID = ksock.MessageID{Network: 5, Serial: 77}
	s.want("other network", a.send(m), m.ID)
	s.want("last sent", value(s, a.LastSent), m.ID)
	m.ID = ksock.MessageID{Network: 5}
	s.want("other network, 0", a.send(m), m.ID)
	s.want("next", a.announce("$.A", "3"), serial(3))
	for _, want := range []ksock.MessageID{serial(1), serial(2), {Network: 5, Serial: 77}, {Network: 5}, serial(3)} {
		s.want("id read", l.one().ID, want)
	}
	// A Status takes its id from the same series (R5.6).
	r := s.replier("$.R")
	a.request("$.R", "")
	r.unbind("$.R", ksock.Replier)
	s.want("Status", a.one().ID, serial(5))
}

// R2.5: Request and Reply at once is refused; a Reply may bear another name.
func TestReplyNames(t *testing.T) {
	s := setStage(t)
	a, r := s.open(), s.replier("$.R")
	m := ask("$.R", "")
	m.InReplyTo = ksock.MessageID{Serial: 1}
	a.fails(m, unix.EINVAL, false)
	a.request("$.R", "")
	reply := ksock.ReplyTo(r.one(), nil)
	reply.Name = "$.Quite.Another"
	r.send(reply)
	s.want("name", a.one().Name, reply.Name)
}

// R2.6: the size of a message, and the limit.
func TestSizes(t *testing.T) {
	s := setStage(t)
	a, l := s.open(), s.listener("$.A", "$.Abcdefg")
	limit := func(n uint32) uint32 {
		t.Helper()
		v, err := a.SetMaxMessageSize(s.ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	s.want("absolute maximum", limit(1), uint32(409600))
	s.want("limit", limit(0), uint32(409600))
	for _, n := range []uint32{2, 99, 409601, 1<<32 - 1} {
		_, err := a.SetMaxMessageSize(s.ctx, n)
		s.wantErr(err, unix.EINVAL)
	}
	s.want("limit", limit(100), uint32(100))
	s.want("limit asked", value(s, a.MaxMessageSize), uint32(100))
	// 88 + 4 for the name with its zero, 4 for each 4 data, 4.
	for _, c := range []struct {
		name string
		data int
		want error
	}{{"$.A", 0, nil}, {"$.A", 1, nil}, {"$.A", 4, nil}, {"$.A", 5, unix.EMSGSIZE}, {"$.Abcdefg", 0, unix.EMSGSIZE}} {
		_, err := a.TrySend(say(c.name, strings.Repeat("d", c.data)))
		s.wantErr(err, c.want)
		if loan, err := a.Loan(c.data); err == nil {
			_, err = a.TrySendLoan(&ksock.Header{Name: c.name}, loan)
			s.wantErr(err, c.want)
			if err != nil {
				loan.Release()
			}
		} else {
			s.wantErr(err, c.want)
		}
	}
	l.unread(6)
	// What is queued already is not limited, nor is what the bus sends.
	limit(1000)
	a.announce("$.A", strings.Repeat("d", 900))
	r := s.replier("$.R")
	a.request("$.R", "")
	limit(100)
	r.Close()
	s.want("Status", a.one().Name, ksock.StatusGoneAway)
	for range 6 {
		l.one()
	}
	s.want("queued before", len(l.one().Data), 900)
	s.want("limit", limit(409600), uint32(409600))
	a.announce("$.A", strings.Repeat("d", 409600-96))
	a.fails(say("$.A", strings.Repeat("d", 409600-95)), unix.EMSGSIZE, false)
	s.want("largest", len(l.one().Data), 409600-96)
}

func TestMessageText(t *testing.T) {
	req := ask("$.A.B", "what?")
	req.ID, req.From, req.Flags = ksock.MessageID{Serial: 7}, 3, ksock.WantReply|ksock.MustReply|0x10000
	rep := ksock.ReplyTo(req, bytes.Repeat([]byte("x"), 61))
	status := &ksock.Message{Header: ksock.Header{Name: ksock.StatusRemoteError + "32", To: 3, InReplyTo: req.ID}}
	for _, c := range []struct{ got, want string }{
		{req.String(), `Request $.A.B id 0:7 from 3 must-reply user flags 0x0001 "what?"`},
		{rep.String(), `Reply $.A.B to 3 in reply to 0:7 "` + strings.Repeat("x", 60) + `"… (61 bytes)`},
		{status.String(), "Status $.KBUS.RemoteError.32 to 3 in reply to 0:7"},
		{say("$.A", "").String(), "Announcement $.A"},
		{(&ksock.StatusError{Status: status}).Error(), "the bus behind the Limpet refused the Request: broken pipe ($.KBUS.RemoteError.32)"},
		{fmt.Sprint(req.IsRequest(), req.IsReply(), req.IsStatus(), req.MustReply()), "true false false true"},
		{fmt.Sprint(rep.IsRequest(), rep.IsReply(), rep.IsStatus(), rep.MustReply()), "false true false false"},
		{fmt.Sprint(status.IsRequest(), status.IsReply(), status.IsStatus(), status.MustReply()), "false true true false"},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

// R8.7: a stateful Request is addressed by the Reply's from and orig_from.
func TestStatefulRequestFields(t *testing.T) {
	reply := &ksock.Message{Header: ksock.Header{Name: "$.A", From: 5, OrigFrom: ksock.EndPoint{Network: 2, Ksock: 9}}}
	got := ksock.StatefulRequest(reply, "$.B", []byte("x"))
	want := ksock.Header{Name: "$.B", Flags: ksock.WantReply, To: 5, FinalTo: ksock.EndPoint{Network: 2, Ksock: 9}}
	if got.Header != want || string(got.Data) != "x" {
		t.Errorf("got %+v", got)
	}
}
