package limpet

import (
	"encoding/binary"
	"fmt"
	"io"

	"kbus.internal/ksock"
)

// The wire format of R8.1 and R8.2. All integers are 32 bits, big-endian.
const (
	greetingWord = 0x48454c4f // "HELO"
	startGuard   = 0x7375624b
	endGuard     = 0x4b627573

	greetingSize = 8
	headSize     = 64
	guardSize    = 4

	// MaxName is the longest name of a frame, in bytes. (What a bus takes is shorter.)
	MaxName = 4096
	// MaxData is the largest data that any bus may allow, in bytes.
	MaxData = 1 << 30
)

// A FrameError is a frame, or a greeting, that can't be: the link is closed.
type FrameError struct {
	Field string // which field
	Why   string
}

func (e *FrameError) Error() string { return fmt.Sprintf("malformed frame: %s %s", e.Field, e.Why) }

func malformed(field, format string, args ...any) error {
	return &FrameError{field, fmt.Sprintf(format, args...)}
}

func appendGreeting(b []byte, network uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, greetingWord), network)
}

// namePadded and dataPadded are the lengths on the link (R8.2).
func namePadded(n int) int { return 4 * ((n + 4) / 4) }
func dataPadded(n int) int { return 4 * ((n + 3) / 4) }

// appendHead appends a frame up to its data: the head and the padded name.
func appendHead(b []byte, h *ksock.Header, data int) []byte {
	for _, n := range [headSize / 4]uint32{
		startGuard, h.ID.Network, h.ID.Serial, h.InReplyTo.Network, h.InReplyTo.Serial, h.To, h.From,
		h.OrigFrom.Network, h.OrigFrom.Ksock, h.FinalTo.Network, h.FinalTo.Ksock, 0, h.Flags,
		uint32(len(h.Name)), uint32(data), endGuard,
	} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = append(b, h.Name...)
	var zeros [4]byte
	return append(b, zeros[:namePadded(len(h.Name))-len(h.Name)]...)
}

// tail is what follows n bytes of data: padding and the last guard.
func tail(n int) []byte { return tails[3-(4-n%4)%4:] }

var tails = []byte{0, 0, 0, 0x4b, 0x62, 0x75, 0x73}

// A decoder reads the frames of a link, cut or joined as they come. Nothing is
// allocated for a length that has not been checked.
type decoder struct {
	r       reader
	maxData uint32
	names   map[string]string // seen before, so that most frames allocate nothing
}

func newDecoder(r io.Reader, maxData uint32) *decoder {
	return &decoder{r: newReader(r), maxData: maxData, names: map[string]string{}}
}

// greeting reads the other side's network id.
func (d *decoder) greeting() (network uint32, err error) {
	b, err := d.begins(greetingSize, func(word uint32) error {
		if word == greetingWord {
			return nil
		}
		return malformed("greeting", "is %q, not \"HELO\": the other side is no Limpet, or one of a version that this one can't be linked to; see what is at that address", binary.BigEndian.AppendUint32(nil, word))
	})
	if err != nil {
		return 0, err
	}
	network = binary.BigEndian.Uint32(b[4:])
	d.r.drop(greetingSize)
	return network, nil
}

// begins reads n bytes, of which the first four have to be right before any more
// are waited for.
func (d *decoder) begins(n int, right func(word uint32) error) ([]byte, error) {
	b, err := d.r.peek(4)
	if err == nil {
		if err := right(binary.BigEndian.Uint32(b)); err != nil {
			return nil, err
		}
		b, err = d.r.peek(n)
	}
	if err != nil && len(b) > 0 {
		err = cut(err)
	}
	return b, err
}

func checkStart(word uint32) error {
	if word != startGuard {
		return malformed("the guard before the header", "is %#08x, not %#08x", word, uint32(startGuard))
	}
	return nil
}

