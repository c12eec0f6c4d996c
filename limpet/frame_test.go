package limpet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"kbus.internal/ksock"
)

func frameOf(h ksock.Header, data []byte) []byte {
	b := appendHead(nil, &h, len(data))
	return append(append(b, data...), tail(len(data))...)
}

// whole reads a frame as fromLink does.
func whole(d *decoder) (h ksock.Header, data []byte, err error) {
	h, n, err := d.head()
	switch {
	case err != nil:
		return h, nil, err
	case inBuffer(n):
		data, err = d.small(n)
	default:
		data = make([]byte, n)
		err = d.into(data)
	}
	return h, bytes.Clone(data), err
}

var someHeader = ksock.Header{
	ID: ksock.MessageID{Network: 1, Serial: 2}, InReplyTo: ksock.MessageID{Network: 3, Serial: 4}, To: 5, From: 6,
	OrigFrom: ksock.EndPoint{Network: 7, Ksock: 8}, FinalTo: ksock.EndPoint{Network: 9, Ksock: 10}, Flags: 0xabcd0003, Name: "$.A",
}

// R8.2: frames of every length of name and data come through, cut or joined anywhere.
func TestFrames(t *testing.T) {
	var all []byte
	type frame struct {
		h    ksock.Header
		data []byte
	}
	var want []frame
	for n := range 10 {
		for _, size := range []int{n, 100 + n, 20000 + n, 100000 + n} {
			h := someHeader
			h.Name = "$." + strings.Repeat("x", 1+n*n)
			data := bytes.Repeat([]byte{byte(n + 1)}, size)
			want = append(want, frame{h, data})
			f := frameOf(h, data)
			if len(f)%4 != 0 || len(f) != headSize+namePadded(len(h.Name))+dataPadded(size)+guardSize {
				t.Fatalf("a frame of %d bytes for name %d, data %d", len(f), len(h.Name), size)
			}
			all = append(all, f...)
		}
	}
	for how, r := range map[string]io.Reader{
		"joined": bytes.NewReader(all), "byte by byte": iotest.OneByteReader(bytes.NewReader(all)), "in halves": iotest.HalfReader(bytes.NewReader(all)),
	} {
		d := newDecoder(r, MaxData)
		for i, w := range want {
			h, data, err := whole(d)
			if err != nil || h != w.h || !bytes.Equal(data, w.data) {
				t.Fatalf("%s, frame %d: %+v with %d bytes, %v", how, i, h, len(data), err)
			}
		}
		if _, _, err := d.head(); err != io.EOF {
			t.Errorf("%s: at the end %v", how, err)
		}
	}
}

// R8.2: what can't be is refused, says which field, and is believed in nothing.
func TestBadFrames(t *testing.T) {
	good := frameOf(someHeader, []byte("data"))
	set := func(word int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.BigEndian.PutUint32(b[4*word:], v)
		return b
	}
	for field, b := range map[string][]byte{
		"the guard before the header": set(0, 0x7375624c),
		"the guard after the header":  set(15, 0),
		"the name's length":           set(13, 0),
		"the data's length":           set(14, 1001),
		"the guard after the message": set(len(good)/4-1, 1),
	} {
		_, _, err := whole(newDecoder(bytes.NewReader(b), 1000))
		var f *FrameError
		if !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, _, err := whole(newDecoder(bytes.NewReader(set(13, MaxName+1)), 1000)); err == nil {
		t.Error("a name of 4097 bytes")
	}
	long := someHeader
	long.Name = strings.Repeat("x", MaxName)
	if h, _, err := whole(newDecoder(bytes.NewReader(frameOf(long, nil)), 1000)); err != nil || h.Name != long.Name {
		t.Errorf("a name of 4096 bytes: %v", err)
	}
	for n := 1; n < len(good); n++ {
		if _, _, err := whole(newDecoder(bytes.NewReader(good[:n]), 1000)); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	// Nothing is allocated for what is only said to follow.
	claims := set(14, MaxData)
	if n := testing.AllocsPerRun(10, func() {
		d := newDecoder(bytes.NewReader(claims), MaxData)
		if _, n, err := d.head(); err != nil || d.skip(n) == nil {
			t.Error("skipped what is not there")
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
	if _, err := newDecoder(strings.NewReader("HTTP/1.1"), 0).greeting(); !strings.Contains(err.Error(), `"HTTP"`) {
		t.Errorf("greeted by %v", err)
	}
}

// R8.2: a bind event's data on the link.
func TestEventData(t *testing.T) {
	for n := 1; n < 10; n++ {
		e := ksock.BindEvent{Bound: n%2 == 0, Binder: uint32(n), Name: strings.Repeat("n", n)}
		b := appendEvent(nil, &e)
		if got, ok := readEvent(b); !ok || got != e || len(b) != 12+namePadded(n) {
			t.Errorf("%+v: %+v, %v in %d bytes", e, got, ok, len(b))
		}
	}
	for _, b := range []string{"", "\x00\x00\x00\x01\x00\x00\x00\x01", "\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01n\x00\x00\x00",
		"\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05n\x00\x00\x00", "\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xffn\x00\x00\x00"} {
		if e, ok := readEvent([]byte(b)); ok {
			t.Errorf("%q is %+v", b, e)
		}
	}
}

// pieces reads at most so many bytes at once; any number if 0.
type pieces struct {
	r    io.Reader
	most int
}

func (p pieces) Read(b []byte) (int, error) {
	if p.most > 0 {
		b = b[:min(len(b), p.most)]
	}
	return p.r.Read(b)
}

// FuzzDecoder: whatever comes, the decoder ends, takes no more memory than it was
// given bytes, and what it takes for frames are those bytes but for padding and extra.
func FuzzDecoder(f *testing.F) {
	f.Add(frameOf(someHeader, []byte("data")), uint16(1))
	f.Add(append(frameOf(someHeader, nil), frameOf(someHeader, bytes.Repeat([]byte("d"), 20000))...), uint16(1000))
	f.Add(appendGreeting(nil, 7), uint16(3))
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		if n, err := newDecoder(bytes.NewReader(in), 1<<20).greeting(); err == nil && !bytes.HasPrefix(in, appendGreeting(nil, n)) {
			t.Fatalf("greeting %d of %q", n, in)
		}
		d := newDecoder(pieces{bytes.NewReader(in), int(piece)}, 1<<20)
		for at := 0; ; {
			h, n, err := d.head()
			if err != nil {
				return
			}
			var data []byte
			switch {
			case inBuffer(n):
				data, err = d.small(n)
			case n <= len(in):
				data = make([]byte, n)
				err = d.into(data)
			default:
				if d.skip(n) == nil {
					t.Fatalf("%d bytes of data in %d", n, len(in))
				}
				return
			}
			if err != nil {
				return
			}
			again := frameOf(h, data)
			was := bytes.Clone(in[at : at+len(again)])
			copy(was[44:48], make([]byte, 4)) // extra
			pad := func(from, to int) { copy(was[from:to], make([]byte, to-from)) }
			name := headSize + len(h.Name)
			end := headSize + namePadded(len(h.Name))
			pad(name, end)
			pad(end+n, end+dataPadded(n))
			if !bytes.Equal(was, again) {
				t.Fatalf("%q was read as %q", was, again)
			}
			if e, ok := readEvent(data); ok {
				readEvent(appendEvent(nil, &e))
			}
			at += len(again)
		}
	})
}
