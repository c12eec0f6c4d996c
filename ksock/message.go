package ksock

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"kbus.internal/ring"
)

// MessageID names a message: the network that it comes from (0 is this bus) and
// its serial number there. The zero MessageID is no id (R2.2).
type MessageID = ring.MessageID

// EndPoint is a Ksock on some network (0 is this bus), for messages that cross Limpets.
type EndPoint = ring.EndPoint

// Header is everything about a message but its data (R2.1).
type Header = ring.Header

// Flags of a message (R2.4). Those of bits 16 to 31 are the user's own.
const (
	WantReply = ring.WantReply // makes it a Request
	MustReply = ring.MustReply // set by the bus: the reader of this copy is to reply
	Synthetic = ring.Synthetic // set by the bus: it made this message itself
	Urgent    = ring.Urgent    // goes to the front of each queue (R3.6)
	AllOrWait = ring.AllOrWait // all recipients, or wait until they have room (R6.5)
	AllOrFail = ring.AllOrFail // all recipients, or none (R6.2)
)

// Names of the Statuses by which the bus, or a Limpet, answers a Request that
// gets no Reply (R5.6, R8.5, R8.6).
const (
	StatusUnbound      = "$.KBUS.Replier.Unbound"      // its Replier unbound before reading it
	StatusGoneAway     = "$.KBUS.Replier.GoneAway"     // its Replier closed or died before reading it
	StatusIgnored      = "$.KBUS.Replier.Ignored"      // its Replier closed or died after reading it
	StatusDisappeared  = "$.KBUS.Replier.Disappeared"  // its Replier went while it waited to be sent
	StatusErrorSending = "$.KBUS.ErrorSending"         // it could not be sent after waiting
	StatusNotSameKsock = "$.KBUS.Replier.NotSameKsock" // the Replier behind a Limpet changed
	StatusRemoteError  = "$.KBUS.RemoteError."         // and the errno: the bus behind a Limpet refused it
)

// Names of the bus's own announcements (section 7).
const (
	ReplierBindEvent = "$.KBUS.ReplierBindEvent"
	UnbindEventsLost = "$.KBUS.UnbindEventsLost"
)

var statusTexts = map[string]string{
	StatusUnbound:      "the Replier unbound before it read the Request",
	StatusGoneAway:     "the Replier went away before it read the Request",
	StatusIgnored:      "the Replier went away without answering the Request that it had read",
	StatusDisappeared:  "the Replier went away while the Request waited to be sent",
	StatusErrorSending: "the waiting Request could not be sent",
	StatusNotSameKsock: "the Replier behind the Limpet is not the Ksock addressed",
}

// A Message is a message to send, or an owned copy of one received. Whoever
// sends it fills Name, Flags, Data and, for some, To, InReplyTo, ID, OrigFrom
// and FinalTo; the bus sets From and, if the network in it is 0, ID (R2.2). A
// send does not change the Message, and keeps nothing of it.
type Message struct {
	Header
	Data []byte // any bytes, may be empty
}

// Announce makes a message for whoever listens to name.
func Announce(name string, data []byte) *Message {
	return &Message{Header: Header{Name: name}, Data: data}
}

// Request makes a message that the Replier for name has to answer.
func Request(name string, data []byte) *Message {
	return &Message{Header: Header{Name: name, Flags: WantReply}, Data: data}
}

// ReplyTo makes the Reply to a Request that was received.
func ReplyTo(request *Message, data []byte) *Message {
	return &Message{Header: ReplyHeader(&request.Header), Data: data}
}

// ReplyHeader is the header of the Reply to a Request, for a Reply in place.
func ReplyHeader(request *Header) Header {
	return Header{Name: request.Name, To: request.From, InReplyTo: request.ID}
}

// StatefulRequest makes a Request that only the Ksock that sent reply will get:
// if another is Replier for name by now, the send fails with [ErrReplierChanged]
// (R5.2). It works across Limpets, too (R8.7).
func StatefulRequest(reply *Message, name string, data []byte) *Message {
	return &Message{Header: Header{Name: name, Flags: WantReply, To: reply.From, FinalTo: reply.OrigFrom}, Data: data}
}

// IsRequest tells whether the message asks for a Reply, of somebody.
func (m *Message) IsRequest() bool { return m.Flags&WantReply != 0 }

