// Package ring is the heart of a bus: the layout of its region, the log, the
// queues, the ledger of Requests, the arena, the rules of delivery, and the
// repair after a death. It makes no promise of stability; applications use
// package ksock. Rules (R4.3) are those of the project's specification.
//
// # The log
//
// Everything that changes a bus is an entry of one log: a message, a bind, a
// close, a Status, the taking of memory. The word cur says which entry is next
// (IDLE), who has claimed it (CLAIMED), or whose plan for it counts (PLANNED).
// A plan is the whole effect of an entry, outcome included, as a list of
// compare-and-swaps: word, old value, new value. Whoever comes by works out a
// plan in an area of its own and publishes it with one compare-and-swap of cur;
// only one plan of an entry ever is. Then everybody carries out that same list,
// and moves cur on. So nobody waits for anybody: a process that is stopped or
// killed at any instruction leaves an entry that the next one finishes.
//
// What a plan reads stands still while its entry is open, since entries alone
// change it; readers' pops are the exception, and only make room. Every value
// that a plan expects is one that can't recur: positions and versions only grow,
// lanes' words carry their lap, heads their generation. So a helper that wakes
// up years late changes nothing. The traps that a naive version falls into are
// marked T1 to T13 where the code avoids them:
//
//	T1   a block that others may plan from is its sender's until the entry is over (draft.drop)
//	T2   a plan is checked after it is read, before it is used (carryOut)
//	T3   bits before copies, and once for each generation (arm)
//	T4   only the previous lap's copy is replaced (deliver)
//	T5   only the sleeper clears its flag; every helper wakes (wake)
//	T6   urgent copies go into a frozen lane, so a push can't meet a pop (freeze)
//	T7   one word for both lanes of a queue (pop)
//	T8   every release carries the generation (release)
//	T9   a freeze expects another entry's stamp (freeze)
//	T10  the log is idle before a dead Ksock's memory is touched (close)
//	T11  only the published plan counts (help)
//	T12  an outcome is stamped with its try, not with the block (claim)
//	T13  each group of bits has an armed flag of its own (arm)
//
// An uncontended sender plans first and goes from IDLE to PLANNED at once; after
// two failures, and for entries that freeze queues, it claims first.
//
// # Queues
//
// A Ksock's queue is a ring of copies (the normal lane), a stack (urgent ones),
// and a ring of events kept aside. A copy names a block and its index in the
// block's list of recipients. The reader pops by one compare-and-swap of sRead. A
// copy in the normal lane bears its lap, and so tells by itself that it is there;
// the tail follows, for those who plan. When there is nothing, the reader finishes
// the entry in progress before it says so: what others have read of it may be on
// its way here.
// An entry that must change what is queued (an unbind, an urgent message)
// freezes the queue first; a reader that meets a frozen queue helps the entry.
// Room is judged once for each recipient, by tail, sRead, owing and limit: at one
// instant each, not at one for all (R6.1 asks for no more).
//
// # Requests
//
// Each asker has a ledger. A Request's entry puts it there and counts the place
// that it holds; a Reply's or Status's entry takes it off. Both answers of a race
// are entries, so the first one wins and the second finds nothing (I2).
//
// # Memory
//
// A block has a header in a table of its own, apart from all payload: a late
// helper can't hit a message's bytes. Its head word is ownership, allocation and
// the bits of all copies in one: the last bit's clearing is the freeing. See
// arena.go for how blocks are cut and joined.
//
// # Edges
//
// sync/atomic is sequentially consistent on shared pages on both CPUs. These are
// the edges that the argument rests on; each line of code is marked:
//
//	E1  a plan's words      Put by its planner, released by cur's swap to PLANNED; acquired by loads of cur
//	E2  a claimed entry     sCmd, sOut and its block, released by cur's swap to CLAIMED
//	E3  a block's bytes     readers' and senders' last use, released by the swap of its head; acquired by the next owner's
//	E4  binding cells       written by the supervisor, released by the entry that raises wVer
//	E5  sleep               sSleeping stored, then the queue looked at; lanes swapped, then sSleeping loaded
//	E6  wait for room       the waiter's bit set, then a try to send; room made, then the bits loaded
//	E7  a copy in a lane    the block's fields, released by the swaps of its plan; acquired by the reader's load of the copy
//
// # Progress
//
// Send, Take, Release, Loan, and every Admin call are lock-free between
// processes: the number of steps that one needs while others stand still is
// bounded (by the size of the entry that it may have to help, and its own).
// Within a process, a Ksock's sending side and its reading side have a lock
// each, which the caller holds. Nothing but the waits sleeps.
//
// # Cache lines
//
// Between two CPUs a message costs what its cache lines cost: about 110 ns for
// each that has to come from the other CPU while somebody waits for it. Who sends
// writes cur, the recipient's first line (tail, places held), one line of its
// lane, the block's lines, and for a Request or its answer a record of the ledger.
// They are fetched beforehand (WillWrite): for a Reply when the Request is read,
// for the next Request when the answer is read, the next block when the last was
// sent. The reader's own line, sRead, does not travel: a sender remembers it, and
// sEdit in the first line tells whether it may. Nor does the first line, unless
// somebody waits for room. Who spins looks at the place in the lane only, and takes
// the block's lines as soon as that changes; the lane's line goes to and fro, and a
// sender fetches it before it plans, since a swap needs the old word.
//
// # Decisions
//
// 2026-11: one word, not a ring of entries, before the plans. A ring lets others
// send a descheduled sender's messages and costs one more compare-and-swap for
// each; with one word others finish the entry that is open, and the sender's next
// one is its own business. A batch needs no ring either: it is one plan (batch.go).
//
// 2026-11: a plan is a list of swaps, not of deliveries. It is longer to write
// (24 bytes a step), but carrying it out is one loop without a decision in it,
// and a new kind of entry needs no new way of being carried out.
//
// 2026-11: a reader does not wait for the tail, nor number a Request at once (see
// mark). Each cost a line's way, 110 ns, of every round trip.
//
// 2026-11: in a stream a Ksock that has nothing to read gives its turn on the CPU
// away once before it sleeps (turns). Where there are more Listeners than CPUs that
// makes queues fill and a fan-out three times as fast.
//
// 2026-11: serial numbers follow from the log's own, with two counters for entries
// that give none or several. Both only grow: one that went both ways recurred, and a
// late helper took a batch's step a second time.
//
// 2026-11: a recipient's copy comes before the ledger's steps, so an asker may see its
// answer while its Request still counts: it finishes the entry (Outstanding).
//
// 2026-11: tried without gain: fetching the place in a lane to write before the send
// (a recipient that spins takes it back), headers of neighbouring blocks far apart,
// two small blocks in turn so that the next one's lines come while the last is read,
// and locks that cost nothing (8 % of a send and a receive in one process).
//
// 2026-11: urgent messages freeze their queues like unbinds. A push that raced
// with pops (T6) was the only step with a retry in it.
package ring
