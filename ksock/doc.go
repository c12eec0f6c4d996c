// Package ksock connects a program to a KBUS bus of its machine.
//
// A bus carries messages between Ksocks, in one order that all of them see. A
// message has a name, such as $.Actor.Speak, and any data. A Ksock may bind to
// names as Listener, and gets a copy of every message of that name, or as the one
// Replier, and gets the Requests of that name, each of which is then answered
// exactly once: by its Reply, or by a Status that says why there is none.
//
//	k, err := ksock.Open(ctx, 0, nil)                                // a Ksock on bus 0
//	err = k.Bind(ctx, "$.Actor.*", ksock.Listener)                   // listen
//	_, err = k.Send(ctx, ksock.Announce("$.Actor.Speak", data))      // announce
//	m, err := k.Next(ctx)                                            // receive
//	reply, err := k.Call(ctx, ksock.Request("$.Actor.Ask", data))    // ask
//	_, err = k.Send(ctx, ksock.ReplyTo(m, data))                     // answer
//
// # Where the messages are
//
// A bus is a region of memory that all its processes share. Sending and
// receiving go straight there, without a system call unless somebody sleeps or
// has to be woken. The supervisor (kbus up) makes the region and is asked to
// open, bind, unbind and change settings; these are the calls that take a
// context beside [Ksock.Next] and others that wait for messages. If the
// supervisor is killed, messages go on; such a call waits for the next one, with
// which each Ksock takes up contact by itself.
//
// [Ksock.Next] copies a message out, [Ksock.Send] copies one in. [Ksock.View]
// and [Ksock.Loan] do without: a View is the message where it lies, a Loan is
// memory of the bus to be filled and then sent with [Ksock.SendLoan]. Both are
// given back; a Ksock that is closed keeps its memory mapped until they are.
//
// Many small messages cost least together: [Ksock.SendBatch] brings announcements
// of one name into all queues at once, [Ksock.ViewBatch] takes what there is.
//
// # Queues
//
// Each Ksock has a queue of unread messages, limited by
// [Ksock.SetMaxMessages]. What happens when a recipient's is full is the sender's
// choice: by default a Listener misses the message; with [AllOrFail] nobody gets
// it and the send fails; with [AllOrWait] it waits. A Request's Replier and a
// Reply's asker are never passed over (R6.3). A Ksock that never reads holds up nobody but
// those who chose to wait for it.
//
// # Errors
//
// An operation that fails returns an [*Error]. The conditions are values to test
// for with errors.Is, either as ErrQueueFull or by the errno that KBUS gives
// them, unix.EBUSY. A Status is a message, not an error, but for [Ksock.Call].
//
// # Goroutines
//
// All methods of a Ksock may be called by many goroutines at once. Each message is
// read by one of them. A goroutine that waits for messages holds a thread of the
// operating system, but only one for each Ksock: the others wait behind it. An open
// Ksock has three goroutines of its own, and one more after [Ksock.File]; Close
// ends them. (If there is no supervisor at that moment one stays until it has told the next.)
package ksock
