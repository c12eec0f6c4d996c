package y4m

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

const (
	magic = "YUV4MPEG2"

	// MaxHeaderLine is the longest stream header that is accepted, in bytes
	// without its newline.
	MaxHeaderLine = 4096
	// MaxFrameLine is the longest FRAME line that is accepted, in bytes
	// without its newline.
	MaxFrameLine = 1024
	// maxSide is the largest width and height accepted, in pixels.
	maxSide = 1 << 16
	// maxFrame is the largest frame accepted, in bytes.
	maxFrame = 1 << 31
)

// ErrFormat is what errors.Is finds in every error about bytes that are not
// YUV4MPEG2.
var ErrFormat = errors.New("not a YUV4MPEG2 stream")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Ratio is a fraction. 0:0 stands for "unknown".
type Ratio struct{ Num, Den uint32 }

// Header is a stream's first line.
type Header struct {
	Line          string // as it came, without the newline
	Width, Height int    // in pixels, at least 1
	Rate          Ratio  // frames a second; 0:0 if unknown or absent
	Aspect        Ratio  // of a pixel; 0:0 if unknown or absent
	Interlace     byte   // 'p', 't', 'b', 'm' or '?'
	Colour        string // such as "420jpeg" (the default), "422p10", "mono"
	Comments      []string

	frameSize int
}

// FrameSize is the size of every frame's planes, in bytes.
func (h *Header) FrameSize() int { return h.frameSize }

// ParseHeader reads a stream's header line, given without its newline.
func ParseHeader(line string) (*Header, error) {
	if len(line) > MaxHeaderLine {
		return nil, malformed("header line longer than %d bytes", MaxHeaderLine)
	}
	words := strings.Split(line, " ")
	if words[0] != magic {
		return nil, malformed("it begins with %.20q instead of %q", line, magic+" ")
	}
	if err := printable(line); err != nil {
		return nil, err
	}
	h := &Header{Line: line, Interlace: '?'}
	var seen [256]bool
	for _, word := range words[1:] {
		if word == "" { // doubled or trailing space, which some writers leave
			continue
		}
		tag, value := word[0], word[1:]
		if tag == 'X' {
			h.Comments = append(h.Comments, value)
			continue
		}
		if seen[tag] {
			return nil, malformed("tag %c given twice", tag)
		}
		seen[tag] = true
		if err := h.set(tag, value); err != nil {
			return nil, err
		}
	}
	if h.Width == 0 || h.Height == 0 {
		return nil, malformed("the header names no width (W) or no height (H)")
	}
	if h.Colour == "" {
		h.Colour = h.colourFromComments()
	}
	size, err := frameSize(h.Colour, int64(h.Width), int64(h.Height))
	if err != nil {
		return nil, err
	}
	h.frameSize = size
	return h, nil
}

func (h *Header) set(tag byte, value string) (err error) {
	switch tag {
	case 'W':
		h.Width, err = side("width", value)
	case 'H':
		h.Height, err = side("height", value)
	case 'F':
		h.Rate, err = ratio("frame rate", value)
	case 'A':
		h.Aspect, err = ratio("pixel aspect", value)
	case 'I':
		if len(value) != 1 || !strings.Contains("ptbm?", value) {
			return malformed("interlacing %q is none of p, t, b, m, ?", value)
		}
		h.Interlace = value[0]
	case 'C':
		if value == "" {
			return malformed("empty colour space")
		}
		h.Colour = value
	default:
		return malformed("unknown tag %q", string(rune(tag)))
	}
	return err
}

// colourFromComments is for writers older than the C tag, which say it in a
// comment (XYSCSS=422); 420jpeg is the format's default.
func (h *Header) colourFromComments() string {
	for _, c := range h.Comments {
		if v, ok := strings.CutPrefix(c, "YSCSS="); ok && v != "" {
			return strings.ToLower(v)
		}
	}
	return "420jpeg"
}

func side(what, value string) (int, error) {
	n, err := digits(value)
	if err != nil || n == 0 || n > maxSide {
		return 0, malformed("%s %q is no number from 1 to %d", what, value, maxSide)
	}
	return int(n), nil
}

func ratio(what, value string) (Ratio, error) {
	num, den, ok := strings.Cut(value, ":")
	n, errN := digits(num)
	d, errD := digits(den)
	if !ok || errN != nil || errD != nil || (n == 0) != (d == 0) {
		return Ratio{}, malformed("%s %q is no fraction such as 30000:1001", what, value)
	}
	return Ratio{n, d}, nil
}

// digits is ParseUint without the sign, underscore and base of strconv.
func digits(s string) (uint32, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func printable(line string) error {
	for _, c := range []byte(line) {
		if c < ' ' || c == 0x7f {
			return malformed("control byte %#02x in %.40q", c, line)
		}
	}
	return nil
}

// frameSize is the size of a frame's planes in bytes. Planes with less colour
// than brightness are rounded up to whole samples.
func frameSize(colour string, w, h int64) (int, error) {
	base, depth, err := splitDepth(colour)
	if err != nil {
		return 0, err
	}
	var chroma int64 // samples of both colour planes, and of alpha
	switch base {
	case "mono":
	case "420", "420jpeg", "420mpeg2", "420paldv":
		chroma = 2 * ((w + 1) / 2) * ((h + 1) / 2)
	case "411":
		chroma = 2 * ((w + 3) / 4) * h
	case "422":
		chroma = 2 * ((w + 1) / 2) * h
	case "440":
		chroma = 2 * w * ((h + 1) / 2)
	case "444":
		chroma = 2 * w * h
	case "444alpha":
		chroma = 3 * w * h
	default:
		return 0, malformed("unknown colour space %q", colour)
	}
	size := (w*h + chroma) * int64((depth+7)/8)
	if size > maxFrame || size > math.MaxInt {
		return 0, malformed("a frame of %d bytes is larger than %d", size, maxFrame)
	}
	return int(size), nil
}

// splitDepth takes "420p10" and "mono10" apart into colour space and bits a
// sample.
func splitDepth(colour string) (base string, depth int, err error) {
	base, bits := colour, ""
	if rest, ok := strings.CutPrefix(colour, "mono"); ok {
		base, bits = "mono", rest
	} else if b, d, ok := strings.Cut(colour, "p"); ok && len(b) == 3 && d != "" && d[0] <= '9' {
		base, bits = b, d
	}
	switch bits {
	case "":
		return base, 8, nil
	case "9", "10", "12", "14", "16":
		depth, err = strconv.Atoi(bits)
		return base, depth, err
	}
	return "", 0, malformed("unknown colour space %q", colour)
}

// readLine reads up to a newline, which it takes but does not return, byte by
// byte: whatever follows the line stays unread, for the caller to read to
// where it belongs. head is what of the line has been read already.
func readLine(r io.Reader, head []byte, limit int) (string, error) {
	line := head
	var b [1]byte
	for {
		n, err := io.ReadFull(r, b[:])
		switch {
		case n == 1 && b[0] == '\n':
			return string(line), nil
		case n == 1 && len(line) >= limit:
			return "", malformed("line longer than %d bytes: %.40q", limit, line)
		case n == 1:
			line = append(line, b[0])
		case err == io.EOF && len(line) == 0:
			return "", io.EOF
		case err == io.EOF:
			return "", malformed("it ends within a line: %.40q", line)
		default:
			return "", err
		}
	}
}
