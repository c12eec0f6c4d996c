// Package model is the plain sequential model of what a bus does: SPEC.md, sections 1 to 7, and nothing else. Rules are
// cited by their numbers (R4.3).
//
// It is what the concurrent bus is measured against: the replay of recorded traces, the randomised tests and the checker
// of interleavings ask it what should have happened. So it is written to be read beside the rules: one goroutine, no
// clock, no wake-ups, no memory limits; every call is one step that is complete when it returns, and the same calls give
// the same answers always. What a model can't show is left out: R6.6 and R6.7 (waiting), section 9.
//
// [Buses] holds numbered buses, a [Bus] its Ksocks, which are named by their ids. Bus.Clone copies a bus deeply and
// cheaply (messages are shared, they never change), Bus.Key is equal for two buses if they will answer equally for ever.
//
// # Operations that are several steps
//
// On a bus that many use at once, bind, unbind and close are several entries of its log, with those of others between
// them. Each can be played here step by step, with other calls between the steps:
//
//	Bind:   BindBegin (checks, event), BindEnd
//	Unbind: UnbindBegin (checks, event), UnbindEdit, UnbindStep until it answers false (Statuses)
//	Close:  CloseBegin, CloseStep until it answers false (Statuses, events, Statuses), CloseEnd
//
// The supervisor makes one of these after the other, so two of them are not mixed with each other.
//
// # Where the rules leave room
//
// Decided here, and to be done alike by the bus itself:
//   - R5.9, equal Requests (same asker, same id): a Reply settles the one that was read last.
//   - R7.4: the copies of one event for one Ksock are kept together or missed together (as R6.1 has it for a queue).
//   - R7.4: "what is kept for it" includes the UnbindEventsLost: events are missed until that is delivered or removed too.
//     It comes by the newest of the bindings that missed the event, needs room like a kept event, and counts in R3.7.
//     If it was removed by an unbind while events are kept by other bindings, the next one missed makes a new one.
//   - R7.4: kept events enter the queue when the call that made room is complete: behind the Statuses of an unbind.
//     A Ksock for which events are kept has no room for anybody's message, though a Reply that it is owed and a Status
//     go in as ever.
//   - R4.8: from CloseBegin a Ksock's bindings match nothing, Replies to it are refused with EADDRNOTAVAIL, and Statuses
//     for it use ids and are dropped.
package model
