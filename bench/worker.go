package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/shm"
)

// task is what the parent tells a child first.
type task struct {
	Role     string
	Socket   string // of the supervisor; empty: the role uses no bus
	Bus      int
	Address  string // that a role listens at; empty: none does yet
	Memory   bool   // descriptor 3 is a region that the processes share
	Workload string
	Index    int // among the processes of this role
	Peer     string
	PeerDir  string
	Options
}

// Words that the parent says.
const (
	wordGo   = "go"   // all are ready
	wordOver = "over" // to those that only are there: the others have finished
)

// report is what a child tells the parent: that it is ready, and how it went.
type report struct {
	Ready       bool
	Error       string
	Unavailable *Unavailable        // the Error, if it is this
	Thread      int                 // that will do the work, with Ready, of roles that keep to one
	Address     string              // where it listens, with Ready
	Messages    int64               // operations done between go and the end
	Timed       int64               // messages of these in Elapsed, of the roles that do not time all
	Elapsed     time.Duration       // that they took, of the roles whose rate counts
	Rate        float64             // of operations, of the roles that time each
	Skew        int64               // ns by which its clock may be off, of the roles that share one
	Latencies   map[string]*Latency // by operation
	CPU         time.Duration       // between go and the end
	Voluntary   int64               // context switches, since it waited
	Forced      int64               // context switches, for another
	Resident    int64               // bytes, at the end
	Shared      int64               // of these in shared memory
}

// roles are what a child can be.
var roles = map[string]func(*worker) (*report, error){
	"ping": ping, "pong": pong, "copier": copier, "producer": producer, "reader": reader,
	"asker": asker, "replier": replier,
	"announcer": announcer, "listener": listener,
	"source": source, "stage": relay, "sink": sink,
	"local": local, "sender": sender,
	"opener": opener, "binder": binder,
	"crowd": crowd, "busy": busy, "slow": slow, "stopped": idle, "idle": idle, "supervisor": resting,
	"tcp ping": tcpPing, "tcp pong": tcpPong, "tcp source": tcpSource, "tcp drain": tcpDrain,
	"limpet": serveLimpet, "spring": spring, "drain": drain,
}

// worker is a child's end.
type worker struct {
	task
	in    *json.Decoder
	out   *json.Encoder
	ctx   context.Context // ends with wordOver
	over  context.CancelFunc
	mem   *shm.Memory // nil without Memory
	usage unix.Rusage // when it began

	ksocks []*ksock.Ksock // to close
	peers  []Peer         // that it knows
}

// Child does the part of a workload that the parent at the other ends of in and
// out asks for. A program whose name is in [Options].Command calls it, with its
// standard input and output, and exits. It ends the process if in ends early:
// the parent is gone then. peers are those beside Peers that it knows.
func Child(in io.Reader, out io.Writer, peers ...Peer) error {
	w := &worker{in: json.NewDecoder(in), out: json.NewEncoder(out), peers: append(Peers(), peers...)}
	w.ctx, w.over = context.WithCancel(context.Background())
	defer w.over()
	r, err := w.work()
	if err != nil {
		r = &report{Error: err.Error()}
		errors.As(err, &r.Unavailable)
	}
	return w.out.Encode(r)
}

func (w *worker) work() (*report, error) {
	if err := w.in.Decode(&w.task); err != nil {
		return nil, fmt.Errorf("no task on standard input: %w", err)
	}
	if w.Strace {
		// Without this a debugger has to be an ancestor, where Yama is in force.
		_ = unix.Prctl(unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY, 0, 0, 0)
	}
	role, ok := roles[w.Role]
	if !ok {
		return nil, fmt.Errorf("no role %q", w.Role)
	}
	if w.Memory {
		f := os.NewFile(3, "region")
		mem, err := shm.Map(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		defer mem.Close()
		w.mem = mem
	}
	defer func() {
		for _, k := range w.ksocks {
			k.Close()
		}
	}()
	r, err := role(w)
	if err != nil {
		return nil, err
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return nil, os.NewSyscallError("getrusage", err)
	}
	r.CPU = cpuOf(&u) - cpuOf(&w.usage)
	r.Voluntary, r.Forced = u.Nvcsw-w.usage.Nvcsw, u.Nivcsw-w.usage.Nivcsw
	m, err := residentOf(os.Getpid())
	r.Resident, r.Shared = m.private+m.file+m.shared, m.shared
	return r, err
}

// name is what messages of that name are called, and bound where they are bound to.
func (w *worker) name(name string) string { return name + strings.Repeat(".x", w.Depth) }

func (w *worker) bound(name string) string {
	if w.Depth > 0 {
		return name + ".*"
	}
	return name
}

// begin tells the parent that all is prepared, and returns when it says go.
func (w *worker) begin(ready report) error {
	ready.Ready = true
	if err := w.out.Encode(&ready); err != nil {
		return err
	}
	var word string
	if err := w.in.Decode(&word); err != nil || word != wordGo {
		return fmt.Errorf("waited for the word to go, got %q: %w", word, err)
	}
	go func() {
		for w.in.Decode(&word) == nil {
			w.over()
		}
		os.Exit(1) // the parent is gone
	}()
	return os.NewSyscallError("getrusage", unix.Getrusage(unix.RUSAGE_SELF, &w.usage))
}

// open opens a Ksock as the task says. It is closed when the worker has seen what
// memory the process takes.
func (w *worker) open() (*ksock.Ksock, error) {
	k, err := ksock.Open(w.ctx, w.Bus, w.options())
	if err == nil {
		w.ksocks = append(w.ksocks, k)
	}
	return k, err
}

func (w *worker) options() *ksock.Options {
	return &ksock.Options{Socket: w.Socket, Spin: w.Wait.spin()}
}

// step is one operation that is timed. batch of them are done by one call.
type step struct {
	name string
	do   func() error
}

// timed does the steps in turn, again and again, for the task's duration, after
// a warm-up of a tenth of it.
func (w *worker) timed(batch int64, steps ...step) (*report, error) {
	recorders := make([]*recorder, len(steps))
	count, perSecond := int64(0), 0.0
	for _, d := range []time.Duration{w.Duration / 10, w.Duration} {
		for i := range steps {
			recorders[i] = newRecorder(batch)
		}
		start, before := now(), count
		for t := int64(0); t-start < int64(d); {
			for i := range steps {
				before := now()
				if err := steps[i].do(); err != nil {
					return nil, err
				}
				t = now()
				recorders[i].add(t - before)
			}
			count += batch
		}
		perSecond = rate(count-before, time.Duration(now()-start))
	}
	r := &report{Messages: count, Rate: perSecond, Latencies: map[string]*Latency{}}
	for i, s := range steps {
		l, err := recorders[i].latency()
		if err != nil {
			return nil, err
		}
		r.Latencies[s.name] = l
	}
	return r, nil
}
