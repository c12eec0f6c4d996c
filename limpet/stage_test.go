package limpet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// The test binary is also the processes that a test starts.
const partVariable = "LIMPET_TEST_PART"

// part is what a process is: a supervisor at Socket, or a Limpet.
type part struct {
	Socket          string
	NetworkID       uint32
	Listen, Connect string
	MaxMessages     uint32
}

func TestMain(m *testing.M) {
	var p part
	if text := os.Getenv(partVariable); text == "" {
		flag.Parse()
		os.Exit(m.Run())
	} else if err := json.Unmarshal([]byte(text), &p); err != nil {
		panic(err)
	}
	if err := p.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (p *part) run() error {
	// It ends with the test at the latest: standard input closes.
	ctx, cancel := context.WithCancel(context.Background())
	go func() { bufio.NewReader(os.Stdin).ReadByte(); cancel() }()
	if p.NetworkID == 0 {
		s, err := supervisor.Start(supervisor.Options{
			Socket: p.Socket, Bus: ring.Config{MaxKsocks: 64, ArenaBytes: 16 << 20, MaxMessageSize: 409600},
		})
		if err != nil {
			return err
		}
		fmt.Println("ready")
		<-ctx.Done()
		return s.Close()
	}
	level := slog.LevelWarn
	if os.Getenv("LIMPET_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	o := limpet.Options{
		Socket: p.Socket, NetworkID: p.NetworkID, MaxMessages: p.MaxMessages,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	if p.Listen != "" {
		l, err := limpet.Listen(p.Listen, nil)
		if err != nil {
			return err
		}
		o.Connect = l
		fmt.Println("ready", l.Addr())
	} else {
		o.Connect = limpet.Dial(p.Connect, nil)
		fmt.Println("ready")
	}
	l, err := limpet.New(o)
	if err != nil {
		return err
	}
	return l.Run(ctx)
}

// A stage is some buses, each with a supervisor in a process of its own.
type stage struct {
	*testing.T
	dir  string
	ctx  context.Context
	sups []*process
	log  *os.File // what the processes say, for a failure
}

// process is a part at work.
type process struct {
	part
	prefix []string // of its command line
	cmd    *exec.Cmd
	said   string // its first line
}

func newStage(t *testing.T, buses int) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the processes said:\n%s", text)
		}
		log.Close()
		os.RemoveAll(dir)
	})
	// A watchdog for what hangs, not a bound on what is slow.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	s := &stage{T: t, dir: dir, ctx: ctx, log: log}
	for i := range buses {
		s.sups = append(s.sups, &process{part: part{Socket: s.path("bus", i)}})
	}
	return s
}

func (s *stage) path(what string, i int) string { return filepath.Join(s.dir, fmt.Sprint(what, i)) }

// start starts a process and waits until it is ready.
func (s *stage) start(p *process) {
	s.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	text, err := json.Marshal(p.part)
	if err != nil {
		s.Fatal(err)
	}
	args := append(append([]string{}, p.prefix...), exe)
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), partVariable+"="+string(text))
	p.cmd.Stderr = s.log
	if _, err := p.cmd.StdinPipe(); err != nil {
		s.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.kill(p) })
	if p.said, err = bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(p.said, "ready") {
		s.Fatalf("%+v says %q, %v", p.part, p.said, err)
	}
}

// kill kills a process with SIGKILL.
func (s *stage) kill(p *process) {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.cmd = nil
	}
}

// actor is an application.
type actor struct {
	*ksock.Ksock
	s *stage
}

func (s *stage) open(bus int) *actor {
	s.Helper()
	k, err := ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.sups[bus].Socket})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { k.Close() })
	return &actor{k, s}
}

func (a *actor) holds(n uint32) *actor {
	a.s.Helper()
	if _, err := a.SetMaxMessages(a.s.ctx, n); err != nil {
		a.s.Fatal(err)
	}
	return a
}

func (a *actor) bind(name string, r ksock.Role) *actor {
	a.s.Helper()
	if err := a.Bind(a.s.ctx, name, r); err != nil {
		a.s.Fatal(err)
	}
	return a
}

func (a *actor) send(m *ksock.Message) ksock.MessageID {
	a.s.Helper()
	id, err := a.Send(a.s.ctx, m)
	if err != nil {
		a.s.Fatal(err)
	}
	return id
}

func (a *actor) next() *ksock.Message {
	a.s.Helper()
	m, err := a.Next(a.s.ctx)
	if err != nil {
		a.s.Fatal(err)
	}
	return m
}

// call wants the Reply.
func (a *actor) call(m *ksock.Message) *ksock.Message {
	a.s.Helper()
	reply, err := a.Call(a.s.ctx, m)
	if err != nil {
		a.s.Fatal(err)
	}
	return reply
}

// status wants that Status for an answer.
func (a *actor) status(m *ksock.Message, name string) {
	a.s.Helper()
	_, err := a.Call(a.s.ctx, m)
	var status *ksock.StatusError
	if !errors.As(err, &status) || status.Name() != name {
		a.s.Errorf("%v is answered by %v, not %s", m, err, name)
	}
}

// answers answers what it is asked, in the background, until it is closed.
func (a *actor) answers() {
	go func() {
		for m := range a.Messages(a.s.ctx) {
			if m.MustReply() {
				a.Send(a.s.ctx, ksock.ReplyTo(m, append([]byte("re: "), m.Data...))) // the asker may be gone
			}
		}
	}()
}

// sees waits until a name has a Replier, or none, on this bus.
func (a *actor) sees(name string, bound bool) {
	a.s.Helper()
	a.s.until(func() bool {
		id, err := a.Replier(name)
		if err != nil {
			a.s.Fatal(err)
		}
		return (id != 0) == bound
	})
}

// until waits for what comes by itself.
func (s *stage) until(ready func() bool) {
	s.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.Fatal("it does not happen")
		}
	}
}

// idle wants that nobody on any bus waits for an answer or owes one (R8.9).
func (s *stage) idle() {
	s.Helper()
	for i, sup := range s.sups {
		var left string
		s.until(func() bool {
			stats, err := ksock.Stats(s.ctx, sup.Socket, 0)
			if err != nil {
				s.Fatal(err)
			}
			left = ""
			for _, k := range stats[0].Ksocks {
				if k.Outstanding+k.Unreplied > 0 {
					left += fmt.Sprintf(" Ksock %d waits for %d and owes %d;", k.Ksock, k.Outstanding, k.Unreplied)
				}
			}
			return left == ""
		})
		if left != "" {
			s.Errorf("bus %d:%s", i, left)
		}
	}
}
