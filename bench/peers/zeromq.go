package main

import (
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"runtime"
	"sync"
	"syscall"

	"github.com/ebitengine/purego"

	"kbus.internal/bench"
)

// zeroMQ is the C library, loaded when it is needed. So this program can be built
// without a C compiler and the library's headers, and what is measured is the
// library that people use, not one that speaks its protocol.
type zeroMQ struct {
	ctxNew, ctxTerm, socket, close, bind, connect, send, recv, setsockopt, errno uintptr
}

var loadZeroMQ = sync.OnceValues(func() (*zeroMQ, error) {
	lib, err := purego.Dlopen("libzmq.so.5", purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, &bench.Unavailable{Why: "libzmq is not installed", Install: "apt-get install libzmq5"}
	}
	z := &zeroMQ{}
	for name, to := range map[string]*uintptr{
		"zmq_ctx_new": &z.ctxNew, "zmq_ctx_term": &z.ctxTerm, "zmq_socket": &z.socket, "zmq_close": &z.close,
		"zmq_bind": &z.bind, "zmq_connect": &z.connect, "zmq_send": &z.send, "zmq_recv": &z.recv, "zmq_setsockopt": &z.setsockopt, "zmq_errno": &z.errno,
	} {
		if *to, err = purego.Dlsym(lib, name); err != nil {
			return nil, err
		}
	}
	return z, nil
})

// From zmq.h.
const (
	zmqSub        = 2
	zmqReq        = 3
	zmqRep        = 4
	zmqXPub       = 9
	zmqSubscribe  = 6
	zmqXPubNoDrop = 69 // waits for the slowest
)

// zmqSocket is one socket in a context of its own, for one goroutine.
type zmqSocket struct {
	*zeroMQ
	ctx, socket uintptr
}

// call calls a function of the library that returns -1 with an errno, until no
// signal interrupts it: Go's runtime has some of its own.
func (z *zeroMQ) call(what string, f uintptr, args ...uintptr) (int, error) {
	for {
		r, _, _ := purego.SyscallN(f, args...)
		if int32(r) >= 0 {
			return int(int32(r)), nil
		}
		errno, _, _ := purego.SyscallN(z.errno)
		if e := syscall.Errno(int32(errno)); e != syscall.EINTR {
			return 0, os.NewSyscallError(what, e)
		}
	}
}

func newZMQSocket(kind uintptr) (*zmqSocket, error) {
	z, err := loadZeroMQ()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread() // errno is the thread's
	s := &zmqSocket{zeroMQ: z}
	if s.ctx, _, _ = purego.SyscallN(z.ctxNew); s.ctx == 0 {
		return nil, errors.New("zmq_ctx_new failed")
	}
	if s.socket, _, _ = purego.SyscallN(z.socket, s.ctx, kind); s.socket == 0 {
		return nil, errors.New("zmq_socket failed")
	}
	return s, nil
}

// address is that of the first byte of b, which has some and stays where it is
// while it is kept alive.
func address(b []byte) uintptr { return reflect.ValueOf(b).Pointer() }

func (s *zmqSocket) at(f uintptr, what, path string) error {
	endpoint := append([]byte("ipc://"+path), 0)
	_, err := s.call(what, f, s.socket, address(endpoint))
	runtime.KeepAlive(endpoint)
	return err
}

func (s *zmqSocket) send(message []byte) error {
	b := message[:len(message):len(message)]
	if len(b) == 0 {
		b = make([]byte, 1)
	}
	_, err := s.call("zmq_send", s.zeroMQ.send, s.socket, address(b), uintptr(len(message)), 0)
	runtime.KeepAlive(b)
	return err
}

func (s *zmqSocket) recv(buffer []byte) ([]byte, error) {
	n, err := s.call("zmq_recv", s.zeroMQ.recv, s.socket, address(buffer), uintptr(len(buffer)), 0)
	runtime.KeepAlive(buffer)
	return buffer[:min(n, len(buffer))], err
}

