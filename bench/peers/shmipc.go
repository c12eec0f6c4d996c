package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/cloudwego/shmipc-go"

	"kbus.internal/bench"
)

// shmipcConfig has buffers into which a message fits, so that it is in one piece.
func shmipcConfig(size int) *shmipc.Config {
	c := shmipc.DefaultConfig()
	c.LogOutput = io.Discard
	c.MemMapType = shmipc.MemMapTypeMemFd
	c.BufferSliceSizes = []*shmipc.SizePercentPair{{Size: uint32(max(size, 4096)+7) &^ 7, Percent: 100}}
	c.ShareMemoryBufferCap = uint32(max(int(c.ShareMemoryBufferCap), 8*size))
	return c
}

// shmipcSend sends a message of the size, of which only the ends are written.
func shmipcSend(s *shmipc.Stream, message []byte) error {
	to, err := s.BufferWriter().Reserve(len(message))
	if err != nil {
		return err
	}
	copy(to, message[:8])
	copy(to[len(to)-8:], message[len(message)-8:])
	return s.Flush(false)
}

func shmipcPeer() bench.Peer {
	return bench.Peer{
		Name: "shmipc", About: "shmipc-go " + version("github.com/cloudwego/shmipc-go") + ", in place", InPlace: true,
		Answer: func(t *bench.PeerTask) (int64, error) {
			l, err := net.Listen("unix", t.Path(0))
			if err != nil {
				return 0, err
			}
			defer l.Close()
			// The other side can't connect without an answer, so before it begins.
			accepted := make(chan error, 1)
			var session *shmipc.Session
			go func() {
				c, err := l.Accept()
				if err == nil {
					session, err = shmipc.Server(c, shmipcConfig(t.Size))
				}
				accepted <- err
			}()
			if err := t.Begin(); err != nil {
				return 0, err
			}
			if err := <-accepted; err != nil {
				return 0, err
			}
			defer session.Close()
			s, err := session.AcceptStream()
			if err != nil {
				return 0, err
			}
			for n := int64(0); ; n++ {
				message, err := s.BufferReader().ReadBytes(t.Size)
				if errors.Is(err, shmipc.ErrEndOfStream) || errors.Is(err, shmipc.ErrStreamClosed) {
					return n, nil
				}
				if err == nil {
					err = shmipcSend(s, message)
				}
				if err != nil {
					return n, err
				}
				s.BufferReader().ReleasePreviousRead()
			}
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			m, err := shmipc.NewSessionManager(&shmipc.SessionManagerConfig{
				Config: shmipcConfig(t.Size), Network: "unix", Address: t.Path(0), SessionNum: 1, MaxStreamNum: 1,
			})
			if err != nil {
				return nil, nil, fmt.Errorf("connect: %w", err)
			}
			s, err := m.GetStream()
			if err != nil {
				return nil, nil, err
			}
			ask := func(message []byte) ([]byte, error) {
				s.BufferReader().ReleasePreviousRead()
				if err := shmipcSend(s, message); err != nil {
					return nil, err
				}
				return s.BufferReader().ReadBytes(t.Size)
			}
			return ask, func() error { return errors.Join(s.Close(), m.Close()) }, nil
		},
	}
}
