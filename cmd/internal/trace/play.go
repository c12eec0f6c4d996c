package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"kbus.internal/ring/model"
)

// Start starts a player: buses on which nothing has happened.
type Start func(Config) (Player, error)

// Player is a set of buses, of which there is number 0 at first.
type Player interface {
	// Open opens a Ksock.
	Open(bus int, readOnly bool) (Ksock, error)
	// Close ends everything that was started.
	Close() error
}

// Ksock is one connection to a bus. None of its methods waits. They answer as the operations of the format do; errors are
// told apart by their errnos (errors.As to a unix.Errno).
type Ksock interface {
	ID() uint32
	Close(crash bool) error
	Bind(name string, replier bool) error
	Unbind(name string, replier bool) error
	Replier(name string) (uint32, error)
	Send(m *model.Message) (model.MessageID, error)
	SendAgain() (model.MessageID, error)
	Discard() error
	Next() (*model.Message, error) // nil if there is none
	Unread() (int, error)
	Unreplied() (int, error)
	LastSent() (model.MessageID, error)
	MaxMessages(n uint32) (uint32, error)
	MaxMessageSize(n uint32) (uint32, error)
	OnlyOnce(v model.Switch) (was bool, err error)
	ReportReplierBinds(v model.Switch) (was bool, err error)
	Poll() (readable, writable bool, err error)
	NewBus() (int, error)
}

