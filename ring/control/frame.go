package control

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

// Limits of a frame, in bytes.
const (
	MaxName    = 1000 // R1.1
	MaxText    = 1024 // of an Answer
	MaxCommand = 256  // of a KsockInfo
	MaxRequest = reqHead + MaxName
	MaxAnswer  = 32 * 1024 // whole pages of rows are cut to fit
)

// Op is what a request asks for.
type Op uint8

// The operations; the package's comment says what each reads and answers.
const (
	OpOpen Op = 1 + iota
	OpReattach
	OpClose
	OpBind
	OpUnbind
	OpBound
	OpMaxMessages
	OpMessageSize
	OpOnlyOnce
	OpReports
	OpNewBus
	OpBuses
	OpKsocks
	OpBindings
	opEnd
)

var opNames = [opEnd]string{"", "open", "reattach", "close", "bind", "unbind", "bound", "max messages",
	"message size", "only once", "reports", "new bus", "buses", "ksocks", "bindings"}

func (o Op) String() string {
	if o == 0 || o >= opEnd {
		return fmt.Sprintf("operation %d", uint8(o))
	}
	return opNames[o]
}

// Values of a switch (R3.9).
const (
	Off = 0
	On  = 1
	Ask = 2 // changes nothing
)

// Token is the secret by which a Ksock proves to a new supervisor that it is the old one's.
type Token [16]byte

// Config is the size of a new bus; whatever is 0 is the supervisor's own choice.
type Config struct {
	MaxKsocks      uint32
	MaxMessageSize uint32 // bytes, R2.6's absolute maximum
	MessageSize    uint32 // bytes, the limit at the start
	KeptEvents     uint32 // R7.4, copies for one Ksock
	ArenaBytes     uint64
	QueueBytes     uint64 // most bytes that wait in one queue
}

// Request is one request. Fields that its Op does not read are zero.
type Request struct {
	Op       Op
	Number   uint32 // not 0
	Bus      uint32
	Slot     uint32
	Ksock    uint32
	Value    uint32
	From     uint32
	ReadOnly bool
	Replier  bool
	Token    Token
	Config   Config
	Name     string
}

// Answer is the answer to one request. Its rows are those of the request's Op.
type Answer struct {
	Op       Op
	Number   uint32     // of the request; 0: the supervisor's last word
	Errno    unix.Errno // 0: done
	Value    uint32
	Slot     uint32
	Ksock    uint32
	Next     uint32
	Token    Token
	Text     string // why not, in words
	Buses    []BusInfo
	Ksocks   []KsockInfo
	Bindings []BindingInfo
}

// BusInfo is one bus as OpBuses shows it.
type BusInfo struct {
	Bus            uint32
	Ksocks         uint32
	MaxKsocks      uint32
	Bindings       uint32
	MessageSize    uint32 // bytes, the limit now
	MaxMessageSize uint32 // bytes
	Reports        bool   // R7.1
	ArenaBytes     uint64
	ArenaUsed      uint64
	Messages       uint64 // entries of the log so far
}

// KsockInfo is one Ksock as OpKsocks shows it.
type KsockInfo struct {
	Slot        uint32
	Ksock       uint32
	PID         uint32 // as the supervisor sees it; 0: it cannot
	UID         uint32
	StartTime   uint64 // clock ticks after boot
	ReadOnly    bool
	MaxMessages uint32
	Unread      uint32
	Unreplied   uint32 // Requests read and not answered (R3.7)
	Outstanding uint32 // own Requests that are not answered
	Sent        uint64
	Received    uint64
	Missed      uint64
	Bytes       uint64 // waiting in its queue
	Command     string // its process's, shortened to MaxCommand bytes
}

// BindingInfo is one binding as OpBindings shows it.
type BindingInfo struct {
	Ksock   uint32
	Replier bool
	Name    string
}

// ErrFrame is wrapped by the errors of everything that is no valid frame.
var ErrFrame = errors.New("not a valid control frame")

// VersionError says that the frame is of another version of the protocol.
type VersionError uint8

func (e VersionError) Error() string {
	return fmt.Sprintf("control protocol version %d, this side speaks %d", uint8(e), Version)
}

// Is makes a VersionError EPROTONOSUPPORT for errors.Is.
func (e VersionError) Is(target error) bool { return target == unix.EPROTONOSUPPORT }

const (
	reqMagic = 0x5352424b // "KBRS"
	ansMagic = 0x5341424b // "KBAS"

	reqHead = 88
	ansHead = 52

	flagReadOnly = 1 << 0
	flagReplier  = 1 << 1
)

// Positions. Request: magic 0, version 4, op 5, flags 6, zero 7, number 8, bus
// 12, slot 16, ksock 20, value 24, from 28, token 32, config 48 (4 words of 32
// bits, 2 of 64), zero 80, name's length 84, name 88.
// Answer: magic 0, version 4, op 5, zero 6, number 8, errno 12, value 16, slot
// 20, ksock 24, next 28, token 32, text's length 48, number of rows 50, text 52,
// rows behind it.

