package y4m

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// EndSuffix is added to a stream's name for the Requests that its sender
// answers when the stream has ended.
const EndSuffix = ".End"

// Kind says what a Packet is.
type Kind uint32

// The kinds of Packet.
const (
	Frame Kind = 1
	End   Kind = 2
)

// Packet is the data of one message of a stream: a prefix, and for a Frame the
// planes behind it.
//
// The prefix, integers little-endian:
//
//	 0  4  "KY4M"
//	 4  4  kind
//	 8  8  stream: a number that the sender drew for this stream
//	16  8  number: of this frame, from 0; of an End, how many frames there were
//	24  4  H, length of the stream's header line
//	28  4  P, length of the frame's parameters (0 in an End)
//	32  H  header line, without newline
//	 .  P  parameters, as they stand behind "FRAME"
//	 .  .  zeros up to a multiple of 16
type Packet struct {
	Kind   Kind
	Stream uint64
	Number uint64
	Header string
	Params string
	Planes []byte // of a Frame; in place, in the memory that was parsed
}

const (
	packetMagic = "KY4M"
	prefixFixed = 32
	prefixAlign = 16
)

// ErrPacket is what errors.Is finds in every error about data that is no
// Packet.
var ErrPacket = errors.New("not a message of a video stream")

// PrefixSize is the number of bytes before the planes.
func (p *Packet) PrefixSize() int {
	n := prefixFixed + len(p.Header) + len(p.Params)
	return (n + prefixAlign - 1) &^ (prefixAlign - 1)
}

// PutPrefix writes the prefix to b, which must have room for PrefixSize
// bytes, and returns what of b is behind it: the planes' place.
func (p *Packet) PutPrefix(b []byte) []byte {
	size := p.PrefixSize()
	b, rest := b[:size], b[size:]
	copy(b, packetMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(p.Kind))
	binary.LittleEndian.PutUint64(b[8:], p.Stream)
	binary.LittleEndian.PutUint64(b[16:], p.Number)
	binary.LittleEndian.PutUint32(b[24:], uint32(len(p.Header)))
	binary.LittleEndian.PutUint32(b[28:], uint32(len(p.Params)))
	n := prefixFixed
	n += copy(b[n:], p.Header)
	n += copy(b[n:], p.Params)
	clear(b[n:])
	return rest
}

// ParsePacket reads a message's data. It checks the prefix, and of the planes
// only that an End has none: their size is the stream header's to say.
func ParsePacket(b []byte) (*Packet, error) {
	if len(b) < prefixFixed || string(b[:4]) != packetMagic {
		return nil, fmt.Errorf("%w: it does not begin with %s and %d bytes of prefix", ErrPacket, packetMagic, prefixFixed)
	}
	p := &Packet{
		Kind:   Kind(binary.LittleEndian.Uint32(b[4:])),
		Stream: binary.LittleEndian.Uint64(b[8:]),
		Number: binary.LittleEndian.Uint64(b[16:]),
	}
	header := binary.LittleEndian.Uint32(b[24:])
	params := binary.LittleEndian.Uint32(b[28:])
	if header > MaxHeaderLine || params > MaxFrameLine {
		return nil, fmt.Errorf("%w: its header line has %d bytes, its parameters %d", ErrPacket, header, params)
	}
	if p.Kind != Frame && p.Kind != End {
		return nil, fmt.Errorf("%w: kind %d", ErrPacket, p.Kind)
	}
	at := prefixFixed + int(header)
	end := at + int(params)
	size := (end + prefixAlign - 1) &^ (prefixAlign - 1)
	if size > len(b) {
		return nil, fmt.Errorf("%w: %d bytes, the prefix alone needs %d", ErrPacket, len(b), size)
	}
	p.Header, p.Params, p.Planes = string(b[prefixFixed:at]), string(b[at:end]), b[size:]
	if p.Kind == End && (params != 0 || len(p.Planes) != 0) {
		return nil, fmt.Errorf("%w: an end with a frame's contents", ErrPacket)
	}
	return p, nil
}
