package main

import (
	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"

	"kbus.internal/bench"
)

func mangosPeer() bench.Peer {
	return bench.Peer{
		Name: "mangos", About: "mangos " + version("go.nanomsg.org/mangos/v3") + " (nanomsg in Go), REQ and REP by a Unix socket",
		Answer: func(t *bench.PeerTask) (int64, error) {
			s, err := rep.NewSocket()
			if err != nil {
				return 0, err
			}
			defer s.Close()
			if err := mangosSize(s); err != nil {
				return 0, err
			}
			gone := make(chan struct{})
			s.SetPipeEventHook(func(event mangos.PipeEvent, _ mangos.Pipe) {
				if event == mangos.PipeEventDetached {
					close(gone)
				}
			})
			if err := s.Listen("ipc://" + t.Path(0)); err != nil {
				return 0, err
			}
			if err := t.Begin(); err != nil {
				return 0, err
			}
			for n := int64(0); ; n++ {
				m, err := s.Recv()
				if err == nil {
					err = s.Send(m)
				}
				if err != nil {
					return n, err
				}
				if len(m) == 0 {
					<-gone // Close does not wait until the answer is there
					return n, nil
				}
			}
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			s, err := req.NewSocket()
			if err != nil {
				return nil, nil, err
			}
			if err := mangosSize(s); err != nil {
				return nil, nil, err
			}
			if err := s.Dial("ipc://" + t.Path(0)); err != nil {
				return nil, nil, err
			}
			ask := func(message []byte) ([]byte, error) {
				if err := s.Send(message); err != nil {
					return nil, err
				}
				return s.Recv()
			}
			end := func() error {
				if _, err := ask(nil); err != nil {
					return err
				}
				return s.Close()
			}
			return ask, end, nil
		},
	}
}

// mangosSize allows messages of any size.
func mangosSize(s mangos.Socket) error { return s.SetOption(mangos.OptionMaxRecvSize, 0) }
