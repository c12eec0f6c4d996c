package torture

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// none is no such thing, as a rate.
const none = -1

func tortured(t *testing.T, o Options) *Report {
	t.Helper()
	o.Seed = uint64(time.Now().UnixNano())
	t.Logf("seed %d", o.Seed)
	o.Duration, o.Rounds = 1500*time.Millisecond, none
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Found {
		t.Error(v)
	}
	if r.Delivered == 0 || r.Chained == 0 || r.Requests == 0 || r.Batches == 0 {
		t.Errorf("nothing was judged: %+v", r.Counts)
	}
	return r
}

// R9.2: processes are killed with SIGKILL at random moments under load.
func TestClientsAreKilled(t *testing.T) {
	r := tortured(t, Options{Clients: 6, Stops: none, SupervisorKills: none})
	if r.Kills == 0 {
		t.Error("nobody was killed")
	}
}

// R9.3: processes are stopped with SIGSTOP at random moments under load, and
// nobody else stands still.
func TestClientsAreStopped(t *testing.T) {
	r := tortured(t, Options{Clients: 6, Kills: none, Stops: 100, SupervisorKills: none})
	if r.Stops == 0 {
		t.Error("nobody was stopped")
	}
}

// R9.4: the supervisor is killed and started again under load.
func TestSupervisorIsKilled(t *testing.T) {
	r := tortured(t, Options{Clients: 6, Kills: none, Stops: none, SupervisorKills: 5})
	if r.SupervisorKills == 0 || r.Served.Count == 0 {
		t.Errorf("%d supervisors were killed, %d served", r.SupervisorKills, r.Served.Count)
	}
}

