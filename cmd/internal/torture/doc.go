// Package torture is kbus torture: it kills and stops the processes of a bus at
// random moments, under load, and keeps the books.
//
// One process runs the supervisor, N run clients; all are this program started
// again (Main). The process that began it all kills, stops, starts again, and
// judges (books.go).
//
// # How a death loses no evidence
//
// The processes share a board, a memory file of its own beside the bus. Each
// place for a client has two journals there (journal.go), rings that a client
// appends to and the judge reads: one for what it sends, one for what it reads.
// Each send is there twice, before it is begun ("intent") and when its outcome
// is known. A record is there whole or not at all, and stays when its writer is
// killed. What a kill cut off between intent and outcome may have happened or not;
// all else is known.
//
// The judge looks at the ends of all reading journals first, then at those of
// the sending journals, and takes what was sent before what was read: so whatever
// was read has an intent that the judge knows, or nobody sent it.
//
// # What is judged
//
//   - Each message read was sent, by whom it says, and its send did not fail;
//     its name and data are as they were sent (a checksum travels in final_to);
//     it has the id that its send returned (R2.2, R2.3).
//   - One order (R3.5): ids grow in each Ksock's queue, but for urgent messages,
//     those that waited, and the kept events, which have their ids from before.
//     For those that waited there must be one place in the order that all agree on.
//   - One chain: messages of one name are sent to all or to none of their
//     Listeners (R6.2, R6.5), so all read the same ones in the same order. Each
//     hashes the last chainWindow of them; for the same message all hashes agree.
//     And none may be missing between two of one sender, nor up to the moment at
//     which a Ksock that closes in order had read all; nor any of a batch before one
//     of it that was read, also if a kill cut the batch off.
//   - Each Request has exactly one answer (R5.6): never a second one, never a
//     Status for one whose Reply was accepted, never GoneAway or Ignored from a
//     Ksock that did not go, and none without an answer in the end. Its marked
//     copy is read at most once.
//   - Copies of one message are as many as the Ksock has bindings (R4.6, R6.1).
//   - In the end all memory of the arena is free, all slots can be opened, and
//     the supervisor has the descriptors and threads that it began with (R9.2).
//   - Nobody who is not stopped stands still (R9.3, R9.4).
package torture
