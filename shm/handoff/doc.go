// Package handoff passes bytes and descriptors between processes over Unix
// sockets, and tells who is at the other end.
//
// The sockets are of the kind SOCK_SEQPACKET: a packet arrives whole or not at
// all, in order, and the end of the connection is seen. A packet carries at most
// MaxFiles descriptors beside its bytes.
//
// # Trust
//
// The other end may send anything. Receive hands out a packet only as it was
// sent: one that was cut, or whose descriptors were lost, is an error, and its
// descriptors are closed. Descriptors that the caller did not ask for are the
// caller's to close. Who the peer is comes from the kernel: Credentials is the
// process that connected, as it was then, and Process holds on to that process
// itself (a pidfd), so a number that is given to another process later can not
// be mistaken for it. Both speak of the process that called Dial; a connection
// that it passes on, or inherits to a child, keeps the name of the first.
//
// # Cancelling
//
// Whatever waits takes a context, holds no thread while it waits, and returns
// context.Cause when the context ends. Close ends all waits with os.ErrClosed.
//
// # Decision: no package net
//
// net knows these sockets too, but takes a descriptor for each listener and
// connection twice on some paths, reports a lack of descriptors by spinning (accept
// fails before it looks whether anybody waits), and gives up a connection when
// the listener's backlog is full for the moment. os.File and golang.org/x/sys/unix
// give the same waiting with each call as the kernel has it.
package handoff
