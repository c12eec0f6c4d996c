package y4m

import (
	"bytes"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"
)

func TestParseHeader(t *testing.T) {
	h, err := ParseHeader("YUV4MPEG2 W1920 H1080 F30000:1001 Ip A1:1 C420p10 XYSCSS=420P10 XCOLORRANGE=LIMITED")
	if err != nil {
		t.Fatal(err)
	}
	if h.Width != 1920 || h.Height != 1080 || h.Rate != (Ratio{30000, 1001}) || h.Interlace != 'p' ||
		h.Aspect != (Ratio{1, 1}) || h.Colour != "420p10" || len(h.Comments) != 2 || h.Comments[0] != "YSCSS=420P10" {
		t.Errorf("read as %+v", h)
	}
	if got, want := h.FrameSize(), 1920*1080*3; got != want {
		t.Errorf("frame size %d, want %d", got, want)
	}
}

// The sizes are counted by hand: samples of each plane, by rows of the format's
// description.
func TestFrameSize(t *testing.T) {
	for _, test := range []struct {
		header string
		want   int
	}{
		{"W4 H2", 8 + 2 + 2},
		{"W5 H3", 15 + 3*2 + 3*2},
		{"W5 H3 C420", 15 + 6 + 6},
		{"W5 H3 C420jpeg", 15 + 6 + 6},
		{"W5 H3 C420mpeg2", 15 + 6 + 6},
		{"W5 H3 C420paldv", 15 + 6 + 6},
		{"W5 H3 C420p10", 2 * (15 + 6 + 6)},
		{"W5 H3 C420p9", 2 * (15 + 6 + 6)},
		{"W5 H3 C420p12", 2 * (15 + 6 + 6)},
		{"W5 H3 C420p14", 2 * (15 + 6 + 6)},
		{"W5 H3 C420p16", 2 * (15 + 6 + 6)},
		{"W5 H3 C422", 15 + 9 + 9},
		{"W5 H3 C422p10", 2 * (15 + 9 + 9)},
		{"W5 H3 C411", 15 + 6 + 6},
		{"W9 H1 C411", 9 + 3 + 3},
		{"W5 H3 C440", 15 + 10 + 10},
		{"W5 H3 C444", 45},
		{"W5 H3 C444p12", 90},
		{"W5 H3 C444alpha", 60},
		{"W5 H3 Cmono", 15},
		{"W5 H3 Cmono10", 30},
		{"W5 H3 Cmono16", 30},
		{"W5 H3 XYSCSS=422", 15 + 9 + 9},
		{"W5 H3 XYSCSS=420JPEG", 15 + 6 + 6},
		{"W5 H3 C444 XYSCSS=420JPEG", 45},
		{"W1 H1", 3},
		// as ffmpeg 5.1 writes them
		{"W321 H181 F240:1 Ip A2896:2889 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=LIMITED", 321*181 + 2*161*91},
		{"W321 H181 F25:1 Ip A1:1 C420p14 XYSCSS=420P14 XCOLORRANGE=LIMITED", 2 * (321*181 + 2*161*91)},
		{"W321 H181 F25:1 Ip A1:1 Cmono12 XCOLORRANGE=FULL", 2 * 321 * 181},
	} {
		t.Run(test.header, func(t *testing.T) {
			h, err := ParseHeader("YUV4MPEG2 " + test.header)
			if err != nil {
				t.Fatal(err)
			}
			if h.FrameSize() != test.want {
				t.Errorf("%d bytes a frame, want %d", h.FrameSize(), test.want)
			}
		})
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	for _, line := range []string{
		"", "YUV4MPEG", "YUV4MPEG2", "YUV4MPEG2W4 H2", "RIFF W4 H2",
		"YUV4MPEG2 W4", "YUV4MPEG2 H4", "YUV4MPEG2 W0 H4", "YUV4MPEG2 W-4 H4", "YUV4MPEG2 W+4 H4",
		"YUV4MPEG2 W4 H4 W4", "YUV4MPEG2 W4x H4", "YUV4MPEG2 W65537 H4", "YUV4MPEG2 W99999999999 H4",
		"YUV4MPEG2 W4 H4 F25", "YUV4MPEG2 W4 H4 F25:0", "YUV4MPEG2 W4 H4 F0:1", "YUV4MPEG2 W4 H4 F:", "YUV4MPEG2 W4 H4 F1:1:1",
		"YUV4MPEG2 W4 H4 Iq", "YUV4MPEG2 W4 H4 I", "YUV4MPEG2 W4 H4 A1", "YUV4MPEG2 W4 H4 Z1",
		"YUV4MPEG2 W4 H4 C", "YUV4MPEG2 W4 H4 C420p11", "YUV4MPEG2 W4 H4 C420p", "YUV4MPEG2 W4 H4 C423",
		"YUV4MPEG2 W4 H4 Cmono7", "YUV4MPEG2 W4 H4 C411p", "YUV4MPEG2 W4\tH4", "YUV4MPEG2 W4 H4 Xa\x00b",
		"YUV4MPEG2 W65536 H65536 C444p16",
		"YUV4MPEG2 W4 H4 X" + strings.Repeat("x", MaxHeaderLine),
	} {
		if h, err := ParseHeader(line); !errors.Is(err, ErrFormat) {
			t.Errorf("%.40q: %+v, %v; want ErrFormat", line, h, err)
		}
	}
}

const small = "YUV4MPEG2 W2 H2 F25:1 C420jpeg XA=B\n" + // 6 bytes a frame
	"FRAME\nabcdef" +
	"FRAME Ippp Xcomment\nFRAME\n" + // planes that look like a line
	"FRAME\n\n\n\n\n\n\n"

func copyStream(r io.Reader, w io.Writer) (frames int, err error) {
	in, err := NewReader(r)
	if err != nil {
		return 0, err
	}
	out, err := NewWriter(w, in.Header())
	if err != nil {
		return 0, err
	}
	planes := make([]byte, in.Header().FrameSize())
	for ; ; frames++ {
		params, err := in.Next()
		if err == io.EOF {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		if err := in.ReadFrame(planes); err != nil {
			return frames, err
		}
		if err := out.WriteFrame(params, planes); err != nil {
			return frames, err
		}
	}
}

func TestStreamIsCopiedByteForByte(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"whole":        strings.NewReader(small),
		"byte by byte": iotest.OneByteReader(strings.NewReader(small)),
		"halves":       iotest.HalfReader(strings.NewReader(small)),
	} {
		var out bytes.Buffer
		frames, err := copyStream(r, &out)
		if err != nil || frames != 3 || out.String() != small {
			t.Errorf("%s: %d frames, error %v, output %q", name, frames, err, out.String())
		}
	}
}

// An input cut anywhere but between frames is an error that says so.
func TestStreamCutShort(t *testing.T) {
	whole := map[int]bool{
		strings.Index(small, "\n") + 1:                         true,
		strings.Index(small, "FRAME Ippp"):                     true,
		strings.Index(small, "FRAME\n\n"):                      true,
		len(small):                                             true,
		strings.Index(small, "FRAME\nabcdef") + len("FRAME\n"): false,
	}
	for n := range len(small) + 1 {
		_, err := copyStream(strings.NewReader(small[:n]), io.Discard)
		switch {
		case n == 0:
			if err != io.EOF {
				t.Errorf("empty input: %v, want io.EOF", err)
			}
		case whole[n]:
			if err != nil {
				t.Errorf("cut at %d, after a whole frame: %v", n, err)
			}
		default:
			if !errors.Is(err, ErrFormat) {
				t.Errorf("cut at %d: %v, want ErrFormat", n, err)
			}
		}
	}
}

func TestStreamRefuses(t *testing.T) {
	const head = "YUV4MPEG2 W2 H2\n"
	for _, body := range []string{
		"FRAMEabcdef", "frame\nabcdef", "FRAME\x00abcdef", "FRAME I\x01\nabcdef",
		"FRAME " + strings.Repeat("x", MaxFrameLine) + "\nabcdef",
		"FRAME\nabcdefg",
	} {
		if _, err := copyStream(strings.NewReader(head+body), io.Discard); !errors.Is(err, ErrFormat) {
			t.Errorf("%.30q: %v, want ErrFormat", body, err)
		}
	}
	boom := errors.New("boom")
	if _, err := copyStream(io.MultiReader(strings.NewReader(head+"FRAME\nab"), iotest.ErrReader(boom)), io.Discard); err != boom {
		t.Errorf("the reader's own error came as %v", err)
	}
}

// A frame is read straight to where it belongs: no read reaches past the
// line or the frame that was asked for.
func TestReaderReadsNothingAhead(t *testing.T) {
	src := strings.NewReader(small)
	r, err := NewReader(src)
	if err != nil {
		t.Fatal(err)
	}
	left := func(want string) {
		t.Helper()
		if got := small[len(small)-src.Len():]; !strings.HasPrefix(got, want) {
			t.Errorf("unread is %q, want it to begin with %q", got, want)
		}
	}
	left("FRAME\nabc")
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	left("abcdef")
	if err := r.Skip(); err != nil {
		t.Fatal(err)
	}
	if params, err := r.Next(); err != nil || params != " Ippp Xcomment" {
		t.Fatalf("parameters %q, error %v", params, err)
	}
	left("FRAME\nFRAME\n")
	if err := r.ReadFrame(make([]byte, 5)); err == nil || errors.Is(err, ErrFormat) {
		t.Errorf("memory of the wrong size: %v", err)
	}
}

func TestPacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packet{
			Kind:   rapid.SampledFrom([]Kind{Frame, End}).Draw(t, "kind"),
			Stream: rapid.Uint64().Draw(t, "stream"),
			Number: rapid.Uint64().Draw(t, "number"),
			Header: rapid.StringN(-1, -1, 100).Draw(t, "header"),
		}
		if p.Kind == Frame {
			p.Params = rapid.StringN(-1, -1, 40).Draw(t, "params")
			p.Planes = rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "planes")
		}
		b := bytes.Repeat([]byte{0xff}, p.PrefixSize()+len(p.Planes))
		copy(p.PutPrefix(b), p.Planes)
		got, err := ParsePacket(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Kind != p.Kind || got.Stream != p.Stream || got.Number != p.Number || got.Header != p.Header ||
			got.Params != p.Params || !bytes.Equal(got.Planes, p.Planes) {
			t.Fatalf("written %+v, read %+v", p, *got)
		}
		if (len(b)-len(p.Planes))%prefixAlign != 0 {
			t.Fatalf("planes begin at %d", len(b)-len(p.Planes))
		}
		for n := range p.PrefixSize() {
			if _, err := ParsePacket(b[:n]); !errors.Is(err, ErrPacket) {
				t.Fatalf("cut at %d: %v", n, err)
			}
		}
	})
}

