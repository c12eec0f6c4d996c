package limpet

import "io"

const (
	// bufferSize is how much is read ahead, and so copied in between.
	bufferSize = 64 << 10
	// aheadOfLarge is how much is read ahead when large data was read last: enough
	// for the end of that frame and the beginning of the next, whose data is likely
	// to be as large, and then goes straight to where it belongs.
	aheadOfLarge = 256
	// Of large data leastAwaited to mostAwaited bytes are waited for at a time: while
	// they are read the next ones come.
	leastAwaited = 64 << 10
	mostAwaited  = 256 << 10
	// mostEmpty is how often a link may give nothing, and no error either.
	mostEmpty = 100
)

// A reader reads a link: small pieces out of a buffer, large ones to their place.
type reader struct {
	r     io.Reader
	buf   []byte
	a, b  int // what is in the buffer: buf[a:b]
	ahead int // how much is read ahead now
}

func newReader(r io.Reader) reader {
	return reader{r: r, buf: make([]byte, bufferSize), ahead: bufferSize}
}

// peek returns the next n bytes, at most bufferSize, which stay good until the
// next read; what there is and the error if the link ends before.
func (r *reader) peek(n int) ([]byte, error) {
	for empty := 0; r.b-r.a < n; {
		if r.a > 0 && len(r.buf)-r.a < n {
			r.a, r.b = 0, copy(r.buf, r.buf[r.a:r.b])
		}
		if r.a == r.b {
			r.a, r.b = 0, 0
		}
		end := min(r.b+max(n-(r.b-r.a), r.ahead), len(r.buf))
		got, err := r.r.Read(r.buf[r.b:end])
		r.b += got
		switch {
		case got > 0: // an error will come again
			empty = 0
		case err == nil && empty < mostEmpty:
			empty++
		case err == nil:
			return r.buf[r.a:r.b], io.ErrNoProgress
		default:
			return r.buf[r.a:r.b], err
		}
	}
	return r.buf[r.a : r.a+n], nil
}

// drop takes n bytes that were peeked.
func (r *reader) drop(n int) { r.a += n }

// fill fills to, by the link itself but for what was read ahead.
func (r *reader) fill(to []byte) error {
	n := copy(to, r.buf[r.a:r.b])
	r.a += n
	to = to[n:]
	if w, ok := r.r.(Awaiter); ok {
		for len(to) >= leastAwaited {
			if err := w.Await(min(len(to), mostAwaited)); err != nil {
				return err
			}
			n, err := io.ReadAtLeast(r.r, to, 1)
			if err != nil {
				return err
			}
			to = to[n:]
		}
	}
	_, err := io.ReadFull(r.r, to)
	return err
}

// skip takes n bytes and forgets them.
func (r *reader) skip(n int) error {
	for n > 0 {
		b, err := r.peek(min(n, len(r.buf)))
		if err != nil {
			return err
		}
		r.drop(len(b))
		n -= len(b)
	}
	return nil
}