func (s *zmqSocket) set(option uintptr, value []byte, size int) error {
	_, err := s.call("zmq_setsockopt", s.setsockopt, s.socket, option, address(value), uintptr(size))
	runtime.KeepAlive(value)
	return err
}

// end closes the socket, and waits until all has been sent.
func (s *zmqSocket) end() error {
	if _, err := s.call("zmq_close", s.zeroMQ.close, s.socket); err != nil {
		return err
	}
	_, err := s.call("zmq_ctx_term", s.ctxTerm, s.ctx)
	return err
}

func zeroMQPeer() bench.Peer {
	return bench.Peer{
		Name: "zeromq", About: "ZeroMQ (libzmq), REQ and REP, PUB and SUB without drops, by Unix sockets",
		Answer: func(t *bench.PeerTask) (int64, error) {
			s, err := newZMQSocket(zmqRep)
			if err != nil {
				return 0, err
			}
			if err := s.at(s.bind, "zmq_bind", t.Path(0)); err != nil {
				return 0, err
			}
			if err := t.Begin(); err != nil {
				return 0, err
			}
			buffer := make([]byte, t.Size)
			for n := int64(0); ; n++ {
				m, err := s.recv(buffer)
				if err == nil {
					err = s.send(m)
				}
				if err != nil {
					return n, err
				}
				if len(m) == 0 {
					return n, s.end()
				}
			}
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			s, err := newZMQSocket(zmqReq)
			if err != nil {
				return nil, nil, err
			}
			if err := s.at(s.connect, "zmq_connect", t.Path(0)); err != nil {
				return nil, nil, err
			}
			buffer := make([]byte, t.Size)
			ask := func(message []byte) ([]byte, error) {
				if err := s.send(message); err != nil {
					return nil, err
				}
				return s.recv(buffer)
			}
			end := func() error {
				if _, err := ask(nil); err != nil {
					return err
				}
				return s.end()
			}
			return ask, end, nil
		},
		Listen: func(t *bench.PeerTask, got func([]byte) error) error {
			s, err := newZMQSocket(zmqSub)
			if err != nil {
				return err
			}
			// To all messages, and, for the announcer to know that it is there, by its number.
			for size := range 2 {
				if err := s.set(zmqSubscribe, []byte{byte(t.Index)}, size); err != nil {
					return err
				}
			}
			// It tries again until the announcer is there; a socket that is bound would
			// see the other one only in its next call.
			if err := s.at(s.connect, "zmq_connect", t.Path(0)); err != nil {
				return err
			}
			if err := t.Begin(); err != nil {
				return err
			}
			for buffer := make([]byte, t.Size); ; {
				m, err := s.recv(buffer)
				if err != nil {
					return err
				}
				if len(m) == 0 {
					return s.end()
				}
				if err := got(m); err != nil {
					return err
				}
			}
		},
		Announce: func(t *bench.PeerTask) (func([]byte) error, func() error, error) {
			s, err := newZMQSocket(zmqXPub)
			if err != nil {
				return nil, nil, err
			}
			if err := s.set(zmqXPubNoDrop, binary.NativeEndian.AppendUint32(nil, 1), 4); err != nil {
				return nil, nil, err
			}
			if err := s.at(s.bind, "zmq_bind", t.Path(0)); err != nil {
				return nil, nil, err
			}
			// numbers waits until each Listener has subscribed (1) to its number, or not any more (0).
			numbers := func(subscribed byte) error {
				for there := map[byte]bool{}; len(there) < t.Listeners; {
					m, err := s.recv(make([]byte, 16))
					if err != nil {
						return err
					}
					if len(m) == 2 && m[0] == subscribed {
						there[m[1]] = true
					}
				}
				return nil
			}
			if err := numbers(1); err != nil {
				return nil, nil, err
			}
			end := func() error {
				if err := s.send(nil); err != nil {
					return err
				}
				// To close before a Listener that is behind has read all would lose the rest.
				if err := numbers(0); err != nil {
					return err
				}
				return s.end()
			}
			return s.send, end, nil
		},
	}
}
