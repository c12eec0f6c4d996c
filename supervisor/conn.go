package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
	"kbus.internal/shm/handoff"
)

// conn is one connection. Its fields belong to the goroutine that serves it.
type conn struct {
	s     *Supervisor
	c     *handoff.Conn
	uid   uint32
	proc  *process
	ksock *ksock
}

// refuse is an answer that says no.
func refuse(errno unix.Errno, format string, args ...any) error {
	return &control.Error{Errno: errno, Text: fmt.Sprintf(format, args...)}
}

// serve serves one connection until its end, which is the end of its Ksock.
func (s *Supervisor) serve(hc *handoff.Conn) {
	c := &conn{s: s, c: hc}
	defer hc.Close()
	if err := c.admit(); err != nil {
		s.log.Info("newcomer is refused", "uid", c.uid, "err", err)
		errno, text := explain(err)
		c.lastWord(errno, text)
		return
	}
	defer c.leave()
	buf := make([]byte, control.MaxRequest)
	for {
		b, files, err := hc.Receive(s.ctx, buf)
		switch {
		case err == nil:
		case errors.Is(err, handoff.ErrFilesLost):
			c.lastWord(unix.EMFILE, shortage)
			return
		case err == io.EOF || errors.Is(err, unix.ECONNRESET) || s.ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return
		default:
			s.log.Warn("connection is given up", "pid", c.proc.h.PID, "err", err)
			errno, text := explain(err)
			c.lastWord(errno, text)
			return
		}
		r, err := control.ParseRequest(b)
		if err != nil {
			closeAll(files)
			errno := unix.EPROTO
			if errors.Is(err, unix.EPROTONOSUPPORT) {
				errno = unix.EPROTONOSUPPORT
			}
			c.lastWord(errno, err.Error())
			return
		}
		a, file, err := c.do(r, files)
		closeAll(files)
		if err != nil {
			errno, text := explain(err)
			a, file = &control.Answer{Errno: errno, Text: text}, nil
		}
		a.Op, a.Number = r.Op, r.Number
		if err := c.send(s.ctx, a, file); err != nil {
			if s.ctx.Err() == nil {
				s.log.Warn("answer is lost", "pid", c.proc.h.PID, "err", err)
			}
			return
		}
	}
}

