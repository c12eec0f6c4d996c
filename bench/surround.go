package bench

import (
	"fmt"
	"time"

	"kbus.internal/ksock"
)

// Roles that are only there: they end when the others have finished.

// crowd has Ksocks that nothing is sent to, and bindings to names that nobody sends.
func crowd(w *worker) (*report, error) {
	var all []*ksock.Ksock
	for range max(w.Ksocks, 1) {
		k, err := w.open()
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	for i := range w.Bindings {
		if err := all[i%len(all)].Bind(w.ctx, fmt.Sprintf("$.Crowd.N%d", i), ksock.Listener); err != nil {
			return nil, err
		}
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	<-w.ctx.Done()
	return &report{}, nil
}

// busy keeps a CPU from doing anything else.
func busy(w *worker) (*report, error) {
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	for w.ctx.Err() == nil {
	}
	return &report{}, nil
}

// slowness is what a slow Listener needs for each message.
const slowness = 10 * time.Millisecond

// slow listens, and takes its time.
func slow(w *worker) (*report, error) { return w.listen(slowness) }

// idle listens. It is to be stopped, or nothing is sent to it.
func idle(w *worker) (*report, error) { return w.listen(0) }

func (w *worker) listen(pause time.Duration) (*report, error) {
	k, err := w.open()
	if err != nil {
		return nil, err
	}
	if err := k.Bind(w.ctx, w.bound(hopName(0)), ksock.Listener); err != nil {
		return nil, err
	}
	if err := w.begin(report{}); err != nil {
		return nil, err
	}
	n := int64(0)
	for {
		v, err := k.View(w.ctx)
		if err != nil {
			if w.ctx.Err() != nil {
				err = nil // it is over
			}
			return &report{Messages: n}, err
		}
		n++
		select {
		case <-w.ctx.Done():
		case <-time.After(pause):
		}
		v.Release()
	}
}
