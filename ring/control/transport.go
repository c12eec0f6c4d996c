package control

import (
	"context"
	"os"
)

// transport is one end of a connection that keeps packets and carries descriptors.
type transport interface {
	Send(b []byte, files ...*os.File) error
	Receive(b []byte) (n int, files []*os.File, err error)
	Close() error
}

var dial func(ctx context.Context, socket string) (transport, error)
