package trace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/ring/model"
	"kbus.internal/supervisor"
)

// patience bounds one call that the supervisor has to answer. None takes that long; it is there so that a bus that hangs is
// a difference in a trace, and not a replay that never ends.
const patience = time.Minute

// Real starts a supervisor of its own, at a socket in a directory of its own, whose buses are used through package ksock.
func Real(c Config) (Player, error) {
	dir, err := os.MkdirTemp("", "kbus-trace-")
	if err != nil {
		return nil, err
	}
	p := &realBuses{dir: dir, socket: filepath.Join(dir, "socket")}
	p.supervisor, err = supervisor.Start(supervisor.Options{
		Socket: p.socket,
		Bus: ring.Config{
			MaxKsocks:      4095, // the original has no limit
			MaxMessageSize: model.DefaultSize,
			KeptEvents:     c.KeptEvents,
			ArenaBytes:     64 << 20, // 100 messages of the largest size, committed as they are used
			QueueBytes:     64 << 20, // queues here are full by messages alone
		},
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

// realBuses is a supervisor with its buses.
type realBuses struct {
	dir, socket string
	supervisor  *supervisor.Supervisor
	ksocks      []*ksock.Ksock // all that were opened, to be closed at the end
}

// Close closes the Ksocks that are open and ends the supervisor.
func (p *realBuses) Close() error {
	var errs []error
	for _, k := range p.ksocks {
		errs = append(errs, k.Close())
	}
	errs = append(errs, p.supervisor.Close(), os.RemoveAll(p.dir))
	return errors.Join(errs...)
}

func (p *realBuses) Open(bus int, readOnly bool) (Ksock, error) {
	ctx, cancel := wait()
	defer cancel()
	k, err := ksock.Open(ctx, bus, &ksock.Options{Socket: p.socket, ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	p.ksocks = append(p.ksocks, k)
	return realKsock{k, p.socket}, nil
}

func wait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// realKsock is a Ksock of the real bus.
type realKsock struct {
	k      *ksock.Ksock
	socket string
}

func (r realKsock) ID() uint32                                 { return r.k.ID() }
func (r realKsock) Replier(name string) (uint32, error)        { return r.k.Replier(name) }
func (r realKsock) Discard() error                             { return r.k.Discard() }
func (r realKsock) Unread() (int, error)                       { return r.k.Unread() }
func (r realKsock) Unreplied() (int, error)                    { return r.k.Unreplied() }
func (r realKsock) Poll() (readable, writable bool, err error) { return r.k.Poll() }
func (r realKsock) Close(bool) error                           { return r.k.Close() } // a death has the same effect (R4.8)

func (r realKsock) Bind(name string, replier bool) error {
	ctx, cancel := wait()
	defer cancel()
	return r.k.Bind(ctx, name, ksock.Role(replier))
}

func (r realKsock) Unbind(name string, replier bool) error {
	ctx, cancel := wait()
	defer cancel()
	return r.k.Unbind(ctx, name, ksock.Role(replier))
}

func (r realKsock) Send(m *model.Message) (model.MessageID, error) {
	id, err := r.k.TrySend(&ksock.Message{
		Header: ksock.Header{
			ID: ksock.MessageID(m.ID), InReplyTo: ksock.MessageID(m.InReplyTo), To: m.To,
			OrigFrom: ksock.EndPoint(m.OrigFrom), FinalTo: ksock.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name,
		},
		Data: []byte(m.Data),
	})
	return model.MessageID(id), err
}

func (r realKsock) SendAgain() (model.MessageID, error) {
	id, err := r.k.SendAgain()
	return model.MessageID(id), err
}

func (r realKsock) Next() (*model.Message, error) {
	m, err := r.k.TryNext()
	if m == nil || err != nil {
		return nil, err
	}
	return &model.Message{
		ID: model.MessageID(m.ID), InReplyTo: model.MessageID(m.InReplyTo), To: m.To, From: m.From,
		OrigFrom: model.EndPoint(m.OrigFrom), FinalTo: model.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name,
		Data: string(m.Data),
	}, nil
}

func (r realKsock) LastSent() (model.MessageID, error) {
	id, err := r.k.LastSent()
	return model.MessageID(id), err
}

func (r realKsock) MaxMessages(n uint32) (uint32, error) {
	ctx, cancel := wait()
	defer cancel()
	return r.k.SetMaxMessages(ctx, n)
}

func (r realKsock) MaxMessageSize(n uint32) (uint32, error) {
	ctx, cancel := wait()
	defer cancel()
	return r.k.SetMaxMessageSize(ctx, n)
}

func (r realKsock) OnlyOnce(v model.Switch) (bool, error) {
	ctx, cancel := wait()
	defer cancel()
	return r.k.SetOnlyOnce(ctx, ksock.Switch(v))
}

func (r realKsock) ReportReplierBinds(v model.Switch) (bool, error) {
	ctx, cancel := wait()
	defer cancel()
	return r.k.SetReportReplierBinds(ctx, ksock.Switch(v))
}

func (r realKsock) NewBus() (int, error) {
	ctx, cancel := wait()
	defer cancel()
	return ksock.NewBus(ctx, r.socket, nil)
}
