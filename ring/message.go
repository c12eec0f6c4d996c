package ring

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of names and sizes.
const (
	MaxName = 1000 // longest name, in bytes (R1.1)
	MinSize = 100  // smallest size limit that a bus may be given (R2.6)
)

// Bits of Header.Flags (R2.4). All others reach the reader as they were sent.
const (
	WantReply uint32 = 1 << 0 // the message is a Request
	MustReply uint32 = 1 << 1 // set by the bus on the copy whose reader must reply
	Synthetic uint32 = 1 << 2 // made by the bus
	Urgent    uint32 = 1 << 3 // goes to the front of queues (R3.6)
	AllOrWait uint32 = 1 << 8 // all recipients or wait (R6.5)
	AllOrFail uint32 = 1 << 9 // all recipients or fail (R6.2)
)

// Names of the messages that the bus makes by itself (R5.6, section 7).
const (
	GoneAway         = "$.KBUS.Replier.GoneAway"
	Ignored          = "$.KBUS.Replier.Ignored"
	Unbound          = "$.KBUS.Replier.Unbound"
	Disappeared      = "$.KBUS.Replier.Disappeared"
	ErrorSending     = "$.KBUS.ErrorSending"
	ReplierBindEvent = "$.KBUS.ReplierBindEvent"
	UnbindEventsLost = "$.KBUS.UnbindEventsLost"
)

// Errors beside the errnos that SPEC.md names.
var (
	// ErrCorrupt: the region holds what no process of this bus could have written.
	ErrCorrupt = errors.New("ring: the region is corrupt")
	// ErrClosed: this end has been closed.
	ErrClosed = errors.New("ring: closed")
)

// A MessageID names a message: the network that gave the number, 0 for the bus
// itself, and the serial number. The zero MessageID is none (R2.2).
type MessageID struct{ Network, Serial uint32 }

// An EndPoint is a Ksock somewhere in a network of buses (R2.1).
type EndPoint struct{ Network, Ksock uint32 }

// A Header is what a message carries beside its data (R2.1). `extra` is always
// 0 and left out.
type Header struct {
	ID, InReplyTo     MessageID
	To, From          uint32 // Ksock ids
	OrigFrom, FinalTo EndPoint
	Flags             uint32
	Name              string
}

// IsRequest tells whether the message asks for a Reply.
func (h *Header) IsRequest() bool { return h.Flags&WantReply != 0 }

// IsReply tells whether the message answers a Request (R2.5).
func (h *Header) IsReply() bool { return h.InReplyTo != MessageID{} }

// Size is the size of a message for the limit of its bus, in bytes (R2.6).
func Size(nameLen, dataLen int) int { return 88 + 4*((nameLen+4)/4) + 4*((dataLen+3)/4) + 4 }

// words tells whether s is "$." and words of letters and digits joined by
// single dots; the last one may be a wildcard if wild.
func words(s string, wild bool) bool {
	if len(s) < 3 || s[0] != '$' || s[1] != '.' {
		return false
	}
	if wild && (s[len(s)-1] == '*' || s[len(s)-1] == '%') {
		if s = s[:len(s)-1]; s == "$." {
			return true
		}
		if s[len(s)-1] != '.' {
			return false
		}
		s = s[:len(s)-1]
	}
	dot := true
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.' && !dot:
			dot = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			dot = false
		default:
			return false
		}
	}
	return !dot
}

// CheckName tells what is wrong with a name to send: EINVAL if it is empty,
// ENAMETOOLONG, EBADMSG if it is bad or a wildcard (R1.4).
func CheckName(name string) error {
	switch {
	case name == "":
		return unix.EINVAL
	case len(name) > MaxName:
		return unix.ENAMETOOLONG
	case !words(name, false):
		return unix.EBADMSG
	}
	return nil
}

// CheckBinding tells what is wrong with a name to bind to: EBADMSG or
// ENAMETOOLONG (R1.2, R1.4).
func CheckBinding(name string) error {
	switch {
	case len(name) > MaxName:
		return unix.ENAMETOOLONG
	case !words(name, true):
		return unix.EBADMSG
	}
	return nil
}

// Match tells whether a binding's name, both being valid, takes messages of
// this name (R1.3).
func Match(binding, name string) bool {
	switch binding[len(binding)-1] {
	case '*':
		p := binding[:len(binding)-1]
		return len(name) > len(p) && name[:len(p)] == p
	case '%':
		p := binding[:len(binding)-1]
		return len(name) > len(p) && name[:len(p)] == p && strings.IndexByte(name[len(p):], '.') < 0
	}
	return binding == name
}
