package bench

import (
	"context"

	"kbus.internal/ksock"
)

// OpenResult is how long it takes to open a Ksock and to close it.
type OpenResult struct {
	Run
	Latency
	Close *Latency `json:"close"`
}

// Open measures opening and closing, in a process without another Ksock: the
// region is mapped and unmapped each time.
func Open(ctx context.Context, o Options) (*OpenResult, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	r := &OpenResult{}
	r.Run, err = measure(ctx, o, "open", func(s *stage) error {
		l, err := s.alone("opener")
		if err == nil {
			r.Latency, r.Close = *l["open"], l["close"]
		}
		return err
	})
	return r, err
}

// BindResult is how long it takes to bind to a name and to unbind.
type BindResult struct {
	Run
	Latency
	Unbind *Latency `json:"unbind"`
}

// Bind measures binding and unbinding a Listener.
func Bind(ctx context.Context, o Options) (*BindResult, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	r := &BindResult{}
	r.Run, err = measure(ctx, o, "bind", func(s *stage) error {
		l, err := s.alone("binder")
		if err == nil {
			r.Latency, r.Unbind = *l["bind"], l["unbind"]
		}
		return err
	})
	return r, err
}

func opener(w *worker) (*report, error) {
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	var k *ksock.Ksock
	return w.timed(1, step{"open", func() (err error) {
		k, err = w.open()
		return err
	}}, step{"close", func() error { return k.Close() }})
}

func binder(w *worker) (*report, error) {
	k, err := w.open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	return w.timed(1,
		step{"bind", func() error { return k.Bind(w.ctx, bindName, ksock.Listener) }},
		step{"unbind", func() error { return k.Unbind(w.ctx, bindName, ksock.Listener) }})
}
