// Package control is the protocol between a Ksock and the supervisor of its bus.
//
// # Connections
//
// A Ksock has one SOCK_SEQPACKET connection to the supervisor's socket
// ([DefaultSocket]). Its first request is [OpOpen] or [OpReattach]; the end of
// the connection closes the Ksock, whether it was closed in order or its
// process died (R4.8), and frees its slot. So a library unmaps the region first
// and ends the connection last; if it still needs the region for messages that it
// holds in place, it asks for [OpClose] at once, with Value 0. Tools that only look, and callers of [OpNewBus], use a
// connection without a Ksock ([Dial]).
//
// The supervisor knows the other end by its peer credentials and its pidfd;
// nobody tells it a pid.
//
// # Requests and answers
//
// One packet is one frame. The caller numbers its requests from 1 and each gets
// exactly one [Answer] with the same number, in order. An Answer's Errno is 0
// or says, with Text, why nothing was done; a failed request changes nothing. An answer with the
// number 0 answers no request: it is the supervisor's last word on this
// connection (not admitted, no descriptors left, going down), and the end
// follows it.
//
//	request                 reads                          answer
//	OpOpen                  Bus ReadOnly Value: 1 if the   Slot Ksock Token, the region's descriptor
//	                        process holds no region
//	OpReattach              Bus Slot Ksock Token, the      Slot Ksock Token
//	                        region's descriptor
//	OpBind, OpUnbind        Name Replier
//	OpBound                 Name Replier                   Value: how many such bindings the Ksock has
//	OpMaxMessages           Value (0 asks)                 Value: the limit now            R3.2
//	OpMessageSize           Value (0, 1 ask)               Value: the answer of R2.6
//	OpOnlyOnce, OpReports   Value: Off, On, Ask            Value: the setting before       R3.9
//	OpClose                 Value: 1 if the region is      the Ksock is closed when it comes (R4.8)
//	                        unmapped
//	OpNewBus                Config                         Value: the number               R3.1
//	OpBuses                 From                           Buses, Next
//	OpKsocks                Bus From                       Ksocks, Next
//	OpBindings              Bus From                       Bindings, Next
//
// The last three give pages: From is 0, then the Next of the answer before,
// until that is 0. Fields that a request does not read must be zero.
//
// Everything that needs no supervisor (sending, receiving, who replies to a
// name, how many are unread) is asked of the region, not here.
//
// # A supervisor that is started again
//
// The bus goes on without its supervisor (R9.4). The Ksock's connection ends
// then; it dials until somebody answers and sends OpReattach, which proves by
// Slot, Ksock and Token that it is the one that the slot belongs to, and hands
// the region back. [Link] does that by itself, in the background, and repeats the request that
// was cut off, without doing it twice. A Ksock that the new supervisor does not know any more
// is refused with ESTALE.
//
// # Encoding
//
// Little-endian, fixed positions, no padding to guess: see frame.go. A decoder
// refuses whatever an encoder does not write (wrong length, unknown operation,
// non-zero unused field), checks each length before using it, and allocates no
// more than the frame is long. The first six bytes of a frame (magic, version,
// operation) keep their place in all versions; a supervisor answers another
// version with EPROTONOSUPPORT and a text that names both.
package control
