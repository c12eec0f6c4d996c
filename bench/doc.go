// Package bench measures a bus between processes, beside the floors that the
// same machine sets in the same minute: how long a cache line, a futex and a
// memory copy take, and what a ring with one producer carries. See README.md for
// how to read the figures; kbus bench is the command.
//
// # How it works
//
// A workload is a few roles, each in a process of its own: the program runs
// itself again and the new process calls [Child]. The parent starts the
// processes (pinned, if asked), tells them when to begin, and collects their
// reports; it holds the supervisor of the private bus that they use. Children
// know of its end by the end of their standard input, and end themselves.
//
// # Decisions
//
// The clock is Go's monotonic one, read before and after each operation. What
// one reading costs is measured in the same process and taken off each time: it
// is a tenth of the shortest times here, and to leave it in would flatter every
// ratio to a floor.
//
// A run is marked as disturbed when the hypervisor took more than 1 % of the CPU
// time, or other programs used more than 5 % of it: what all CPUs spent, less
// what the measurement itself did. The load average says too little in a run of
// a second.
//
// Floors sleep and wake with the same shm.Word as the bus, so that a ratio says what
// the bus adds. Their sleeps end after an hour: no timer of theirs is ever near.
package bench
