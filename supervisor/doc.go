// Package supervisor runs the buses of one machine's users: it makes their
// regions, admits Ksocks, carries out what changes a bus, and cleans up after the dead.
// Sending and receiving do not pass through it.
//
// # What it owns
//
// For each bus one region, of which this process is the only writer of
// everything that package ring leaves to its Admin. One lock for each bus
// keeps Admin's calls apart; one goroutine serves each connection, one watches each
// process (a pidfd, shared by all its Ksocks), one ticks.
//
// # Life and death
//
// A Ksock ends with its connection or with its process, whichever is seen first
// (R4.8). Only the kernel says that a process is dead; there are no timeouts, so a
// stopped process keeps its Ksocks (R9.3).
//
// # A supervisor that is killed
//
// Regions outlive it (R9.4). It leaves a state file beside the socket: the
// buses, their regions' identities (device and inode of the memory file), the
// secret that makes the Ksocks' tokens, and the processes that hold each region
// with their start times, so that a pid that was used again is not taken for them. The
// file is added to, or replaced at once, before a descriptor goes out.
//
// The next supervisor (takeOver) gets each region back from systemd's
// descriptor store, or through /proc from the descriptors of a process that
// holds it, which also works when all are stopped; if such a process may not be
// looked at (another user's), the bus waits for it to come back by itself, and what is
// asked meanwhile fails with EAGAIN and a text that names it. A bus begins anew only if nobody
// lives who holds the old region. What is taken over is checked: the memory file's identity,
// its seals, and what ring.Attach checks; a bus that fails is refused with EIO until
// nobody holds it, and the others go on. Then Ksocks of dead processes are
// closed, and the others are waited for: each comes back by itself (control.Link) and is
// known by slot, id, token and process.
//
// What can go wrong in that: a supervisor that is killed between taking a slot
// and answering leaves the slot taken until the asking process ends, since
// nobody can tell it from a stopped process's.
//
// # Admission
//
// Directory 0700 and socket 0600 keep other users away; when others are
// allowed, everybody can connect, and the peer credentials decide before anything is
// read from the connection. Quotas for each user limit Ksocks, bindings and
// connections; without a descriptor for it a newcomer is refused (EMFILE), and
// nobody else notices. The Ksocks of one bus trust each other: they share its memory.
package supervisor
