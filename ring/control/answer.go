package control

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	busRow     = 52
	ksockRow   = 74
	bindingRow = 7
	maxErrno   = 4095
)

// Room tells how many bytes of rows an Answer with this Text can still take.
func (a *Answer) Room() int {
	n := MaxAnswer - ansHead - min(len(a.Text), MaxText) - busRow*len(a.Buses)
	for i := range a.Ksocks {
		n -= ksockRow + len(a.Ksocks[i].Command)
	}
	for i := range a.Bindings {
		n -= bindingRow + len(a.Bindings[i].Name)
	}
	return n
}

// Row sizes for whoever fills pages: the largest that one row can take.
const (
	MaxBusRow     = busRow
	MaxKsockRow   = ksockRow + MaxCommand
	MaxBindingRow = bindingRow + MaxName
)

func (a *Answer) check() error {
	rows := 0
	for _, n := range [...]struct {
		op  Op
		len int
	}{{OpBuses, len(a.Buses)}, {OpKsocks, len(a.Ksocks)}, {OpBindings, len(a.Bindings)}} {
		if n.len > 0 && n.op != a.Op {
			return fmt.Errorf("%w: answer to %v with rows of %v", ErrFrame, a.Op, n.op)
		}
		rows += n.len
	}
	switch {
	case a.Op >= opEnd || a.Number != 0 && a.Op == 0:
		return fmt.Errorf("%w: answer to %v", ErrFrame, a.Op)
	case a.Errno > maxErrno:
		return fmt.Errorf("%w: errno %d", ErrFrame, a.Errno)
	case a.Errno != 0 && (rows > 0 || a.Value|a.Slot|a.Ksock|a.Next != 0 || a.Token != Token{}):
		return fmt.Errorf("%w: answer with an error and more", ErrFrame)
	case a.Room() < 0:
		return fmt.Errorf("%w: answer of more than %d bytes", ErrFrame, MaxAnswer)
	}
	return nil
}

// Append appends the frame of a to b; Text is cut to MaxText, commands must fit
// MaxCommand and names MaxName. Errors: ErrFrame.
func (a *Answer) Append(b []byte) ([]byte, error) {
	if err := a.check(); err != nil {
		return b, err
	}
	text := a.Text[:min(len(a.Text), MaxText)]
	le := binary.LittleEndian
	start := b
	b = le.AppendUint32(b, ansMagic)
	b = append(b, Version, byte(a.Op), 0, 0)
	for _, v := range [...]uint32{a.Number, uint32(a.Errno), a.Value, a.Slot, a.Ksock, a.Next} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, a.Token[:]...)
	b = le.AppendUint16(b, uint16(len(text)))
	b = le.AppendUint16(b, uint16(len(a.Buses)+len(a.Ksocks)+len(a.Bindings)))
	b = append(b, text...)
	for i := range a.Buses {
		r := &a.Buses[i]
		for _, v := range [...]uint32{r.Bus, r.Ksocks, r.MaxKsocks, r.Bindings, r.MessageSize, r.MaxMessageSize, bit(r.Reports)} {
			b = le.AppendUint32(b, v)
		}
		for _, v := range [...]uint64{r.ArenaBytes, r.ArenaUsed, r.Messages} {
			b = le.AppendUint64(b, v)
		}
	}
	for i := range a.Ksocks {
		r := &a.Ksocks[i]
		if len(r.Command) > MaxCommand {
			return start, fmt.Errorf("%w: command of %d bytes", ErrFrame, len(r.Command))
		}
		for _, v := range [...]uint32{r.Slot, r.Ksock, r.PID, r.UID, r.MaxMessages, r.Unread, r.Unreplied, r.Outstanding} {
			b = le.AppendUint32(b, v)
		}
		for _, v := range [...]uint64{r.StartTime, r.Sent, r.Received, r.Missed, r.Bytes} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint16(b, uint16(len(r.Command))|uint16(bit(r.ReadOnly))<<15)
		b = append(b, r.Command...)
	}
	for i := range a.Bindings {
		r := &a.Bindings[i]
		if len(r.Name) > MaxName {
			return start, fmt.Errorf("%w: name of %d bytes", ErrFrame, len(r.Name))
		}
		b = le.AppendUint32(b, r.Ksock)
		b = append(b, byte(bit(r.Replier)))
		b = le.AppendUint16(b, uint16(len(r.Name)))
		b = append(b, r.Name...)
	}
	return b, nil
}

