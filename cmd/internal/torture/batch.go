package torture

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

const (
	mostInBatch = 200 // more than one entry of the bus takes
	mostInRun   = 80  // of one name
	mostViews   = 100 // taken by one ViewBatch
)

// announceBatch sends announcements by SendBatch, names in runs. All intents are
// written down before, all outcomes after; a death in between may have cut the
// batch off anywhere, but only its end (books.missing).
func (a *actor) announceBatch() {
	c := a.c
	if !a.mayAnnounce() {
		return
	}
	n := 1 + c.rng.IntN(48)
	if c.chance(20) {
		n = 1 + c.rng.IntN(mostInBatch)
	}
	for len(a.batch) < n {
		a.batch = append(a.batch, new(ksock.Message))
	}
	ms, run := a.batch[:n], 0
	a.batches++
	first := a.seq + 1
	class := uint8(announcement)
	var name string
	for _, m := range ms {
		if run == 0 {
			run = 1 + c.rng.IntN(mostInRun)
			if class, name = announcement, pick(c, c.names.announce); c.chance(3) {
				class, name = chained, chainName
			}
		}
		run--
		m.Header, m.Data = ksock.Header{Name: name, Flags: uint32(c.rng.IntN(1<<16)) << 16}, c.data()
		switch {
		case class == chained && c.chance(20):
			m.Flags |= ksock.AllOrWait
		case class == chained:
			m.Flags |= ksock.AllOrFail
		case c.chance(100):
			m.Flags |= []uint32{ksock.AllOrFail, ksock.AllOrWait, ksock.Urgent}[c.rng.IntN(3)]
		}
		if c.chance(200) {
			m.ID = ksock.MessageID{Network: 1000 + a.life, Serial: a.seq + 1}
		}
		a.begin(class, &m.Header, m.Data, a.batches)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.rng.IntN(2000))*time.Microsecond)
	sent, err := a.k.SendBatch(ctx, ms)
	cancel()
	if sent < 0 || sent > n || (err == nil) != (sent == n) {
		c.wrong(a.life, wrongError, errors.Join(errBatch, err), uint64(sent)<<32|uint64(n))
	}
	for i, m := range ms {
		r := record{class: announcement, origin: uint64(a.life)<<32 | uint64(first+uint32(i)), flags: noID}
		if m.Name == chainName {
			r.class = chained
		}
		e := err
		switch {
		case i < sent:
			e = nil
		case i > sent:
			e = codeError(unix.ECANCELED) // not tried
		}
		if err == nil && i == n-1 {
			id, _ := a.k.LastSent()
			r.id, r.flags = pair(id), 0
		}
		a.outcomeOf(r, e)
		m.Data = nil
	}
}

var errBatch = errors.New("a batch that went out in part has an error, and only that")

// receiveBatch reads what there is by ViewBatch, if there is anything.
func (a *actor) receiveBatch() int {
	c := a.c
	readable, _, err := a.k.Poll()
	if err == nil && !readable {
		a.called = false
		return 0
	}
	n := 0
	if err == nil {
		if a.taken == nil {
			a.taken = make([]ksock.View, mostViews)
		}
		ctx, cancel := patient() // it is there, so this takes no time
		n, err = a.k.ViewBatch(ctx, a.taken[:1+c.rng.IntN(mostViews)])
		cancel()
	}
	if err != nil {
		c.wrong(a.life, wrongError, err, 0)
		a.unsure = true
	}
	for i, v := range a.taken[:n] {
		h := v.Header()
		a.note(&h, v.Data(), false)
		if len(a.views) < 8 && c.chance(50) {
			a.views = append(a.views, held{v, sum64(0, v.Data())})
			a.taken[i] = ksock.View{}
		}
	}
	a.k.ReleaseAll(a.taken[:n])
	return n
}
