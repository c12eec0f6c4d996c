package main

import (
	"context"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"kbus.internal/bench"
)

// A gRPC service with one method, as protoc would write it, whose messages are
// google.protobuf.BytesValue.
const grpcMethod = "/kbus.bench.Peer/Ask"

type grpcServer interface {
	ask(*wrapperspb.BytesValue) *wrapperspb.BytesValue
}

func (e *echo) ask(m *wrapperspb.BytesValue) *wrapperspb.BytesValue {
	return &wrapperspb.BytesValue{Value: e.answer(m.Value)}
}

var grpcService = grpc.ServiceDesc{
	ServiceName: "kbus.bench.Peer", HandlerType: (*grpcServer)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Ask", Handler: func(server any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := new(wrapperspb.BytesValue)
		if err := decode(m); err != nil {
			return nil, err
		}
		return server.(grpcServer).ask(m), nil
	}}},
}

func grpcPeer() bench.Peer {
	return bench.Peer{
		Name: "grpc", About: "gRPC (grpc-go " + version("google.golang.org/grpc") + "), a unary call by a Unix socket",
		Answer: func(t *bench.PeerTask) (int64, error) {
			l, err := net.Listen("unix", t.Path(0))
			if err != nil {
				return 0, err
			}
			s, e := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32)), newEcho()
			s.RegisterService(&grpcService, e)
			failed := make(chan error, 1)
			go func() { failed <- s.Serve(l) }()
			if err := t.Begin(); err != nil {
				return 0, err
			}
			select {
			case err := <-failed:
				return 0, err
			case <-e.over:
			}
			s.GracefulStop()
			return e.messages, <-failed
		},
		Ask: func(t *bench.PeerTask) (func([]byte) ([]byte, error), func() error, error) {
			c, err := grpc.NewClient("unix:"+t.Path(0), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
			if err != nil {
				return nil, nil, err
			}
			ask := func(message []byte) ([]byte, error) {
				var answer wrapperspb.BytesValue
				err := c.Invoke(t.Context, grpcMethod, &wrapperspb.BytesValue{Value: message}, &answer)
				return answer.Value, err
			}
			end := func() error {
				if _, err := ask(nil); err != nil {
					return err
				}
				return c.Close()
			}
			return ask, end, nil
		},
	}
}
