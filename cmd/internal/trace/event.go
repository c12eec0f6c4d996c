package trace

import (
	"encoding/binary"
	"strings"

	"kbus.internal/ring/model"
)

// bindEvent is what the bus reports of a Replier's binding (R7.1).
type bindEvent struct {
	isBind bool
	binder uint32
	name   string
}

// data is the event as a message's data: three numbers in the machine's order, then the name with at least one zero,
// padded to a multiple of four.
func (e bindEvent) data() string {
	var is uint32
	if e.isBind {
		is = 1
	}
	var b []byte
	for _, n := range []uint32{is, e.binder, uint32(len(e.name))} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return string(b) + e.name + strings.Repeat("\x00", 4-len(e.name)%4)
}

// readBindEvent reads the data of a message if it is an event that the bus made, to the last byte of padding.
func readBindEvent(m *model.Message) (e bindEvent, ok bool) {
	if m.Flags&model.Synthetic == 0 || m.Name != model.BindEventName || len(m.Data) < 16 {
		return e, false
	}
	b := []byte(m.Data)
	nameLen := binary.NativeEndian.Uint32(b[8:])
	if uint64(nameLen) > uint64(len(b)-12) {
		return e, false
	}
	e = bindEvent{binary.NativeEndian.Uint32(b) == 1, binary.NativeEndian.Uint32(b[4:]), string(b[12:][:nameLen])}
	return e, e.data() == m.Data
}
