// Package shm holds the regions that buses live in, the one type for words
// that processes share, and the ways to wait for them. Only here and in
// shm/handoff is there unsafe code, in files named *_unsafe.go.
//
// # Regions
//
// A region is the memory of one bus: a memory file (memfd) of fixed size that
// the supervisor makes with Create, and that every process on the bus maps
// whole, at an address of its own. Nothing in a region is an address, hence;
// what lies where is package ring's business. The region has no name in any
// file system: it lives as long as somebody has it open or mapped, and is
// handed on as a descriptor (package handoff). Nothing is left behind by a
// process that is killed.
//
// The file is sealed before its descriptor leaves the process that made it:
// its size is fixed, so a page that was once there stays there, and no process
// can kill the others by truncating it. Map refuses descriptors without these
// seals. Pages are committed when they are first touched; where the machine has none
// left then, the kernel kills a process for lack of memory, or raises
// SIGBUS.
//
// # Memory model
//
// Go's memory model speaks of the goroutines of one program. Between processes
// we rely on this, and on nothing else:
//
//   - A word is 8 bytes at a multiple of 8, and is read and written whole,
//     never torn, whichever process does it.
//   - Load, Store, CompareAndSwap and Add of a Word compile to the same
//     instructions as for memory of one program, and these act on physical
//     memory, wherever it is mapped: on amd64 and arm64 they are sequentially
//     consistent across processes as well. All processes agree on one order of
//     them, which each process's own order is part of.
//   - Plain bytes (Memory.Bytes) have no order of their own. What was written to
//     them before a word was set with one of these operations is seen by whoever
//     found the word so set with one of these operations. They may not be
//     written while another process may read them.
//   - Word.Put is a word's only other access; its comment says what it promises.
//
// So an argument about correctness names a word and the two operations on it
// that make the edge; the order of the operations themselves needs none. The
// test scheduler (build tag kbuscheck) takes this literally: it runs the steps
// of all processes one by one, in every order.
//
// The race detector does not see mappings. Whatever runs over a region runs
// over one of Heap as well, where it does see every access, and where its
// findings mean the same.
//
// # Sleeping
//
// Word.Wait sleeps while the low half of a word has the value that the caller saw.
// The kernel compares and begins the sleep as one step against Wake, so a
// wake-up that follows the word's change is never lost: who changes the word
// does so first, and wakes then. Wait and Wake work across processes. Event is
// for those who wait for other descriptors, too.
//
// # Trust
//
// The processes on a bus trust each other not to write where they should not:
// all have the region mapped for writing, and can punch holes in it. What one
// does by mistake must not harm the others more than need be, so the readers
// check what they find; corruption is an error there. This package does not
// trust a descriptor that it is given: a file that is not a region is refused
// before it is mapped. A program that wants to survive even a SIGBUS in its
// accesses sets runtime/debug.SetPanicOnFault in the goroutine.
//
// # Decisions
//
// No fallocate: it would commit all pages of a region that is made large so as
// never to be the limit, and the kernel does not refuse it when memory is
// short, but kills processes.
//
// No reference counter for a mapping: package ksock counts the Views and Loans
// that keep it, which it has to know one by one anyway.
package shm