// explain makes an errno and a text of err.
func explain(err error) (unix.Errno, string) {
	var errno unix.Errno
	if !errors.As(err, &errno) || errno == 0 {
		errno = unix.EIO // a corrupt region above all
	}
	return errno, err.Error()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (c *conn) send(ctx context.Context, a *control.Answer, file *os.File) error {
	b, err := a.Append(nil)
	if err != nil {
		return err
	}
	if file != nil {
		return c.c.Send(ctx, b, file)
	}
	return c.c.Send(ctx, b)
}

// lastWord says why the connection ends, if the other side listens.
func (c *conn) lastWord(errno unix.Errno, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	c.send(ctx, &control.Answer{Errno: errno, Text: text}, nil)
}

// admit decides whether the newcomer may come; if not, nothing is left of it.
func (c *conn) admit() error {
	cr, err := c.c.Credentials()
	if err != nil {
		return err
	}
	c.uid = cr.UID
	if !c.s.o.admits(cr.UID, cr.GID, cr.Groups) {
		return refuse(unix.EACCES, "user %d may not use this bus: it belongs to user %d (kbus up --allow-user and --allow-group let others in)",
			cr.UID, os.Geteuid())
	}
	p, err := c.c.Process()
	if err != nil {
		if errno, _ := explain(err); errno == unix.EMFILE || errno == unix.ENFILE {
			return refuse(errno, shortage)
		}
		return err
	}
	most := quota(c.s.o.KsocksPerUser, guestKsocks, c.uid)
	err = c.s.use(c.uid, func(u *usage) error {
		if c.s.closing {
			return refuse(unix.ESHUTDOWN, "the supervisor is going down")
		}
		// Each Ksock has a connection, and a few tools may look on.
		if most > 0 && u.conns >= most+16 {
			return refuse(unix.EDQUOT, "user %d has %d connections, the most for %d Ksocks (kbus up --ksocks-per-user)", c.uid, u.conns, most)
		}
		u.conns++
		c.s.conns[c] = struct{}{}
		return nil
	})
	if err != nil {
		p.Close()
		return err
	}
	c.proc = c.s.meet(p)
	return nil
}

// use looks at, and changes, what a user has.
func (s *Supervisor) use(uid uint32, f func(*usage) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.usage[uid]
	if u == nil {
		u = &usage{}
		s.usage[uid] = u
	}
	err := f(u)
	if *u == (usage{}) {
		delete(s.usage, uid)
	}
	return err
}

// leave is the end of an admitted connection.
func (c *conn) leave() {
	if c.ksock != nil {
		c.ksock.bus.end(c.ksock, "its connection ended")
	}
	c.s.use(c.uid, func(u *usage) error {
		u.conns--
		delete(c.s.conns, c)
		return nil
	})
	c.s.leave(c.proc)
}

// do carries out one request.
func (c *conn) do(r *control.Request, files []*os.File) (*control.Answer, *os.File, error) {
	if want := r.Op == control.OpReattach; (len(files) == 1) != want || len(files) > 1 {
		return nil, nil, refuse(unix.EPROTO, "%v with %d descriptors", r.Op, len(files))
	}
	switch r.Op {
	case control.OpOpen, control.OpReattach:
		if c.ksock != nil {
			return nil, nil, refuse(unix.EISCONN, "the connection has a Ksock already")
		}
		b, err := c.s.lookUp(r.Bus)
		if err != nil {
			return nil, nil, err
		}
		if r.Op == control.OpReattach {
			if c.ksock, err = b.reattach(c, r, files[0]); err != nil {
				return nil, nil, err
			}
		} else {
			if r.Value == 1 { // it was to get the region, and has not
				b.holderDied(c.proc)
				if b, err = c.s.lookUp(r.Bus); err != nil {
					return nil, nil, err
				}
			}
			if c.ksock, err = b.open(c, r.ReadOnly); err != nil {
				return nil, nil, err
			}
		}
		a := &control.Answer{Slot: uint32(c.ksock.slot), Ksock: c.ksock.id, Token: b.token(c.ksock.slot, c.ksock.id)}
		if r.Op == control.OpReattach {
			return a, nil, nil
		}
		return a, b.mem.File(), nil
	case control.OpNewBus:
		n, err := c.s.newBus(r.Config)
		return &control.Answer{Value: uint32(n)}, nil, err
	case control.OpBuses, control.OpKsocks, control.OpBindings:
		a, err := c.s.list(r)
		return a, nil, err
	}
	k := c.ksock
	if k == nil {
		return nil, nil, refuse(unix.ENOTCONN, "%v on a connection without a Ksock", r.Op)
	}
	a := &control.Answer{}
	var err error
	switch r.Op {
	case control.OpClose:
		// The slot stays the Ksock's while it holds messages in place; then the
		// end of the connection frees it.
		if r.Value == 0 {
			err = k.bus.close(k, "it was closed")
		} else {
			k.bus.end(k, "it was closed")
		}
	case control.OpBind:
		err = k.bus.bind(k, r.Name, r.Replier)
	case control.OpUnbind:
		err = k.bus.unbind(k, r.Name, r.Replier)
	default:
		err = k.bus.with(k, func(ad *ring.Admin) (err error) {
			var was bool
			switch r.Op {
			case control.OpBound:
				a.Value, err = k.bus.bound(k, r.Name, r.Replier)
			case control.OpMaxMessages:
				a.Value, err = ad.SetMaxMessages(k.slot, r.Value)
			case control.OpMessageSize:
				a.Value, err = ad.SetMessageSize(r.Value)
			case control.OpOnlyOnce:
				was, err = ad.SetOnlyOnce(k.slot, switchValue(r.Value))
			case control.OpReports:
				was, err = ad.SetReports(k.slot, switchValue(r.Value))
			}
			if was {
				a.Value = control.On
			}
			return err
		})
	}
	if err != nil {
		return nil, nil, err
	}
	return a, nil, nil
}

// switchValue is the wire's value of a switch as ring knows it; what is none
// stays none (R3.9: EINVAL).
func switchValue(v uint32) uint32 {
	switch v {
	case control.Off:
		return ring.Off
	case control.On:
		return ring.On
	case control.Ask:
		return ring.AskOnly
	}
	return noSwitch
}

const noSwitch = 7
