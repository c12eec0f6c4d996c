package y4m

import (
	"fmt"
	"io"
	"strings"
)

const frameWord = "FRAME"

// Reader reads one stream. Next and ReadFrame are called in turn, by one
// goroutine.
type Reader struct {
	r      io.Reader
	header *Header
	frames int
}

// NewReader reads the stream's header. An input without a byte gives io.EOF;
// errors about the input's form answer to ErrFormat, others are r's own.
//
// r is read in pieces that end exactly with each line and each frame, so that
// nothing needs a buffer; it should be the file or pipe itself.
func NewReader(r io.Reader) (*Reader, error) {
	line, err := readLine(r, nil, MaxHeaderLine)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(line)
	if err != nil {
		return nil, err
	}
	return &Reader{r: r, header: h}, nil
}

// Header is the stream's header.
func (r *Reader) Header() *Header { return r.header }

// Next reads the line before a frame and returns its parameters as they came,
// "" if there are none. The stream's end is io.EOF.
func (r *Reader) Next() (params string, err error) {
	var buf [len(frameWord) + 1]byte
	n, err := io.ReadFull(r.r, buf[:])
	if err == io.EOF {
		return "", io.EOF
	}
	if err == io.ErrUnexpectedEOF {
		return "", malformed("frame %d: it ends within a line: %q", r.frames, buf[:n])
	}
	if err != nil {
		return "", err
	}
	line := frameWord
	if string(buf[:]) != frameWord+"\n" {
		if string(buf[:]) != frameWord+" " {
			return "", malformed("frame %d begins with %q instead of %q", r.frames, buf[:], frameWord)
		}
		if line, err = readLine(r.r, buf[:], MaxFrameLine); err != nil {
			return "", fmt.Errorf("frame %d: %w", r.frames, err)
		}
	}
	if err := printable(line); err != nil {
		return "", fmt.Errorf("frame %d: %w", r.frames, err)
	}
	r.frames++
	return line[len(frameWord):], nil
}

// ReadFrame reads the planes of the frame that Next announced straight into
// planes, which must be Header().FrameSize() bytes long.
func (r *Reader) ReadFrame(planes []byte) error {
	if len(planes) != r.header.frameSize {
		return fmt.Errorf("memory for a frame is %d bytes instead of %d", len(planes), r.header.frameSize)
	}
	n, err := io.ReadFull(r.r, planes)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return malformed("frame %d ends after %d of %d bytes", r.frames-1, n, len(planes))
	}
	return err
}

// Skip reads the planes of the frame that Next announced and forgets them.
func (r *Reader) Skip() error {
	n, err := io.CopyN(io.Discard, r.r, int64(r.header.frameSize))
	if err == io.EOF {
		return malformed("frame %d ends after %d of %d bytes", r.frames-1, n, r.header.frameSize)
	}
	return err
}

// Writer writes one stream, one goroutine at a time.
type Writer struct {
	w      io.Writer
	header *Header
}

// NewWriter writes the stream's header line.
func NewWriter(w io.Writer, h *Header) (*Writer, error) {
	if _, err := io.WriteString(w, h.Line+"\n"); err != nil {
		return nil, err
	}
	return &Writer{w: w, header: h}, nil
}

// WriteFrame writes one frame: its parameters as Next returned them, and its
// planes straight out of planes.
func (w *Writer) WriteFrame(params string, planes []byte) error {
	if err := checkParams(params); err != nil {
		return err
	}
	if len(planes) != w.header.frameSize {
		return malformed("a frame of %d bytes in a stream of frames of %d", len(planes), w.header.frameSize)
	}
	if _, err := io.WriteString(w.w, frameWord+params+"\n"); err != nil {
		return err
	}
	_, err := w.w.Write(planes)
	return err
}

func checkParams(params string) error {
	if params != "" && !strings.HasPrefix(params, " ") || len(frameWord)+len(params) > MaxFrameLine {
		return malformed("frame parameters %.40q", params)
	}
	return printable(params)
}