// ParseAnswer decodes one whole frame. It keeps nothing of b. Errors: ErrFrame,
// VersionError.
func ParseAnswer(b []byte) (*Answer, error) {
	if err := parseHead(b, ansMagic, ansHead); err != nil {
		return nil, err
	}
	if len(b) > MaxAnswer {
		return nil, fmt.Errorf("%w: %d bytes, the most is %d", ErrFrame, len(b), MaxAnswer)
	}
	le := binary.LittleEndian
	a := &Answer{
		Op: Op(b[5]), Number: le.Uint32(b[8:]), Errno: unix.Errno(le.Uint32(b[12:])), Value: le.Uint32(b[16:]),
		Slot: le.Uint32(b[20:]), Ksock: le.Uint32(b[24:]), Next: le.Uint32(b[28:]), Token: Token(b[32:48]),
	}
	if b[6] != 0 || b[7] != 0 {
		return nil, fmt.Errorf("%w: unused bits are set", ErrFrame)
	}
	d := rows{b: b[ansHead:]}
	n := int(le.Uint16(b[50:]))
	text := int(le.Uint16(b[48:]))
	if text > MaxText {
		return nil, fmt.Errorf("%w: text of %d bytes", ErrFrame, text)
	}
	a.Text = d.text(text)
	switch a.Op {
	case OpBuses:
		for range d.count(n, busRow) {
			a.Buses = append(a.Buses, BusInfo{Bus: d.u32(), Ksocks: d.u32(), MaxKsocks: d.u32(), Bindings: d.u32(),
				MessageSize: d.u32(), MaxMessageSize: d.u32(), Reports: d.bool(d.u32()),
				ArenaBytes: d.u64(), ArenaUsed: d.u64(), Messages: d.u64()})
		}
	case OpKsocks:
		for range d.count(n, ksockRow) {
			k := KsockInfo{Slot: d.u32(), Ksock: d.u32(), PID: d.u32(), UID: d.u32(), MaxMessages: d.u32(),
				Unread: d.u32(), Unreplied: d.u32(), Outstanding: d.u32(), StartTime: d.u64(), Sent: d.u64(),
				Received: d.u64(), Missed: d.u64(), Bytes: d.u64()}
			l := d.u16()
			k.ReadOnly = l>>15 != 0
			k.Command = d.limited(l&0x7fff, MaxCommand)
			a.Ksocks = append(a.Ksocks, k)
		}
	case OpBindings:
		for range d.count(n, bindingRow) {
			r := BindingInfo{Ksock: d.u32(), Replier: d.bool(uint32(d.u8()))}
			r.Name = d.limited(d.u16(), MaxName)
			a.Bindings = append(a.Bindings, r)
		}
	default:
		d.bad = d.bad || n != 0
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: its rows do not add up", ErrFrame)
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	return a, nil
}

// rows reads from b; what is not there is zero, and bad from then on.
type rows struct {
	b   []byte
	bad bool
}

// count is n if n rows of at least size bytes can be there, else 0.
func (d *rows) count(n, size int) int {
	if n*size > len(d.b) {
		d.bad = true
		return 0
	}
	return n
}

func (d *rows) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return make([]byte, min(n, 8))
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *rows) u8() byte    { return d.take(1)[0] }
func (d *rows) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *rows) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *rows) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *rows) bool(v uint32) bool {
	d.bad = d.bad || v > 1
	return v == 1
}

func (d *rows) text(n int) string {
	if n > len(d.b) {
		d.bad = true
		return ""
	}
	return string(d.take(n))
}

func (d *rows) limited(n uint16, most int) string {
	d.bad = d.bad || int(n) > most
	return d.text(int(n))
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
