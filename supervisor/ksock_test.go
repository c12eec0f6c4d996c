package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm"
)

// end is a whole Ksock: its line to the supervisor and its data path.
type end struct {
	*control.Link
	mem *shm.Memory
	c   *ring.Client
}

func newEnd(ctx context.Context, socket string, bus int) (*end, error) {
	l, err := control.Open(ctx, socket, bus, false)
	if err != nil {
		return nil, err
	}
	e := &end{Link: l}
	if e.mem, err = shm.Map(l.Region()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	var b *ring.Bus
	if b, err = ring.Attach(e.mem); err == nil {
		e.c, err = b.Client(l.Slot(), l.Ksock(), ring.ReadWrite)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *end) Close() error {
	if e.c != nil {
		e.c.Interrupt()
	}
	return errors.Join(e.mem.Close(), e.Link.Close())
}

func openEnd(t testing.TB, socket string, bus int) *end {
	t.Helper()
	e, err := newEnd(t.Context(), socket, bus)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// next waits for a message and returns its name and data, in a word each.
func (e *end) next(ctx context.Context) (string, error) {
	if err := e.c.WaitReadable(ctx, 0); err != nil {
		return "", err
	}
	var m ring.Message
	ok, err := e.c.Take(&m)
	if err != nil || !ok {
		return "", errors.Join(err, errors.New("readable, but nothing to read"))
	}
	defer m.Release()
	return strings.TrimSpace(m.Name + " " + string(m.Data())), nil
}

func (e *end) mustNext(t testing.TB) string {
	t.Helper()
	s, err := e.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (e *end) request(t testing.TB, name string) {
	t.Helper()
	if _, err := e.c.Send(&ring.Header{Name: name, Flags: ring.WantReply}, nil); err != nil {
		t.Fatal(err)
	}
}

// sendWaiting sends with ALL_OR_WAIT and waits until it is out.
func (e *end) sendWaiting(ctx context.Context, name, data string) error {
	_, err := e.c.Send(&ring.Header{Name: name, Flags: ring.AllOrWait}, []byte(data))
	if errors.Is(err, unix.EAGAIN) {
		err = e.c.WaitWritable(ctx, 0)
	}
	return err
}

// spoil writes nonsense into the region and has the supervisor work on it.
func (e *end) spoil(ctx context.Context, random *rand.Rand) {
	words := e.mem.Words()
	for range 20 {
		for range 2000 {
			words[random.IntN(1<<14)].Store(random.Uint64() >> random.IntN(64))
		}
		for _, r := range []control.Request{
			{Op: control.OpBind, Name: "$.A"}, {Op: control.OpMaxMessages, Value: 5}, {Op: control.OpReports, Value: control.On},
			{Op: control.OpUnbind, Name: "$.A"}, {Op: control.OpBound, Name: "$.A"},
		} {
			e.Call(ctx, &r) // an error, or not
		}
	}
}

// ksocksChild opens and uses Ksocks as it is told, a line for each: SOCKET.
func ksocksChild() error {
	var ends []*end
	lines := bufio.NewScanner(os.Stdin)
	ctx := context.Background()
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		n := 0
		if len(w) > 1 {
			n, _ = strconv.Atoi(w[1])
		}
		request := func(r control.Request) (string, error) {
			a, err := ends[n].Call(ctx, &r)
			if err != nil {
				return "", err
			}
			return strconv.Itoa(int(a.Value)), nil
		}
		var text string
		var err error
		if w[0] == "leave" { // the holder answers
			if err := leaveSockets(); err != nil {
				return err
			}
			continue
		}
		switch w[0] {
		case "open": // BUS -> INDEX ID
			var e *end
			if e, err = newEnd(ctx, os.Args[1], n); err == nil {
				ends = append(ends, e)
				text = fmt.Sprintf("%d %d", len(ends)-1, e.Ksock())
			}
		case "close": // INDEX
			err = ends[n].Close()
		case "listen": // INDEX NAME
			text, err = request(control.Request{Op: control.OpBind, Name: w[2]})
		case "replier": // INDEX NAME
			text, err = request(control.Request{Op: control.OpBind, Name: w[2], Replier: true})
		case "bound": // INDEX NAME
			text, err = request(control.Request{Op: control.OpBound, Name: w[2]})
		case "max": // INDEX N
			v, _ := strconv.Atoi(w[2])
			text, err = request(control.Request{Op: control.OpMaxMessages, Value: uint32(v)})
		case "next": // INDEX -> NAME DATA
			text, err = ends[n].next(ctx)
		case "unread": // INDEX -> number
			text = strconv.Itoa(ends[n].c.Unread())
		case "flow": // INDEX NAME COUNT: sends 1 to COUNT
			count, _ := strconv.Atoi(w[3])
			for i := 1; i <= count && err == nil; i++ {
				err = ends[n].sendWaiting(ctx, w[2], strconv.Itoa(i))
			}
		case "drain": // INDEX COUNT: reads 1 to COUNT
			count, _ := strconv.Atoi(w[2])
			for i := 1; i <= count && err == nil; i++ {
				var s string
				if s, err = ends[n].next(ctx); err == nil && !strings.HasSuffix(s, " "+strconv.Itoa(i)) {
					err = fmt.Errorf("%s instead of %d", s, i)
				}
			}
		case "spoil": // INDEX SEED: writes nonsense into the region, and asks the supervisor for things
			seed, _ := strconv.ParseUint(w[2], 10, 64)
			ends[n].spoil(ctx, rand.New(rand.NewPCG(seed, 0)))
		case "behead": // INDEX: spoils what Attach looks at first
			for i := range 64 {
				ends[n].mem.Words()[i].Store(uint64(i) * 0x9e3779b97f4a7c15)
			}
		case "done": // INDEX -> why
			<-ends[n].Done()
			text = ends[n].Err().Error()
		case "files": // -> number of descriptors
			var e []os.DirEntry
			e, err = os.ReadDir("/proc/self/fd")
			text = strconv.Itoa(len(e))
		default:
			err = fmt.Errorf("what is %q?", lines.Text())
		}
		if err != nil {
			var errno unix.Errno
			errors.As(err, &errno)
			fmt.Printf("error %s: %v\n", unix.ErrnoName(errno), err)
		} else {
			fmt.Printf("ok %s\n", text)
		}
	}
	return lines.Err()
}