// uses says which fields an operation reads.
var uses = [opEnd]struct{ bus, slot, value, from, readOnly, name, config bool }{
	OpOpen:        {bus: true, value: true, readOnly: true},
	OpReattach:    {bus: true, slot: true},
	OpClose:       {value: true},
	OpBind:        {name: true},
	OpUnbind:      {name: true},
	OpBound:       {name: true},
	OpMaxMessages: {value: true},
	OpMessageSize: {value: true},
	OpOnlyOnce:    {value: true},
	OpReports:     {value: true},
	OpNewBus:      {config: true},
	OpBuses:       {from: true},
	OpKsocks:      {bus: true, from: true},
	OpBindings:    {bus: true, from: true},
}

// check says what is wrong with r as a whole; the encoder and the decoder ask it.
func (r *Request) check() error {
	if r.Op == 0 || r.Op >= opEnd {
		return fmt.Errorf("%w: %v", ErrFrame, r.Op)
	}
	u := uses[r.Op]
	switch {
	case r.Number == 0:
		return fmt.Errorf("%w: %v has the number 0", ErrFrame, r.Op)
	case len(r.Name) > MaxName:
		return fmt.Errorf("%w: name of %d bytes, the most is %d", unix.ENAMETOOLONG, len(r.Name), MaxName)
	case !u.bus && r.Bus != 0, !u.slot && (r.Slot != 0 || r.Ksock != 0 || r.Token != Token{}),
		!u.value && r.Value != 0, !u.from && r.From != 0, !u.readOnly && r.ReadOnly,
		!u.name && (r.Name != "" || r.Replier), !u.config && r.Config != Config{}:
		return fmt.Errorf("%w: %v with a field that it does not read", ErrFrame, r.Op)
	}
	return nil
}

// Append appends the frame of r to b. Errors: ENAMETOOLONG, ErrFrame.
func (r *Request) Append(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, err
	}
	var flags byte
	if r.ReadOnly {
		flags |= flagReadOnly
	}
	if r.Replier {
		flags |= flagReplier
	}
	le := binary.LittleEndian
	b = le.AppendUint32(b, reqMagic)
	b = append(b, Version, byte(r.Op), flags, 0)
	for _, v := range [...]uint32{r.Number, r.Bus, r.Slot, r.Ksock, r.Value, r.From} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, r.Token[:]...)
	c := &r.Config
	for _, v := range [...]uint32{c.MaxKsocks, c.MaxMessageSize, c.MessageSize, c.KeptEvents} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, c.ArenaBytes)
	b = le.AppendUint64(b, c.QueueBytes)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(len(r.Name)))
	return append(b, r.Name...), nil
}

// ParseRequest decodes one whole frame. It keeps nothing of b. Errors:
// ErrFrame, VersionError.
func ParseRequest(b []byte) (*Request, error) {
	if err := parseHead(b, reqMagic, reqHead); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	r := &Request{
		Op: Op(b[5]), ReadOnly: b[6]&flagReadOnly != 0, Replier: b[6]&flagReplier != 0,
		Number: le.Uint32(b[8:]), Bus: le.Uint32(b[12:]), Slot: le.Uint32(b[16:]), Ksock: le.Uint32(b[20:]),
		Value: le.Uint32(b[24:]), From: le.Uint32(b[28:]), Token: Token(b[32:48]),
		Config: Config{
			MaxKsocks: le.Uint32(b[48:]), MaxMessageSize: le.Uint32(b[52:]), MessageSize: le.Uint32(b[56:]),
			KeptEvents: le.Uint32(b[60:]), ArenaBytes: le.Uint64(b[64:]), QueueBytes: le.Uint64(b[72:]),
		},
	}
	if b[6]&^(flagReadOnly|flagReplier) != 0 || b[7] != 0 || le.Uint32(b[80:]) != 0 {
		return nil, fmt.Errorf("%w: unused bits are set", ErrFrame)
	}
	n := le.Uint32(b[84:])
	if n > MaxName || int(n) != len(b)-reqHead {
		return nil, fmt.Errorf("%w: a name of %d bytes in a frame of %d", ErrFrame, n, len(b))
	}
	r.Name = string(b[reqHead:])
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// parseHead checks what all frames begin with, and that b has a head bytes.
func parseHead(b []byte, magic uint32, head int) error {
	switch {
	case len(b) < 6 || binary.LittleEndian.Uint32(b) != magic:
		return fmt.Errorf("%w: it does not begin like one", ErrFrame)
	case b[4] != Version:
		return VersionError(b[4])
	case len(b) < head:
		return fmt.Errorf("%w: %d bytes, at least %d are needed", ErrFrame, len(b), head)
	}
	return nil
}
