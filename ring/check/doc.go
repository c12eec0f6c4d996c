// Package check explores the interleavings of simulated processes that share
// memory through shm.Word. All but this page is built with the tag kbuscheck.
//
// # What is simulated
//
// Each process is a coroutine; one runs at a time. Each operation on a Word is a
// step: ahead of it any other process may go on, or the process may be stopped
// for good or die. A step is the operation and everything local behind it, up to
// the next operation; Word.Put belongs to the step before it unless Config.Puts
// is set. Memory is sequentially consistent.
//
// Word.Wait sleeps until a Word.Wake, never until its timeout, so a lost wake-up
// ends in a deadlock, which is a failure (Config.Net lets timeouts end sleeps
// when nobody can go on, and counts them). shm.Pause means: I go on when a word
// that I have read since the last Pause has changed (or, where a CompareAndSwap
// failed, when it could succeed), so a process that waits for one that is stopped
// is a failure, too. Config.FreeSpin has Pause return at once, for spin loops that
// are bounded.
//
// # Why nothing is missed
//
// Exhaustive mode explores depth first, executing from the start for each path.
// It leaves out two things.
//
// States seen before. A process is deterministic, so its local state is a
// function of what it has read; a state is the words' values, and for each process
// a hash of what it has read and whether it sleeps, has ended and so on. Two
// histories with the same state have the same futures, also in what AtEnd is told:
// a process reads, with the first step of an operation (World.Do), which
// operations have ended. The state graph has no cycle, since every step adds to
// what its process has read, so a state that is met again has been explored to
// the end. Hashes are 128 bits wide.
//
// Orders of steps that commute (dynamic partial-order reduction, Flanagan and
// Godefroid). Steps conflict when both access a word and one writes it; a sleep
// conflicts with wakes of its word, the end of a process with those who await it,
// an operation's beginning with the ends of others. Wherever a step conflicts
// with an earlier one and no chain of conflicts orders the two otherwise, its
// process is also tried ahead of that one. Early ends are further steps of their
// process: they are tried wherever it is.
//
// What expected another value (a CompareAndSwap, an Advance) conflicts only with
// writes of that value or over it. Two equal Advances commute, since nobody learns
// whose it was: the one that comes too late conflicts with nothing behind the
// other; but as it could have been first, it also conflicts, like a write, with
// what is ahead of the other.
//
// A state that is met again keeps the accesses that were explored behind it, which
// stand for the steps that are not executed again; and of each, some of what
// happens before it on all ways from that state: steps of other processes, reads
// and writes of the words that are accessed most. So most conflicts with the path
// to the state that are ordered otherwise are known to be. What is not kept can
// only make more to explore.
//
// The tests compare the outcomes, with all they tell of the history, with those
// of plain enumeration, over random programs; for longer ones, with those of an
// exploration that leaves out only states that it has met.
package check
