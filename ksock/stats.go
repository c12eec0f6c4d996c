package ksock

import (
	"context"
	"fmt"

	"kbus.internal/ring/control"
)

// BusConfig is the geometry of a new bus; what is 0 is the supervisor's choice.
type BusConfig = control.Config

// NewBus makes a new bus (R3.1) at the supervisor behind socket ("" is
// [DefaultSocket]) and returns its number: the lowest that was never used.
// Errors: ErrInvalid if there are 256 already, ErrNotAllowed, ErrNoSupervisor.
func NewBus(ctx context.Context, socket string, config *BusConfig) (int, error) {
	var r control.Request
	r.Op = control.OpNewBus
	if config != nil {
		r.Config = *config
	}
	n := -1
	err := with(ctx, socket, func(c *control.Conn) error {
		a, _, err := c.Call(ctx, &r, nil)
		if err == nil {
			n = int(a.Value)
		}
		return err
	})
	if err != nil {
		return -1, &Error{Op: "make a new bus", Err: meaning(forOther, err)}
	}
	return n, nil
}

// BusStats is what a supervisor tells about one of its buses.
type BusStats struct {
	control.BusInfo
	Ksocks   []KsockStats   // by slot
	Bindings []BindingStats // newest first, as messages go by them (R4.7)
}

// KsockStats is what a supervisor tells about one Ksock.
type KsockStats = control.KsockInfo

// BindingStats is what a supervisor tells about one binding.
type BindingStats = control.BindingInfo

// Stats asks the supervisor behind socket ("" is [DefaultSocket]) about all its
// buses, or about those of the given numbers. The tables are read one after the
// other while the buses go on, so they need not agree in everything.
// Errors: ErrNoBus, ErrNotAllowed, ErrNoSupervisor, ctx's cause.
func Stats(ctx context.Context, socket string, buses ...int) ([]BusStats, error) {
	var all []BusStats
	err := with(ctx, socket, func(c *control.Conn) (err error) {
		all, err = stats(ctx, c, buses)
		return err
	})
	if err != nil {
		return nil, &Error{Op: "stat", Err: meaning(forOther, err)}
	}
	return all, nil
}

func stats(ctx context.Context, c *control.Conn, buses []int) ([]BusStats, error) {
	wanted := map[int]bool{}
	for _, n := range buses {
		wanted[n] = true
	}
	var all []BusStats
	err := pages(ctx, c, control.Request{Op: control.OpBuses}, func(a *control.Answer) {
		for _, b := range a.Buses {
			if len(buses) == 0 || wanted[int(b.Bus)] {
				all = append(all, BusStats{BusInfo: b})
				delete(wanted, int(b.Bus))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for n := range wanted {
		return nil, &detail{ErrNoBus.(*condition), fmt.Errorf("there is no bus %d", n)}
	}
	for i := range all {
		b := &all[i]
		err = pages(ctx, c, control.Request{Op: control.OpKsocks, Bus: b.Bus}, func(a *control.Answer) {
			b.Ksocks = append(b.Ksocks, a.Ksocks...)
		})
		if err != nil {
			return nil, err
		}
		err = pages(ctx, c, control.Request{Op: control.OpBindings, Bus: b.Bus}, func(a *control.Answer) {
			b.Bindings = append(b.Bindings, a.Bindings...)
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// pages asks for all pages of a table.
func pages(ctx context.Context, c *control.Conn, r control.Request, add func(*control.Answer)) error {
	for {
		a, _, err := c.Call(ctx, &r, nil)
		if err != nil {
			return err
		}
		add(a)
		if a.Next == 0 {
			return nil
		}
		if a.Next <= r.From {
			return fmt.Errorf("the supervisor's table of %v does not end", r.Op)
		}
		r.From = a.Next
	}
}

// with connects to the supervisor for one errand.
func with(ctx context.Context, socket string, errand func(*control.Conn) error) error {
	if socket == "" {
		socket = DefaultSocket()
	}
	c, err := control.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return errand(c)
}