// IsReply tells whether the message answers a Request; a Status does, too.
func (m *Message) IsReply() bool { return m.InReplyTo != MessageID{} }

// IsStatus tells whether the message says that a Request gets no Reply.
func (m *Message) IsStatus() bool { return isStatus(&m.Header) }

// MustReply tells whether whoever read this copy is to reply to it.
func (m *Message) MustReply() bool { return m.Flags&(WantReply|MustReply) == WantReply|MustReply }

// Clone is a copy that shares nothing with m.
func (m *Message) Clone() *Message {
	c := *m
	c.Data = append([]byte(nil), m.Data...)
	c.Name = strings.Clone(m.Name)
	return &c
}

// isStatus: the bus's own Statuses are SYNTHETIC, but that is cleared in those
// that a Limpet puts on the bus, so they are known by their names.
func isStatus(h *Header) bool {
	if h.InReplyTo == (MessageID{}) {
		return false
	}
	_, known := statusTexts[h.Name]
	return known || h.Flags&Synthetic != 0 || strings.HasPrefix(h.Name, StatusRemoteError)
}

// Kind is Announcement, Request, Reply or Status.
func (m *Message) Kind() string {
	switch {
	case m.IsStatus():
		return "Status"
	case m.IsReply():
		return "Reply"
	case m.IsRequest():
		return "Request"
	}
	return "Announcement"
}

// String describes the message on one line, for people.
func (m *Message) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", m.Kind(), m.Name)
	if m.ID != (MessageID{}) {
		fmt.Fprintf(&b, " id %d:%d", m.ID.Network, m.ID.Serial)
	}
	if m.From != 0 {
		fmt.Fprintf(&b, " from %d", m.From)
	}
	if m.To != 0 {
		fmt.Fprintf(&b, " to %d", m.To)
	}
	if m.InReplyTo != (MessageID{}) {
		fmt.Fprintf(&b, " in reply to %d:%d", m.InReplyTo.Network, m.InReplyTo.Serial)
	}
	if m.OrigFrom != (EndPoint{}) {
		fmt.Fprintf(&b, " originally from %d:%d", m.OrigFrom.Network, m.OrigFrom.Ksock)
	}
	if m.FinalTo != (EndPoint{}) {
		fmt.Fprintf(&b, " finally to %d:%d", m.FinalTo.Network, m.FinalTo.Ksock)
	}
	for _, f := range flagNames {
		if m.Flags&f.bit != 0 {
			b.WriteString(" " + f.name)
		}
	}
	if user := m.Flags >> 16; user != 0 {
		fmt.Fprintf(&b, " user flags %#04x", user)
	}
	const most = 60 // bytes of data shown
	switch {
	case len(m.Data) > most:
		fmt.Fprintf(&b, " %s… (%d bytes)", strconv.Quote(string(m.Data[:most])), len(m.Data))
	case len(m.Data) > 0:
		b.WriteString(" " + strconv.Quote(string(m.Data)))
	}
	return b.String()
}

var flagNames = []struct {
	bit  uint32
	name string
}{{MustReply, "must-reply"}, {Synthetic, "synthetic"}, {Urgent, "urgent"}, {AllOrWait, "all-or-wait"}, {AllOrFail, "all-or-fail"}}

// A BindEvent is what a ReplierBindEvent says (R7.1).
type BindEvent struct {
	Bound  bool   // else unbound
	Binder uint32 // Ksock id
	Name   string // of the binding
}

// ParseBindEvent reads a message that the bus sent about a Replier's binding;
// false if it is none: another name, made by a user, or not well formed.
func ParseBindEvent(m *Message) (BindEvent, bool) {
	if m.Name != ReplierBindEvent || m.Flags&Synthetic == 0 || m.From != 0 {
		return BindEvent{}, false
	}
	ne := binary.NativeEndian
	if len(m.Data) < 12 || ne.Uint32(m.Data) > 1 {
		return BindEvent{}, false
	}
	n, rest := ne.Uint32(m.Data[8:]), m.Data[12:]
	if uint64(n) >= uint64(len(rest)) {
		return BindEvent{}, false
	}
	return BindEvent{ne.Uint32(m.Data) == 1, ne.Uint32(m.Data[4:]), string(rest[:n])}, true
}
