package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// cue is what the demo tells an actor's process to do: one JSON object a line,
// answered by one result.
type cue struct {
	Do    string
	Name  string `json:",omitempty"`
	Role  string `json:",omitempty"`
	Data  string `json:",omitempty"`
	Count int    `json:",omitempty"`
}

// What a cue can ask for.
const (
	cueOpen     = "open"
	cueClose    = "close"
	cueBind     = "bind"
	cueUnbind   = "unbind"
	cueAnnounce = "announce"
	cueRequest  = "request"
	cueStateful = "stateful request" // to who sent the Reply remembered
	cueReply    = "reply"            // to the Request last heard that was marked
	cueRemember = "remember"         // the Reply last heard
	cueHear     = "hear"             // the next message, waiting for it
	cueMore     = "more"             // the next message if there is one
	cueAwait    = "await"            // a result at once, then Count messages
	cueSees     = "sees"             // wait until somebody is Replier for Name
)

// result is what came of a cue.
type result struct {
	Err   string `json:",omitempty"`
	Errno int    `json:",omitempty"`
	Ksock uint32 `json:",omitempty"` // opened
	ID    string `json:",omitempty"` // of a message, sent or heard
	To    uint32 `json:",omitempty"`
	Kind  string `json:",omitempty"` // of a message heard
	Name  string `json:",omitempty"`
	From  uint32 `json:",omitempty"`
	Data  string `json:",omitempty"`
	At    int64  `json:",omitempty"` // when it was heard, by monotonic
}

// String is a message heard, as the demo shows it.
func (r result) String() string {
	s := fmt.Sprintf("%s %s", r.Kind, r.Name)
	if r.Data != "" {
		s += fmt.Sprintf(" %q", r.Data)
	}
	return s + fmt.Sprintf(" from Ksock %d (message %s)", r.From, r.ID)
}

// hearTime is how long an actor waits for what it should hear.
const hearTime = 30 * time.Second

// actorCommand is what the demo's processes run.
func actorCommand() *cobra.Command {
	var bus where
	cmd := &cobra.Command{
		Use:    "demo-actor",
		Short:  "Play a part in the demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := bufio.NewScanner(cmd.InOrStdin())
			out := json.NewEncoder(cmd.OutOrStdout())
			p := &player{bus: &bus, tell: out.Encode}
			for in.Scan() {
				var c cue
				if err := json.Unmarshal(in.Bytes(), &c); err != nil {
					return err
				}
				if err := p.play(cmd.Context(), c); err != nil {
					return err
				}
			}
			if p.k != nil {
				p.k.Close()
			}
			return in.Err()
		},
	}
	bus.addBusFlags(cmd)
	return cmd
}

// player is an actor, seen from within its process.
type player struct {
	bus        *where
	tell       func(any) error
	k          *ksock.Ksock
	owed       *ksock.Message // the Request to answer
	heard      *ksock.Message // the last message
	remembered *ksock.Message
}

func (p *player) play(ctx context.Context, c cue) error {
	if c.Do == cueAwait {
		if err := p.tell(result{}); err != nil {
			return err
		}
		for range c.Count {
			if err := p.tell(p.done(p.act(ctx, cue{Do: cueHear}))); err != nil {
				return err
			}
		}
		return nil
	}
	return p.tell(p.done(p.act(ctx, c)))
}

// done puts an error into its result.
func (p *player) done(r result, err error) result {
	if err != nil {
		r.Err = err.Error()
		var errno unix.Errno
		if errors.As(err, &errno) {
			r.Errno = int(errno)
		}
	}
	return r
}

