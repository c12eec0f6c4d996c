package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/shm/handoff"
)

// Error is what the supervisor answers when it did not do what it was asked.
type Error struct {
	Errno unix.Errno
	Text  string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Text
}

// Unwrap is the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// Errors of a connection.
var (
	// ErrNoSupervisor is wrapped by errors that mean that nobody answers at the socket.
	ErrNoSupervisor = errors.New("no supervisor answers")
	// ErrLost is wrapped by errors of calls whose answer will not come, because
	// the connection ended: whether they were carried out is not known.
	ErrLost = errors.New("the supervisor ended before it answered")
)

// A Conn is one connection to a supervisor, for one Ksock at most. Its methods
// may be called by many goroutines; calls are carried out one at a time.
type Conn struct {
	t      *handoff.Conn
	turn   chan struct{} // holds a token; its holder may call
	number uint32        // of the last call
	done   chan struct{} // closed at the end

	mu   sync.Mutex
	want uint32 // the call that somebody waits for
	got  chan reply
	err  error // why it ended
}

type reply struct {
	answer *Answer
	file   *os.File
}

// Dial connects to the supervisor that listens at socket. Errors:
// ErrNoSupervisor (no socket there, or nobody behind it), EACCES, EMFILE and
// the like of the system. Whether the supervisor admits the caller shows at the
// first Call.
func Dial(ctx context.Context, socket string) (*Conn, error) {
	t, err := handoff.Dial(ctx, socket)
	switch { // the errno must not pass for the supervisor's own, such as R3.1's ENOENT
	case err == nil:
	case errors.Is(err, handoff.ErrBadPath):
		return nil, fmt.Errorf("%w: %v; it has to be where kbus up listens", ErrNoSupervisor, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w at %s (%v); kbus up starts one", ErrNoSupervisor, socket, err)
	default:
		return nil, err
	}
	c := &Conn{t: t, turn: make(chan struct{}, 1), done: make(chan struct{})}
	c.turn <- struct{}{}
	go c.receive()
	return c, nil
}

// Done is closed when the connection has ended, by whichever side; Err says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is nil until the connection has ended, then an *Error if the supervisor
// said why, os.ErrClosed after Close, else ErrLost.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection, and with it its Ksock. It may be repeated.
func (c *Conn) Close() error {
	c.end(os.ErrClosed)
	return nil
}

// end ends the connection; the first reason stays.
func (c *Conn) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
	}
	c.mu.Unlock()
	if first {
		c.t.Close()
		close(c.done)
	}
}

// receive hands answers to whoever waits for them until the connection ends.
func (c *Conn) receive() {
	buf := make([]byte, MaxAnswer)
	for {
		b, files, err := c.t.Receive(context.Background(), buf)
		switch {
		case err == nil:
		case err == io.EOF:
			c.end(ErrLost)
			return
		case errors.Is(err, handoff.ErrFilesLost): // the region's, and nothing can be done without it
			c.end(&Error{unix.EMFILE, err.Error()})
			return
		default:
			c.end(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		a, err := ParseAnswer(b)
		if err != nil {
			closeAll(files)
			c.end(err)
			return
		}
		if a.Number == 0 {
			closeAll(files)
			c.end(&Error{a.Errno, a.Text})
			return
		}
		c.mu.Lock()
		if a.Number == c.want {
			r := reply{answer: a}
			if len(files) > 0 {
				r.file, files = files[0], files[1:]
			}
			c.want = 0
			c.got <- r // has room: it is this call's own
		}
		c.mu.Unlock()
		closeAll(files)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Call sends r, with f attached if it is not nil, and waits for its answer and
// the descriptor that came with it, which is then the caller's. It sets
// r.Number. Errors: *Error (the supervisor's; a refused connection too), ErrLost
// (not known whether it was done), ErrFrame and ENAMETOOLONG (not sent),
// os.ErrClosed, and the context's cause, after which it is not known whether
// it was or will be done.
func (c *Conn) Call(ctx context.Context, r *Request, f *os.File) (*Answer, *os.File, error) {
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-c.done:
		return nil, nil, c.Err()
	}
	if c.number++; c.number == 0 {
		c.number = 1
	}
	r.Number = c.number
	b, err := r.Append(nil)
	if err != nil {
		return nil, nil, err
	}
	got := make(chan reply, 1)
	c.mu.Lock()
	c.want, c.got = r.Number, got
	c.mu.Unlock()
	var files []*os.File
	if f != nil {
		files = []*os.File{f}
	}
	if err := c.t.Send(ctx, b, files...); ended(err) {
		// The reason comes by receive, if there is one; it is on its way already.
		defer time.AfterFunc(lastWords, func() { c.end(fmt.Errorf("%w: %w", ErrLost, err)) }).Stop()
	} else if err != nil {
		return nil, nil, fmt.Errorf("ask the supervisor: %w", err)
	}
	select {
	case g := <-got:
		return g.result()
	case <-c.done:
		select {
		case g := <-got: // came just before the end
			return g.result()
		default:
			return nil, nil, c.Err()
		}
	case <-ctx.Done():
		c.mu.Lock()
		c.want = 0
		c.mu.Unlock()
		select {
		case g := <-got:
			return g.result()
		default:
			return nil, nil, context.Cause(ctx)
		}
	}
}

// lastWords is how long what the supervisor said last may be under way.
const lastWords = time.Second

func ended(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed)
}

func (g reply) result() (*Answer, *os.File, error) {
	if g.answer.Errno != 0 {
		if g.file != nil {
			g.file.Close()
		}
		return nil, nil, &Error{g.answer.Errno, g.answer.Text}
	}
	return g.answer, g.file, nil
}
