// Package failing holds tests of what happens when system calls fail.
//
// A supervisor and a client run as processes of their own, and each of their
// system calls is made to fail at its first, second, third ... use with each
// errno that its manual page documents (package shmtest). Whatever fails, the
// operation says so with the errno, or goes on all the same; nothing hangs,
// nothing leaks, and the bus lives on. The same with limits of descriptors,
// address space, memory, threads and disk.
//
//	go test -v ./cmd/internal/failing                           the first use of each call
//	go test -v -timeout 0 ./cmd/internal/failing -all           all points: about 2 minutes
//	go test -v ./cmd/internal/failing -all -call 'futex|mmap'   those of some calls, with what comes of each
package failing
