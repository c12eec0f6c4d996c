package trace

import "kbus.internal/ring/model"

// Model starts the sequential model of the rules.
func Model(c Config) (Player, error) {
	return modelBuses{model.New(model.Config{KeptEvents: c.KeptEvents})}, nil
}

type modelBuses struct{ *model.Buses }

func (b modelBuses) Close() error { return nil }

func (b modelBuses) Open(bus int, readOnly bool) (Ksock, error) {
	on, err := b.Bus(bus)
	if err != nil {
		return nil, err
	}
	return modelKsock{b.Buses, on, on.Open(readOnly)}, nil
}

// modelKsock is one Ksock of the model.
type modelKsock struct {
	buses *model.Buses
	bus   *model.Bus
	id    uint32
}

func (k modelKsock) ID() uint32                             { return k.id }
func (k modelKsock) Close(bool) error                       { return k.bus.Close(k.id) }
func (k modelKsock) Bind(name string, replier bool) error   { return k.bus.Bind(k.id, name, replier) }
func (k modelKsock) Unbind(name string, replier bool) error { return k.bus.Unbind(k.id, name, replier) }
func (k modelKsock) Replier(name string) (uint32, error)    { return k.bus.Replier(name) }
func (k modelKsock) SendAgain() (model.MessageID, error)    { return k.bus.SendAgain(k.id) }
func (k modelKsock) Discard() error                         { return k.bus.Discard(k.id) }
func (k modelKsock) Unread() (int, error)                   { return k.bus.Unread(k.id) }
func (k modelKsock) Unreplied() (int, error)                { return k.bus.Unreplied(k.id) }
func (k modelKsock) LastSent() (model.MessageID, error)     { return k.bus.LastSent(k.id) }
func (k modelKsock) Poll() (bool, bool, error)              { return k.bus.Poll(k.id) }
func (k modelKsock) NewBus() (int, error)                   { return k.buses.NewBus() }

func (k modelKsock) Send(m *model.Message) (model.MessageID, error) { return k.bus.Send(k.id, *m) }
func (k modelKsock) MaxMessages(n uint32) (uint32, error)           { return k.bus.MaxMessages(k.id, n) }
func (k modelKsock) MaxMessageSize(n uint32) (uint32, error)        { return k.bus.MaxMessageSize(k.id, n) }
func (k modelKsock) OnlyOnce(v model.Switch) (bool, error)          { return k.bus.OnlyOnce(k.id, v) }
func (k modelKsock) ReportReplierBinds(v model.Switch) (bool, error) {
	return k.bus.ReportReplierBinds(k.id, v)
}

func (k modelKsock) Next() (*model.Message, error) {
	m, ok, err := k.bus.Next(k.id)
	if !ok {
		return nil, err
	}
	return &m, nil
}