// Difference is a step that was not answered as recorded.
type Difference struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Op   string `json:"op"`
	Want string `json:"wanted"` // in the form of the format, as is Got
	Got  string `json:"got"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s:%d: %s: wanted %s, got %s", d.File, d.Line, d.Op, d.Want, d.Got)
}

// Result is what replaying some files has shown.
type Result struct {
	Steps       int          `json:"steps"`
	Differ      int          `json:"differ"`
	Differences []Difference `json:"differences"`
}

// Run plays files, each on buses of its own, until ctx ends, and calls found with each difference as it comes. An error is
// of files that could not be read or played, which are not in the Result; the others are. An error of found ends it.
func Run(ctx context.Context, files []string, start Start, found func(Difference) error) (Result, error) {
	r := Result{Differences: []Difference{}}
	var failed []error
	for _, file := range files {
		t, n, err := load(file)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		list, err := t.Play(ctx, start)
		if ctx.Err() != nil {
			return r, errors.Join(append(failed, context.Cause(ctx))...)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", file, err))
			continue
		}
		for _, d := range list {
			if err := found(d); err != nil {
				return r, err
			}
		}
		r.Steps += n
		r.Differ += len(list)
		r.Differences = append(r.Differences, list...)
	}
	return r, errors.Join(failed...)
}

// Print runs and writes each difference as a line, and at the end "N steps, M differ".
func Print(ctx context.Context, w io.Writer, files []string, start Start) (Result, error) {
	r, err := Run(ctx, files, start, func(d Difference) error {
		_, err := fmt.Fprintln(w, d)
		return err
	})
	_, failed := fmt.Fprintf(w, "%d steps, %d differ\n", r.Steps, r.Differ)
	return r, errors.Join(err, failed)
}

// A recording is of one of the two formats.
type recording interface {
	Play(context.Context, Start) ([]Difference, error)
}

// load reads a recording, whose first line says of which format it is, and counts its steps.
func load(file string) (r recording, steps int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, err
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	var header struct{ Format string }
	if json.Unmarshal(first, &header) == nil && header.Format == WireFormat {
		w, err := ParseWire(bytes.NewReader(text), file)
		if err != nil {
			return nil, 0, err
		}
		return w, len(w.Steps), nil
	}
	t, err := Parse(bytes.NewReader(text), file)
	if err != nil {
		return nil, 0, err
	}
	return t, len(t.Steps), nil
}

// Play plays t on buses of its own and returns what was answered otherwise than recorded. The error is of starting and
// ending them; ctx ends it between two steps.
func (t *Trace) Play(ctx context.Context, start Start) (list []Difference, err error) {
	p, err := start(t.Config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	ksocks := map[string]Ksock{}
	for i := range t.Steps {
		if ctx.Err() != nil {
			return list, context.Cause(ctx)
		}
		s := &t.Steps[i]
		want, got := s.Want.String(), s.do(p, ksocks).String()
		if want != got {
			list = append(list, Difference{t.File, s.Line, s.Op, want, got})
		}
	}
	return list, nil
}

// do carries out one step.
func (s *Step) do(p Player, ksocks map[string]Ksock) answer {
	if s.Op == "open" {
		k, err := p.Open(s.Bus, s.ReadOnly)
		if err != nil {
			return failure(err)
		}
		ksocks[s.K] = k
		return answer{"id": k.ID()}
	}
	k := ksocks[s.K]
	if k == nil {
		return failure(errors.New("its open had failed"))
	}
	a, err := s.ask(k)
	if s.Op == "close" {
		delete(ksocks, s.K)
	}
	if err != nil {
		f := failure(err)
		if last, ok := a["last_sent"]; ok {
			f["last_sent"] = last
		}
		return f
	}
	return a
}

// failure is an error in the form of the format.
func failure(err error) answer {
	var errno unix.Errno
	if errors.As(err, &errno) {
		if name := unix.ErrnoName(errno); name != "" {
			return answer{"err": name}
		}
	}
	return answer{"err": err.Error()}
}

// ask carries out one step that needs an open Ksock.
func (s *Step) ask(k Ksock) (answer, error) {
	switch s.Op {
	case "close":
		return answer{}, k.Close(s.Crash)
	case "bind":
		return answer{}, k.Bind(s.Name, s.Replier)
	case "unbind":
		return answer{}, k.Unbind(s.Name, s.Replier)
	case "replier":
		id, err := k.Replier(s.Name)
		return answer{"id": id}, err
	case "send":
		return s.send(k)
	case "discard":
		return answer{}, k.Discard()
	case "next":
		m, err := k.Next()
		if m == nil || err != nil {
			return answer{"msg": nil}, err
		}
		return answer{"msg": showMessage(m)}, nil
	case "num_messages":
		n, err := k.Unread()
		return answer{"n": n}, err
	case "unreplied_to":
		n, err := k.Unreplied()
		return answer{"n": n}, err
	case "last_sent":
		id, err := k.LastSent()
		return answer{"id": pair{id.Network, id.Serial}}, err
	case "max_messages":
		n, err := k.MaxMessages(s.N)
		return answer{"n": n}, err
	case "max_message_size":
		n, err := k.MaxMessageSize(s.N)
		return answer{"n": n}, err
	case "only_once":
		was, err := k.OnlyOnce(s.V)
		return answer{"was": was}, err
	case "report_replier_binds":
		was, err := k.ReportReplierBinds(s.V)
		return answer{"was": was}, err
	case "poll":
		readable, writable, err := k.Poll()
		return answer{"readable": readable, "writable": writable}, err
	case "new_device":
		n, err := k.NewBus()
		return answer{"n": n}, err
	}
	return nil, fmt.Errorf("unknown op %q", s.Op) // Parse lets none through
}

// send is the operation of that name: if it fails, last_sent is part of the answer when it changed.
func (s *Step) send(k Ksock) (answer, error) {
	before, err := k.LastSent()
	if err != nil {
		return nil, err
	}
	var id model.MessageID
	if s.Msg != nil {
		m := *s.Msg
		id, err = k.Send(&m)
	} else {
		id, err = k.SendAgain()
	}
	if err == nil {
		return answer{"id": pair{id.Network, id.Serial}}, nil
	}
	after, errAfter := k.LastSent()
	if errAfter != nil {
		return nil, errors.Join(err, errAfter)
	}
	if after != before {
		return answer{"last_sent": pair{after.Network, after.Serial}}, err
	}
	return nil, err
}
