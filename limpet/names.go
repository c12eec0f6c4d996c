package limpet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// A holding is how a name of the other side stands here.
type holding int

const (
	held  holding = 1 + iota // this Limpet is its proxy Replier
	taken                    // somebody else is Replier for it (R8.5)
)

// names are those that have a Replier on the other side.
type names struct {
	k   *ksock.Ksock
	say func(err error, what, name string)

	doing sync.Mutex // one bind or unbind at a time

	mu     sync.Mutex
	is     map[string]holding
	later  map[string]bool // what is to be tried again: true bind, false unbind
	rounds uint64          // of trying again that are over
	kick   chan struct{}
}

func (n *names) init(k *ksock.Ksock, say func(error, string, string)) {
	*n = names{k: k, say: say, is: map[string]holding{}, later: map[string]bool{}, kick: make(chan struct{}, 1)}
}

func (n *names) list() (proxied, both []string, later int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, h := range n.is {
		if h == held {
			proxied = append(proxied, name)
		} else {
			both = append(both, name)
		}
	}
	slices.Sort(proxied)
	slices.Sort(both)
	return proxied, both, len(n.later)
}

// event carries out what the other side says of a Replier there (R8.5). It
// overtakes what is still to be tried for that name.
func (n *names) event(ctx context.Context, e *ksock.BindEvent) {
	n.doing.Lock()
	defer n.doing.Unlock()
	n.try(ctx, e.Name, e.Bound)
}

// bindTime is how long the link waits for one binding. Only a supervisor that is
// not there takes so long; then it is tried later.
const bindTime = time.Second

// try brings a name to what it should be. doing is held.
func (n *names) try(ctx context.Context, name string, bound bool) {
	n.mu.Lock()
	is := n.is[name]
	n.mu.Unlock()
	switch {
	case !bound && is == taken:
		n.set(name, 0)
		return
	case bound == (is == held):
		n.set(name, is) // nothing to change
		return
	}
	ctx, cancel := context.WithTimeout(ctx, bindTime)
	defer cancel()
	if bound {
		err := n.k.Bind(ctx, name, ksock.Replier)
		switch {
		case err == nil:
			n.set(name, held)
		case errors.Is(err, unix.EADDRINUSE):
			// Perhaps by an attempt whose answer did not come in time.
			if id, _ := n.k.Replier(name); id == n.k.ID() {
				n.set(name, held)
				return
			}
			n.set(name, taken)
			n.say(err, "the name has a Replier on both sides: Requests from here go to the one here; unbind one of them", name)
		case passing(err):
			n.again(name, true)
		default:
			n.set(name, 0)
			n.say(err, "the name can't be proxied", name)
		}
		return
	}
	err := n.k.Unbind(ctx, name, ksock.Replier)
	switch {
	case err == nil, errors.Is(err, unix.EINVAL): // perhaps unbound by an attempt whose answer did not come in time
		n.set(name, 0)
	case passing(err):
		n.again(name, false)
	default:
		n.set(name, 0)
		n.say(err, "the name can't be given up", name)
	}
}

// passing tells that an error may be over in a moment.
func passing(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ksock.ErrNoSupervisor)
}

// set notes how a name stands, with nothing left to be tried.
func (n *names) set(name string, h holding) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.later, name)
	if h == 0 {
		delete(n.is, name)
	} else {
		n.is[name] = h
	}
}

// again has a name tried again until that is done or overtaken.
func (n *names) again(name string, bound bool) {
	n.mu.Lock()
	n.later[name] = bound
	n.mu.Unlock()
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// retry tries again what could not be done, with growing pauses, until ctx ends.
func (n *names) retry(ctx context.Context) {
	const first, last = 2 * time.Millisecond, time.Second
	for {
		select {
		case <-n.kick:
		case <-ctx.Done():
			return
		}
		for wait := first; ; wait = min(2*wait, last) {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
			if !n.round(ctx) {
				break
			}
		}
	}
}

// round tries each name once and tells whether some are left.
func (n *names) round(ctx context.Context) bool {
	n.mu.Lock()
	todo := maps.Clone(n.later)
	n.mu.Unlock()
	for name := range todo {
		n.doing.Lock()
		n.mu.Lock()
		bound, still := n.later[name]
		n.mu.Unlock()
		if still {
			n.try(ctx, name, bound)
		}
		n.doing.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rounds++
	return len(n.later) > 0
}

// replier finds the Ksock that Requests of a name go to here, by R4.3; 0 if none.
func (n *names) replier(name string) (uint32, error) {
	if len(name) > maxBusName {
		return 0, nil
	}
	id, err := n.k.Replier(name)
	for end, wild := len(name), "%"; err == nil && id == 0 && end > 0; {
		end = strings.LastIndexByte(name[:end], '.')
		if end < 0 {
			break
		}
		if wild == "%" {
			if id, err = n.k.Replier(name[:end+1] + wild); err != nil || id != 0 {
				break
			}
			wild = "*"
		}
		id, err = n.k.Replier(name[:end+1] + wild)
	}
	return id, err
}

// maxBusName is the longest name that a bus knows (R1.1).
const maxBusName = 1000

// asked are the Requests that went over the link and have no Reply yet, by their
// ids on this bus (R8.4). Of several with one id the oldest is meant.
type asked struct {
	mu  sync.Mutex
	by  map[ksock.MessageID][]uint32 // who asked
	num int
}

func (a *asked) add(id ksock.MessageID, by uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[ksock.MessageID][]uint32{}
	}
	a.by[id] = append(a.by[id], by)
	a.num++
}

// take forgets a Request and tells who asked it.
func (a *asked) take(id ksock.MessageID) (by uint32, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.by[id]
	if len(l) == 0 {
		return 0, false
	}
	if len(l) == 1 {
		delete(a.by, id)
	} else {
		a.by[id] = l[1:]
	}
	a.num--
	return l[0], true
}

func (a *asked) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.num
}
