package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"
)

// The floors of a link: what two processes do with a TCP connection over loopback
// and nothing else, with the connections of Go that a Limpet uses.

// tcpPingPong is the round trip of Size bytes.
func (s *stage) tcpPingPong() (*Latency, error) {
	reports, err := s.tcp("tcp pong", "tcp ping")
	if err != nil {
		return nil, err
	}
	return reports[1].Latencies[""], nil
}

// tcpStream is the rate at which messages of Size bytes go one way.
func (s *stage) tcpStream() (perSecond float64, err error) {
	reports, err := s.tcp("tcp drain", "tcp source")
	if err != nil {
		return 0, err
	}
	return reports[0].perSecond(), nil
}

// perSecond is the rate of what was timed.
func (r *report) perSecond() float64 { return rate(r.Timed, r.Elapsed) }

func (s *stage) tcp(listens, connects string) ([]*report, error) {
	s.address = ""
	if err := s.enter(listens, connects); err != nil {
		return nil, err
	}
	return s.play()
}

const loopback = "127.0.0.1:0"

// accept waits for the other process, and begins.
func (w *worker) accept() (net.Conn, error) {
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if err := w.begin(report{Address: l.Addr().String()}); err != nil {
		return nil, err
	}
	return l.Accept()
}

func (w *worker) connect() (net.Conn, error) {
	c, err := net.Dial("tcp", w.Address)
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readMarked reads message n; io.EOF is the end.
func readMarked(r io.Reader, data []byte, n uint64) error {
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	if !marked(data, len(data), n) {
		return fmt.Errorf("another message than number %d", n)
	}
	return nil
}

func writeMarked(w io.Writer, data []byte, n uint64) error {
	mark(data, n)
	_, err := w.Write(data)
	return err
}

func tcpPong(w *worker) (*report, error) {
	c, err := w.accept()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	data := make([]byte, w.Size)
	for n := uint64(1); ; n++ {
		if err := readMarked(c, data, n); err == io.EOF {
			return &report{Messages: int64(n - 1)}, nil
		} else if err != nil {
			return nil, err
		}
		if err := writeMarked(c, data, n); err != nil {
			return nil, err
		}
	}
}

func tcpPing(w *worker) (*report, error) {
	c, err := w.connect()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	data, n := make([]byte, w.Size), uint64(0)
	return w.timed(1, step{do: func() error {
		n++
		if err := writeMarked(c, data, n); err != nil {
			return err
		}
		return readMarked(c, data, n)
	}})
}

func tcpSource(w *worker) (*report, error) {
	c, err := w.connect()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	data, n := make([]byte, w.Size), uint64(0)
	for begin := now(); now()-begin < int64(w.Duration) || n < 3; { // a rate takes a few
		n++
		if err := writeMarked(c, data, n); err != nil {
			return nil, err
		}
	}
	return &report{Messages: int64(n)}, nil
}

// tcpBuffer is how much tcpDrain reads ahead if messages are smaller than that.
const tcpBuffer = 32 << 10

func tcpDrain(w *worker) (*report, error) {
	c, err := w.accept()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, tcpBuffer)
	data, begin := make([]byte, w.Size), int64(0)
	for n := uint64(1); ; n++ {
		if err := readMarked(r, data, n); err == io.EOF {
			return &report{Messages: int64(n - 1), Timed: int64(n - 2), Elapsed: time.Duration(now() - begin)}, nil
		} else if err != nil {
			return nil, err
		}
		if begin == 0 {
			begin = now()
		}
	}
}
