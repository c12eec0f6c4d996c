package main

import (
	"errors"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kbus.internal/bench"
)

const natsSubject = "kbus.bench"

// natsPeer embeds the server in the process that answers, which is how a NATS
// without a server of its own is used; the one that asks connects by TCP, as
// NATS has nothing else between processes.
func natsPeer() bench.Peer {
	return bench.Peer{
		Name: "nats", About: "NATS " + version("github.com/nats-io/nats-server/v2") + ", the server embedded in the process that answers",
		Answer: func(t *bench.PeerTask) (int64, error) {
			s, err := server.NewServer(&server.Options{
				Host: "127.0.0.1", Port: server.RANDOM_PORT, MaxPayload: 2 * bench.MaxSize, NoLog: true, NoSigs: true,
			})
			if err != nil {
				return 0, err
			}
			go s.Start()
			defer s.Shutdown()
			if !s.ReadyForConnections(10 * time.Second) {
				return 0, errors.New("the server does not start")
			}
			c, err := nats.Connect("", nats.InProcessServer(s))
			if err != nil {
				return 0, err
			}
			defer c.Close()
			e, failed := newEcho(), make(chan error, 1)
			if _, err := c.Subscribe(natsSubject, func(m *nats.Msg) {
				if answer := e.answer(m.Data); len(answer) == 0 {
					return
				} else if err := m.Respond(answer); err != nil {
					failed <- err
				}
			}); err != nil {
				return 0, err
			}
			if err := c.Flush(); err != nil {
				return 0, err
			}
			if err := os.WriteFile(t.Path(0), []byte(s.ClientURL()), 0o600); err != nil {
				return 0, err
			}
			if err := t.Begin(); err != nil {
				return 0, err
			}
			select {
			case err := <-failed:
				return 0, err
			case <-e.over:
				return e.messages, c.Flush()
			}
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			url, err := os.ReadFile(t.Path(0))
			if err != nil {
				return nil, nil, err
			}
			c, err := nats.Connect(string(url))
			if err != nil {
				return nil, nil, err
			}
			ask := func(message []byte) ([]byte, error) {
				m, err := c.Request(natsSubject, message, time.Minute)
				if err != nil {
					return nil, err
				}
				return m.Data, nil
			}
			end := func() error {
				defer c.Close()
				if err := c.Publish(natsSubject, nil); err != nil {
					return err
				}
				return c.Flush()
			}
			return ask, end, nil
		},
	}
}