func TestDueDoesNotDrift(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<40).Draw(t, "n")
		r := Ratio{rapid.Uint32Range(1, 1<<32-1).Draw(t, "num"), rapid.Uint32Range(1, 1<<32-1).Draw(t, "den")}
		exact := new(big.Int).SetUint64(n)
		exact.Mul(exact, big.NewInt(int64(r.Den)))
		exact.Mul(exact, big.NewInt(int64(time.Second)))
		exact.Div(exact, big.NewInt(int64(r.Num)))
		got := Due(n, r)
		if !exact.IsInt64() || exact.Int64() > 1<<63-1-int64(3*time.Second) {
			if got < 1<<63-1-3*time.Second {
				t.Fatalf("frame %d at %v: %v instead of no end", n, r, got)
			}
			return
		}
		if int64(got) != exact.Int64() {
			t.Fatalf("frame %d at %v: %d ns instead of %d", n, r, got, exact)
		}
	})
	if got := Due(240*3600, Ratio{240, 1}); got != time.Hour {
		t.Errorf("an hour at 240 frames a second takes %v", got)
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]Ratio{
		"25": {25, 1}, "29.97": {2997, 100}, "30000/1001": {30000, 1001}, "30000:1001": {30000, 1001}, "0.5": {5, 10}, ".5": {5, 10},
	} {
		if got, err := ParseRate(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "0/0", "0/5", "-1", "25/", "/25", "25/0", "x", "1e3", "1.1.1", "99999999999", "1.00000000001", "NaN"} {
		if got, err := ParseRate(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("YUV4MPEG2 W5 H3 C420p10 A1:1 Ip F0:0\nFRAME\n"))
	f.Add([]byte("YUV4MPEG2 W1 H1 Cmono\nFRAME X\nxFRAME\ny"))
	f.Add([]byte("YUV4MPEG2 W1 H1 XYSCSS=444\nFRAME\nabc"))
	f.Fuzz(func(t *testing.T, input []byte) {
		if h, err := ParseHeader(firstLine(input)); err == nil && h.FrameSize() > 1<<20 {
			return // valid, but its frames are not in the input
		}
		var out bytes.Buffer
		_, err := copyStream(bytes.NewReader(input), &out)
		if err == nil && !bytes.Equal(out.Bytes(), input) {
			t.Errorf("%q was written as %q", input, out.Bytes())
		}
		if err != nil && err != io.EOF && !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v does not say that the form is wrong", input, err)
		}
		if !bytes.HasPrefix(input, out.Bytes()) {
			t.Errorf("%q: what was written, %q, is not its beginning", input, out.Bytes())
		}
	})
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line)
}

func FuzzPacket(f *testing.F) {
	p := Packet{Kind: Frame, Stream: 1, Number: 2, Header: "YUV4MPEG2 W1 H1", Params: " Ip", Planes: []byte("abc")}
	b := make([]byte, p.PrefixSize()+3)
	copy(p.PutPrefix(b), p.Planes)
	f.Add(b)
	e := Packet{Kind: End, Number: 9, Header: "YUV4MPEG2 W1 H1"}
	b = make([]byte, e.PrefixSize())
	e.PutPrefix(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, input []byte) {
		p, err := ParsePacket(input)
		if err != nil {
			if !errors.Is(err, ErrPacket) {
				t.Errorf("%v", err)
			}
			return
		}
		again := make([]byte, p.PrefixSize()+len(p.Planes))
		copy(p.PutPrefix(again), p.Planes)
		q, err := ParsePacket(again)
		if err != nil || q.Kind != p.Kind || q.Stream != p.Stream || q.Number != p.Number || q.Header != p.Header || q.Params != p.Params || !bytes.Equal(q.Planes, p.Planes) {
			t.Errorf("%+v came back as %+v, %v", p, q, err)
		}
	})
}