// head reads a frame up to its data, of which data bytes follow.
func (d *decoder) head() (h ksock.Header, data int, err error) {
	b, err := d.begins(headSize, checkStart)
	if err != nil {
		return h, 0, err
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	nameLen, dataLen := word(13), word(14)
	switch {
	case nameLen == 0 || nameLen > MaxName:
		return h, 0, malformed("the name's length", "is %d, not 1 to %d", nameLen, MaxName)
	case dataLen > d.maxData:
		return h, 0, malformed("the data's length", "is %d, more than the %d that a bus may allow", dataLen, d.maxData)
	case word(15) != endGuard:
		return h, 0, malformed("the guard after the header", "is %#08x, not %#08x", word(15), uint32(endGuard))
	}
	h = ksock.Header{
		ID:        ksock.MessageID{Network: word(1), Serial: word(2)},
		InReplyTo: ksock.MessageID{Network: word(3), Serial: word(4)},
		To:        word(5), From: word(6),
		OrigFrom: ksock.EndPoint{Network: word(7), Ksock: word(8)},
		FinalTo:  ksock.EndPoint{Network: word(9), Ksock: word(10)},
		Flags:    word(12),
	}
	d.r.drop(headSize)
	b, err = d.r.peek(namePadded(int(nameLen)))
	if err != nil {
		return h, 0, cut(err)
	}
	name := b[:nameLen]
	var ok bool
	if h.Name, ok = d.names[string(name)]; !ok {
		if len(d.names) >= 1024 {
			clear(d.names)
		}
		h.Name = string(name)
		d.names[h.Name] = h.Name
	}
	d.r.drop(len(b))
	return h, int(dataLen), nil
}

// inBuffer tells whether n bytes of data can be had by small.
func inBuffer(n int) bool { return n <= mostSmall }

// mostSmall is the largest data that is copied on its way to the bus, in bytes.
const mostSmall = 16<<10 - 8

// small reads the rest of a frame with n bytes of data, which stay good until the
// next read.
func (d *decoder) small(n int) ([]byte, error) {
	b, err := d.r.peek(dataPadded(n) + guardSize)
	if err != nil {
		return nil, cut(err)
	}
	if err := checkTail(b[dataPadded(n):]); err != nil {
		return nil, err
	}
	d.r.drop(len(b))
	d.r.ahead = bufferSize
	return b[:n], nil
}

// into reads the rest of a frame whose data fills to.
func (d *decoder) into(to []byte) error {
	d.r.ahead = aheadOfLarge
	if err := d.r.fill(to); err != nil {
		return cut(err)
	}
	return d.end(len(to))
}

// skip reads the rest of a frame with n bytes of data and forgets it.
func (d *decoder) skip(n int) error {
	if err := d.r.skip(n); err != nil {
		return cut(err)
	}
	return d.end(n)
}

// end reads what follows n bytes of data.
func (d *decoder) end(n int) error {
	b, err := d.r.peek(dataPadded(n) - n + guardSize)
	if err != nil {
		return cut(err)
	}
	if err := checkTail(b[dataPadded(n)-n:]); err != nil {
		return err
	}
	d.r.drop(len(b))
	return nil
}

func checkTail(b []byte) error {
	if g := binary.BigEndian.Uint32(b); g != endGuard {
		return malformed("the guard after the message", "is %#08x, not %#08x", g, uint32(endGuard))
	}
	return nil
}

// cut is the error of a frame that ends before its end.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readEvent reads the data of a ReplierBindEvent as it is on the link, where
// its first three integers are big-endian too (R8.2). False if it
// is no event.
func readEvent(b []byte) (e ksock.BindEvent, ok bool) {
	be := binary.BigEndian
	if len(b) < 12 || be.Uint32(b) > 1 {
		return e, false
	}
	n := be.Uint32(b[8:])
	if n == 0 || uint64(n) > uint64(len(b)-12) {
		return e, false
	}
	return ksock.BindEvent{Bound: be.Uint32(b) == 1, Binder: be.Uint32(b[4:]), Name: string(b[12:][:n])}, true
}

// appendEvent appends an event as it is on the link.
func appendEvent(b []byte, e *ksock.BindEvent) []byte {
	var is uint32
	if e.Bound {
		is = 1
	}
	for _, n := range [3]uint32{is, e.Binder, uint32(len(e.Name))} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = append(b, e.Name...)
	var zeros [4]byte
	return append(b, zeros[:namePadded(len(e.Name))-len(e.Name)]...)
}
