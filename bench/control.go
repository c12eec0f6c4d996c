package bench

import (
	"context"

	"kbus.internal/ksock"
)

// Open measures opening and closing, in a process without another Ksock: the
// region is mapped and unmapped each time.
func Open(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "open", func(s *stage) error {
		l, err := s.alone("opener")
		if err == nil {
			s.result.Latency, s.result.Close = l["open"], l["close"]
		}
		return err
	})
}

// Bind measures binding and unbinding a Listener.
func Bind(ctx context.Context, o Options) (*Result, error) {
	return measure(ctx, o, "bind", func(s *stage) error {
		l, err := s.alone("binder")
		if err == nil {
			s.result.Latency, s.result.Unbind = l["bind"], l["unbind"]
		}
		return err
	})
}

func opener(w *worker) (*report, error) {
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	var k *ksock.Ksock
	return w.timed(1, step{"open", func() (err error) {
		k, err = ksock.Open(w.ctx, 0, w.options())
		return err
	}}, step{"close", func() error { return k.Close() }})
}

func binder(w *worker) (*report, error) {
	k, err := w.open()
	if err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	return w.timed(1,
		step{"bind", func() error { return k.Bind(w.ctx, bindName, ksock.Listener) }},
		step{"unbind", func() error { return k.Unbind(w.ctx, bindName, ksock.Listener) }})
}
