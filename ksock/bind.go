package ksock

import (
	"context"
	"errors"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
)

// A Role is what a Ksock binds to a name as (R4.1).
type Role bool

// The roles.
const (
	Listener Role = false // gets a copy of every message of the name
	Replier  Role = true  // gets the Requests of the name, and has to answer them
)

func (r Role) String() string {
	if r == Replier {
		return "Replier"
	}
	return "Listener"
}

var errNoReplier = errors.New("nobody may be Replier for the bus's own events") // R7.5

// Bind binds to a name, which may end in a wildcard (R1.2). When it returns,
// every message sent from then on is the Ksock's. Like all that asks the
// supervisor it waits while there is none, as long as ctx lets it.
//
// Errors: ErrBadName, ErrNameTooLong, ErrReplierExists (R4.2), ErrWouldBlock
// (R7.3), EDQUOT; [ErrNoSupervisor] together with ctx's cause.
func (k *Ksock) Bind(ctx context.Context, name string, role Role) error {
	if err := ring.CheckBinding(name); err != nil {
		return k.fail("bind", name, forOther, err)
	}
	if role == Replier && name == ReplierBindEvent {
		return k.fail("bind", name, forOther, &detail{ErrBadName.(*condition), errNoReplier})
	}
	_, err := k.control(ctx, control.Request{Op: control.OpBind, Name: name, Replier: bool(role)})
	return k.fail("bind", name, forOther, err)
}

// Unbind ends the newest binding of this Ksock with that name and role; messages
// that came by it and are unread go with it (R4.5), but not those that a
// [Ksock.Call] has passed by. Errors: ErrBadName, ErrNameTooLong, ErrNotBound
// (R4.4), ErrWouldBlock (R7.3).
func (k *Ksock) Unbind(ctx context.Context, name string, role Role) error {
	if err := ring.CheckBinding(name); err != nil {
		return k.fail("unbind", name, forOther, err)
	}
	_, err := k.control(ctx, control.Request{Op: control.OpUnbind, Name: name, Replier: bool(role)})
	k.file.refresh(k)
	return k.fail("unbind", name, forUnbind, err)
}

// Replier is the id of the Ksock that is Replier for exactly that name, with
// wildcards taken literally; 0 if there is none (R3.7). Errors: ErrNameTooLong.
func (k *Ksock) Replier(name string) (uint32, error) {
	if name == "" || len(name) > control.MaxName {
		return 0, k.fail("ask for the Replier of", name, forOther, ErrNameTooLong)
	}
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for the Replier of", name, forOther, k.end)
	}
	id, err := k.m.bus.Replier(name)
	return id, k.fail("ask for the Replier of", name, forOther, err)
}

// MaxMessages is how many unread messages the Ksock's queue holds (R3.2).
func (k *Ksock) MaxMessages() (uint32, error) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for max_messages", "", forOther, k.end)
	}
	return k.c.MaxMessages(), nil
}

// SetMaxMessages sets how many unread messages the Ksock's queue holds and
// returns that; 0 only asks (R3.2). Of more than 4096 it holds 4096.
func (k *Ksock) SetMaxMessages(ctx context.Context, n uint32) (uint32, error) {
	v, err := k.control(ctx, control.Request{Op: control.OpMaxMessages, Value: n})
	return v, k.fail("set max_messages", "", forOther, err)
}

// MaxMessageSize is the bus's limit for the size of a message, by R2.6.
func (k *Ksock) MaxMessageSize() (uint32, error) {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	if k.end != nil {
		return 0, k.fail("ask for the largest message", "", forOther, k.end)
	}
	return k.m.bus.MessageSize(), nil
}

// SetMaxMessageSize sets the bus's limit for the size of a message, from 100 to
// its absolute maximum, and returns it; 0 asks for it, 1 for the absolute
// maximum (R2.6). Errors: ErrInvalid.
func (k *Ksock) SetMaxMessageSize(ctx context.Context, n uint32) (uint32, error) {
	v, err := k.control(ctx, control.Request{Op: control.OpMessageSize, Value: n})
	return v, k.fail("set the largest message", "", forOther, err)
}

// A Switch is what the setting of a switch is to be (R3.9).
type Switch uint32

// Values of a Switch; any other is ErrInvalid.
const (
	Off     Switch = 0
	On      Switch = 1
	AskOnly Switch = 1<<32 - 1 // changes nothing
)

// SetOnlyOnce switches whether the Ksock gets at most one copy of each message
// (R4.6), and returns the setting before. Errors: ErrInvalid.
func (k *Ksock) SetOnlyOnce(ctx context.Context, s Switch) (was bool, err error) {
	return k.turn(ctx, "switch only once", control.OpOnlyOnce, s)
}

// SetReportReplierBinds switches whether the bus reports the bindings of
// Repliers (R7.1), for all its Ksocks, and returns the setting before.
// Switching it on also queues, for this Ksock, an event for each Replier that is
// bound (R7.2). Errors: ErrInvalid, ErrQueueFull if these do not all fit.
func (k *Ksock) SetReportReplierBinds(ctx context.Context, s Switch) (was bool, err error) {
	return k.turn(ctx, "switch the reports of Replier bindings", control.OpReports, s)
}

func (k *Ksock) turn(ctx context.Context, what string, op control.Op, s Switch) (bool, error) {
	var value uint32
	switch s {
	case Off:
		value = control.Off
	case On:
		value = control.On
	case AskOnly:
		value = control.Ask
	default:
		return false, k.fail(what, "", forOther, ErrInvalid)
	}
	v, err := k.control(ctx, control.Request{Op: op, Value: value})
	return v != 0, k.fail(what, "", forOther, err)
}

// control asks the supervisor something about this Ksock; the answer is its value.
func (k *Ksock) control(ctx context.Context, r control.Request) (uint32, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(k.life, func() { cancel(context.Cause(k.life)) })()
	a, err := k.link.Call(ctx, &r)
	if err != nil {
		select {
		case <-k.link.Done(): // watch says what that means
			<-k.life.Done()
			return 0, k.ended()
		default:
			return 0, err
		}
	}
	return a.Value, nil
}