// R9.2 to R9.4 at once; and the time from a death to its Status is measured.
func TestTorture(t *testing.T) {
	r, err := Run(t.Context(), Options{Duration: time.Second, Clients: 4, Seed: 1, Rounds: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Found {
		t.Error(v)
	}
	if r.Idle.Count != 3 || r.Idle.P50 <= 0 {
		t.Errorf("measured %v", r.Idle)
	}
	var text strings.Builder
	if err := r.Print(&text); err != nil || !strings.Contains(text.String(), "violations ") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

// A run that is interrupted ends at once, and leaves no process.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := fmt.Errorf("enough")
	stop := time.AfterFunc(300*time.Millisecond, func() { cancel(enough) })
	defer stop.Stop()
	r, err := Run(ctx, Options{Duration: time.Hour, Clients: 3, Seed: 1})
	if err != enough || r == nil {
		t.Errorf("got %v, %v", r, err)
	}
	var none unix.WaitStatus
	if pid, err := unix.Wait4(-1, &none, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("process %d is left, %v", pid, err)
	}
}

// The copy that children are started from is this program, and can be started.
func TestOwnProgram(t *testing.T) {
	path, err := ownProgram(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	copied, err1 := os.ReadFile(path)
	own, err2 := os.ReadFile("/proc/self/exe")
	if err1 != nil || err2 != nil || !bytes.Equal(copied, own) {
		t.Errorf("%d bytes of %d, %v, %v", len(copied), len(own), err1, err2)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), roleVariable+"=nobody")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "a role that nobody plays") {
		t.Errorf("%s, %v", out, err)
	}
}

// A history is what the judge gets to read.
type history struct {
	b  *books
	p  *life
	at int64
}

func newHistory() *history {
	h := &history{b: newBooks(), p: &life{}, at: skew * 10}
	for n := uint32(1); n <= 3; n++ {
		h.send(record{kind: recOpened, life: n, id: uint64(100 + n)})
	}
	return h
}

func (h *history) send(r record) {
	h.at += skew * 10
	r.at = h.at
	h.b.send(h.p, &r)
	h.b.sentAll()
	h.b.sentAll()
}

func (h *history) read(r record) {
	h.at += skew * 10
	r.at = h.at
	h.b.receive(&r)
}

func origin(life, seq uint32) uint64 { return uint64(life)<<32 | uint64(seq) }

// sends is a send of a Ksock with an outcome.
func (h *history) sends(life, seq uint32, class uint8, id uint64, code unix.Errno) {
	h.send(record{kind: recIntent, class: class, life: life, origin: origin(life, seq)})
	h.send(record{kind: recOutcome, class: class, life: life, origin: origin(life, seq), id: id, code: uint16(code)})
}

func (h *history) replies(life, seq uint32, id, answers uint64, to uint32, code unix.Errno) {
	h.send(record{kind: recIntent, class: reply, life: life, origin: origin(life, seq), reply: answers, to: to})
	h.send(record{kind: recOutcome, class: reply, life: life, origin: origin(life, seq), id: id, to: to, code: uint16(code)})
}

func message(life uint32, from uint32, seq uint32, id uint64) record {
	return record{kind: recMessage, life: life, origin: origin(from, seq), id: id, from: 100 + from}
}

func (h *history) hears(life, from, seq uint32, id uint64) { h.read(message(life, from, seq, id)) }

func (h *history) status(life uint32, name uint32, from uint32, id, answers uint64) {
	h.read(record{kind: recMessage, life: life, name: name, from: from, to: 100 + life, id: id, reply: answers, flags: ring.Synthetic})
}

// The judge finds what is wrong, and nothing in what is right.
func TestBooks(t *testing.T) {
	for _, x := range []struct {
		name, want string
		happens    func(h *history)
	}{
		{"all is well", "", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			h.sends(1, 1, announcement, 1, 0)
			h.sends(1, 2, chained, 2, 0)
			h.hears(2, 1, 1, 1)
			h.hears(2, 1, 1, 1)
			h.hears(2, 1, 2, 2)
			h.sends(1, 3, chained, 3, unix.EBUSY)
			h.sends(3, 1, request, 4, 0)
			h.replies(1, 4, 5, 4, 103, 0)
			r := message(3, 1, 4, 5)
			r.reply, r.to = 4, 103
			h.read(r)
			h.read(record{kind: recDrained, life: 2, reply: uint64(h.at), code: 1})
			h.read(record{kind: recDrained, life: 3, reply: uint64(h.at), code: 1})
		}},
		{"invented", "nobody sent", func(h *history) { h.hears(2, 1, 1, 1) }},
		{"failed, but read", "but its send failed", func(h *history) {
			h.sends(1, 1, announcement, 1, unix.EBUSY)
			h.hears(2, 1, 1, 1)
		}},
		{"read, but failed", "but its send failed", func(h *history) {
			h.send(record{kind: recIntent, class: announcement, life: 1, origin: origin(1, 1)})
			h.hears(2, 1, 1, 1)
			h.send(record{kind: recOutcome, class: announcement, life: 1, origin: origin(1, 1), id: 1, code: uint16(unix.EBUSY)})
		}},
		{"another id", "was read with id", func(h *history) {
			h.sends(1, 1, announcement, 1, 0)
			h.hears(2, 1, 1, 2)
		}},
		{"another sender", "says that it is from", func(h *history) {
			h.sends(1, 1, announcement, 1, 0)
			r := message(2, 1, 1, 1)
			r.from = 103
			h.read(r)
		}},
		{"out of order", "after 2 (I1)", func(h *history) {
			h.sends(1, 1, announcement, 1, 0)
			h.sends(1, 2, announcement, 2, 0)
			h.hears(2, 1, 2, 2)
			h.hears(2, 1, 1, 1)
		}},
		{"no place in one order", "others after", func(h *history) {
			for n := uint32(1); n <= 2; n++ {
				h.sends(1, n, announcement, uint64(n), 0)
			}
			h.sends(3, 1, announcement, 1000<<32|1, 0)
			h.hears(1, 3, 1, 1000<<32|1)
			h.hears(1, 1, 1, 1)
			h.hears(2, 1, 1, 1)
			h.hears(2, 1, 2, 2)
			h.hears(2, 3, 1, 1000<<32|1)
		}},
		{"lost in between", "has not read message 1/1", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			h.sends(1, 1, chained, 1, 0)
			h.sends(1, 2, chained, 2, 0)
			h.hears(2, 1, 2, 2)
		}},
		{"lost in a batch that was cut off", "has not read message 1/1", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			for n := uint32(1); n <= 3; n++ {
				h.send(record{kind: recIntent, class: chained, life: 1, origin: origin(1, n), flags: 7})
			}
			h.hears(2, 1, 2, 2)
		}},
		{"a batch that was cut off", "", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			for n := uint32(1); n <= 2; n++ {
				h.send(record{kind: recIntent, class: chained, life: 1, origin: origin(1, n), flags: 7})
			}
			h.hears(2, 1, 1, 1)
			h.send(record{kind: recIntent, class: chained, life: 3, origin: origin(3, 1)})
			h.send(record{kind: recIntent, class: chained, life: 3, origin: origin(3, 2)})
			h.hears(2, 3, 2, 2)
			h.read(record{kind: recDrained, life: 2, reply: uint64(h.at), code: 1})
		}},
		{"lost at the end", "has not read message 1/1", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			h.sends(1, 1, chained, 1, 0)
			h.read(record{kind: recDrained, life: 2, reply: uint64(h.at + skew*10)})
		}},
		{"doubled", "after a later one", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			for n := uint32(1); n <= 2; n++ {
				h.sends(1, n, chained, uint64(n), 0)
				h.hears(2, 1, n, uint64(n))
			}
			r := message(2, 1, 1, 1)
			r.flags = ring.Urgent // not seen by its number
			h.read(r)
		}},
		{"another chain", "is another than for others", func(h *history) {
			h.read(record{kind: recBound, life: 2})
			h.read(record{kind: recBound, life: 3})
			h.sends(1, 1, chained, 1, 0)
			for n := uint32(2); n <= 3; n++ {
				r := message(n, 1, 1, 1)
				r.hash = uint64(n)
				h.read(r)
			}
		}},
		{"marked twice", "marked copy", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			r := message(2, 1, 1, 1)
			r.flags = ring.WantReply | ring.MustReply
			h.read(r)
			r.life = 3
			h.read(r)
		}},
		{"two answers", "a second answer", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busGoneAway, 102, 2, 1)
			h.status(1, busIgnored, 102, 3, 1)
		}},
		{"no answer", "was never answered", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.read(record{kind: recDrained, life: 1, reply: uint64(h.at), code: 1})
		}},
		{"an answer to nothing", "did not ask", func(h *history) {
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busGoneAway, 102, 2, 1)
		}},
		{"a Status after a Reply", "a Reply was accepted before", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.replies(2, 1, 2, 1, 101, 0)
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busIgnored, 102, 3, 1)
		}},
		{"a Reply after a Status", "had an answer already", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busIgnored, 102, 2, 1)
			h.replies(3, 1, 3, 1, 101, 0)
		}},
		{"a Status for the living", "is not gone", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.status(1, busGoneAway, 102, 2, 1)
		}},
		{"GoneAway for what was read", "which that had read", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			r := message(2, 1, 1, 1)
			r.flags = ring.WantReply | ring.MustReply
			h.read(r)
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busGoneAway, 102, 2, 1)
		}},
		{"Ignored for what was not read", "which that had not read", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busIgnored, 102, 2, 1)
			h.sends(1, 2, announcement, 3, 0)
		}},
		{"Unbound without an unbind", "did not unbind", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.status(1, busUnbound, 102, 2, 1)
		}},
		{"refused to the living", "but it is not", func(h *history) {
			h.sends(1, 1, request, 1, 0)
			h.replies(2, 1, 2, 1, 101, unix.EADDRNOTAVAIL)
		}},
		{"one Ksock id twice", "was given twice", func(h *history) {
			h.send(record{kind: recOpened, life: 4, id: 101})
		}},
		{"answered though it failed", "had failed", func(h *history) {
			h.sends(1, 1, request, 1, unix.EAGAIN)
			h.send(record{kind: recLater, life: 1, origin: origin(1, 1), code: uint16(unix.EPIPE)})
			h.send(record{kind: recClosing, life: 2})
			h.status(1, busGoneAway, 102, 2, 1)
		}},
		{"a client's own finding", wrongs[wrongData], func(h *history) {
			h.send(record{kind: recWrong, life: 1, code: wrongData})
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			h := newHistory()
			x.happens(h)
			found := strings.Join(h.b.found, "\n")
			if x.want == "" && found != "" || !strings.Contains(found, x.want) {
				t.Errorf("found %q, want %q", found, x.want)
			}
		})
	}
}

// A journal goes round, and its writer's successor goes on where it was killed.
func TestJournal(t *testing.T) {
	b, err := newBoard(1)
	if err != nil {
		t.Fatal(err)
	}
	defer b.mem.Close()
	w, r := b.sent(0).writer(), b.sent(0)
	next := uint64(0)
	for n := uint64(0); n < 3*journalRecords; n++ {
		w.put(&record{kind: recIntent, class: chained, code: 7, life: 9, at: -1, origin: n, id: ^n, reply: 3, from: 4, to: 5, flags: 6, name: 8, hash: n})
		if n%1000 == 0 {
			w = b.sent(0).writer()
			r.take(r.head.Load(), func(got *record) {
				want := record{kind: recIntent, class: chained, code: 7, life: 9, at: -1, origin: next, id: ^next, reply: 3, from: 4, to: 5, flags: 6, name: 8, hash: next}
				if *got != want {
					t.Fatalf("got %+v, want %+v", *got, want)
				}
				next++
			})
		}
	}
	if next < 2*journalRecords {
		t.Errorf("only %d records came", next)
	}
}