func (p *player) act(ctx context.Context, c cue) (result, error) {
	if p.k == nil && c.Do != cueOpen {
		return result{}, errors.New("no Ksock is open")
	}
	switch c.Do {
	case cueOpen:
		k, err := p.bus.open(ctx, false)
		if err != nil {
			return result{}, err
		}
		p.k = k
		return result{Ksock: k.ID()}, nil
	case cueClose:
		err := p.k.Close()
		p.k = nil
		return result{}, err
	case cueBind, cueUnbind:
		role := ksock.Listener
		if c.Role == replier {
			role = ksock.Replier
		}
		if c.Do == cueBind {
			return result{}, p.k.Bind(ctx, c.Name, role)
		}
		return result{}, p.k.Unbind(ctx, c.Name, role)
	case cueAnnounce:
		return p.send(ctx, ksock.Announce(c.Name, []byte(c.Data)))
	case cueRequest:
		return p.send(ctx, ksock.Request(c.Name, []byte(c.Data)))
	case cueStateful:
		return p.send(ctx, ksock.StatefulRequest(p.remembered, c.Name, []byte(c.Data)))
	case cueReply:
		return p.send(ctx, ksock.ReplyTo(p.owed, []byte(c.Data)))
	case cueRemember:
		p.remembered = p.heard
		return result{}, nil
	case cueHear:
		ctx, cancel := context.WithTimeout(ctx, hearTime)
		defer cancel()
		m, err := p.k.Next(ctx)
		return p.hear(m), err
	case cueSees:
		ctx, cancel := context.WithTimeout(ctx, hearTime)
		defer cancel()
		for {
			if id, err := p.k.Replier(c.Name); err != nil || id != 0 {
				return result{Ksock: id}, err
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return result{}, context.Cause(ctx)
			}
		}
	case cueMore:
		m, err := p.k.TryNext()
		return p.hear(m), err
	}
	return result{}, fmt.Errorf("unknown cue %q", c.Do)
}

func (p *player) send(ctx context.Context, m *ksock.Message) (result, error) {
	id, err := p.k.Send(ctx, m)
	return result{ID: pair(id.Network, id.Serial), To: m.To}, err
}

func (p *player) hear(m *ksock.Message) result {
	if m == nil {
		return result{}
	}
	p.heard = m
	r := result{ID: pair(m.ID.Network, m.ID.Serial), Kind: m.Kind(), Name: m.Name, From: m.From, Data: string(m.Data), At: int64(monotonic())}
	if m.MustReply() {
		p.owed = m
		r.Kind = marked
	}
	return r
}

// troupe is all processes of a demo.
type troupe struct {
	mu      sync.Mutex
	members []*exec.Cmd
	over    bool
}

// start starts a process that ends with this one, however this one ends, and
// that Ctrl-C at the terminal does not reach: kill is what ends it then. The
// calling goroutine is locked to its thread.
func (t *troupe) start(cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return context.Canceled
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t.members = append(t.members, cmd)
	return nil
}

// kill ends all processes at once.
func (t *troupe) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for _, cmd := range t.members {
		_ = cmd.Process.Kill() // it may have ended
	}
}

// dismiss ends and reaps whatever still runs. The supervisor, which came first,
// goes last, and in order.
func (t *troupe) dismiss() {
	for i := len(t.members) - 1; i >= 0; i-- {
		cmd := t.members[i]
		if cmd.ProcessState != nil {
			continue // reaped
		}
		end := cmd.Process.Kill
		if i == 0 {
			end = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		}
		_ = end()
		_ = cmd.Wait()
	}
}

// supervise starts the supervisor and waits until it is ready.
func (t *troupe) supervise(exe, socket string, args ...string) (pid int, err error) {
	cmd := exec.Command(exe, append([]string{"up", "--socket", socket}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := t.start(cmd); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		return 0, errors.New("it ended before it was ready")
	}
	return cmd.Process.Pid, nil
}

// actor is an actor's process, seen from the demo.
type actor struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

func (a *actor) start(t *troupe, exe, socket string, bus int) error {
	a.cmd = exec.Command(exe, "demo-actor", "--socket", socket, "--bus", fmt.Sprint(bus))
	in, err := a.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	a.in, a.out = in, json.NewDecoder(out)
	return t.start(a.cmd)
}

func (a *actor) pid() int { return a.cmd.Process.Pid }

func (a *actor) do(c cue) (result, error) {
	if err := json.NewEncoder(a.in).Encode(c); err != nil {
		return result{}, err
	}
	return a.result()
}

func (a *actor) result() (result, error) {
	var r result
	err := a.out.Decode(&r)
	if err == io.EOF {
		err = errors.New("its process has ended")
	}
	return r, err
}

// await makes the actor wait for count messages; result gives each.
func (a *actor) await(count int) error {
	_, err := a.do(cue{Do: cueAwait, Count: count})
	return err
}

// leave ends the process in order.
func (a *actor) leave() error {
	if err := a.in.Close(); err != nil {
		return err
	}
	return a.cmd.Wait()
}

// kill ends the process with SIGKILL.
func (a *actor) kill() error {
	if err := a.cmd.Process.Kill(); err != nil {
		return err
	}
	err := a.cmd.Wait()
	if status, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("it ended otherwise: %w", err)
}
