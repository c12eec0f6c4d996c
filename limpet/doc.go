// Package limpet joins two KBUS buses, on one machine or on two, so that they are
// one to the applications on them.
//
// A Limpet sits on its bus as one Ksock and holds one link, over TCP or a Unix
// socket, to the other Limpet of the pair, which sits on the other bus. Nobody on
// either bus has to know of them:
//
//	l, err := limpet.New(limpet.Options{
//		NetworkID: 1,                                 // of its own, among all Limpets
//		Connect:   limpet.Dial("far.example:7000", tlsConfig),
//	})
//	err = l.Run(ctx) // until ctx ends
//
// # What you can rely on
//
//   - What is announced on one bus is heard on the other, once, and everybody on a
//     bus hears everything in the same order.
//   - Whoever binds as Replier on one bus is asked by applications on the other, too;
//     the Reply comes back to the one that asked. A stateful Request
//     ([ksock.StatefulRequest]) reaches the very Ksock that sent the Reply, or is
//     answered by a Status that says it is another by now
//     ([ksock.StatusNotSameKsock]) or gone ([ksock.StatusGoneAway]).
//   - Every Request that was sent is answered exactly once, whatever dies on the
//     way: by its Reply, or a Status. If the far bus did not take it, that is
//     [ksock.StatusRemoteError] and the errno. A Request that a Limpet has to drop,
//     because it has been here before, is answered at once by [ksock.StatusIgnored].
//   - Buses may be joined in a chain of any length.
//   - The order in which supervisors, Limpets and applications are started does not
//     matter, and when a link ends the pair connects again by itself.
//   - Nobody waits for a slow link. Options.MaxMessages may be waiting for it; more
//     announcements are missed by the other side (and counted as the Ksock's missed
//     messages), more Requests fail with [ksock.ErrQueueFull], as with any other
//     Replier that is behind. If the link ends, the Requests that waited for it are
//     answered by [ksock.StatusGoneAway]. Only who sends with [ksock.AllOrWait] waits
//     for this Listener as for any other.
//
// # What a Limpet can't promise
//
//   - When a link ends, what was on its way is gone: announcements are lost, and a
//     Request whose answer was on its way is answered by [ksock.StatusIgnored],
//     though its Replier may have done what was asked.
//   - [ksock.AllOrWait] and [ksock.AllOrFail] hold on the sender's bus. On the far
//     bus, where nobody can wait any more, a message that not everybody there has room
//     for is given to nobody, and its sender is not told, unless it is a Request.
//   - A name can have a Replier on both buses if both were bound at the same moment,
//     or before the link was made. Each side then asks its own; the Limpets say so.
//   - Ksock ids and serial numbers are those of each bus. Header.OrigFrom tells where
//     a message comes from, and Header.ID names it, on every bus but its own, by its
//     network id.
//   - Every Limpet needs a network id of its own, and there must be one way only
//     between two buses. A message that comes back is dropped, counted and told.
//   - Whoever can connect is taken for a Limpet, unless the link is one of TLS with
//     certificates on both sides ([TLSConfig]).
//
// The bytes on the link are those of the original Limpets, one of which may be at
// the other end.
package limpet
