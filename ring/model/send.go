package model

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Send sends m as k and returns the id that it got. The checks come in the order of R3.8. On EAGAIN the message is waiting
// in k (R6.5).
func (b *Bus) Send(id uint32, m Message) (MessageID, error) { return b.send(id, m, 0) }

// Relay sends a message from another bus as k: ALL_OR_WAIT acts as ALL_OR_FAIL (R8.5). A copy goes to Listeners only and
// creates no obligation (R8.9).
func (b *Bus) Relay(id uint32, m Message, copy bool) (MessageID, error) {
	if copy {
		return b.send(id, m, relayedCopy)
	}
	return b.send(id, m, relayed)
}

// origin tells how a message came to be sent.
type origin int

const (
	relayed     origin = 1 + iota // by a Limpet
	relayedCopy                   // by a Limpet that only listened to it
)

func (b *Bus) send(id uint32, m Message, o origin) (MessageID, error) {
	k, err := b.open(id)
	if err != nil {
		return MessageID{}, err
	}
	if k.readOnly {
		return MessageID{}, unix.EBADF // R3.1
	}
	if k.waiting != nil {
		return MessageID{}, unix.EALREADY // R6.5
	}
	if err := b.check(&m); err != nil {
		return MessageID{}, err
	}
	if m.IsRequest() && o != relayedCopy && !k.hasRoom() {
		return MessageID{}, unix.ENOLCK // R5.3
	}

	m.From = id                       // R2.3
	m.Flags &^= MustReply | Synthetic // R2.4
	if m.ID.Network == 0 {
		m.ID = b.nextID() // R2.2
	}
	k.last = m.ID
	if err = b.dispatch(k, &m, o); err == unix.EAGAIN {
		k.waiting = &m
	}
	if err != nil {
		return MessageID{}, err
	}
	return m.ID, nil
}

// check makes those checks of R3.8 that look at the message alone.
func (b *Bus) check(m *Message) error {
	err := CheckName(m.Name)
	if err != nil && err != unix.EBADMSG {
		return err
	}
	if m.Flags&AllOrWait != 0 && m.Flags&AllOrFail != 0 {
		return unix.EINVAL // R2.4
	}
	if m.IsRequest() && m.IsReply() {
		return unix.EINVAL // R2.5
	}
	if Size(len(m.Name), len(m.Data)) > int(b.size) {
		return unix.EMSGSIZE // R2.6
	}
	return err
}

// SendAgain tries k's waiting send again and returns its id. A failure other than EAGAIN ends the waiting; for a Request so
// does ENOLCK (R6.5).
func (b *Bus) SendAgain(id uint32) (MessageID, error) {
	k, err := b.open(id)
	if err != nil {
		return MessageID{}, err
	}
	m := k.waiting
	if m == nil {
		return MessageID{}, unix.ENOMSG
	}
	if m.IsRequest() && !k.hasRoom() {
		err = unix.ENOLCK
	} else {
		err = b.dispatch(k, m, 0)
	}
	if err != unix.EAGAIN {
		k.waiting = nil
	}
	if err != nil {
		return MessageID{}, err
	}
	return m.ID, nil
}

// Discard drops k's waiting send, if there is one (R6.5).
func (b *Bus) Discard(id uint32) error {
	k, err := b.open(id)
	if err != nil {
		return err
	}
	k.waiting = nil
	return nil
}

// retry tries k's waiting send again, because k is polled or waited on. Its failure is silent, or a Request's Status
// (R6.5, R5.6).
func (b *Bus) retry(k *ksock) {
	m := k.waiting
	if m == nil {
		return
	}
	err := b.dispatch(k, m, 0)
	if err == unix.EAGAIN {
		return
	}
	k.waiting = nil
	if err == nil || !m.IsRequest() {
		return
	}
	name := ErrorSendingName
	if err == unix.EADDRNOTAVAIL {
		name = DisappearedName
	}
	k.push(b.status(name, 0, request{k.id, m.ID}), 0, false) // it held no place
}

// dispatch gives m, which has its id, to all who get it, or to nobody and says why: the second half of R3.8, and section 6.
func (b *Bus) dispatch(from *ksock, m *Message, o origin) error {
	var asker, replier *ksock
	var via uint64 // the Replier's binding
	switch {
	case o == relayedCopy:
	case m.IsReply():
		if asker = b.find(m.To); asker == nil || asker.closing {
			return unix.EADDRNOTAVAIL
		}
		if from.owes(request{m.To, m.InReplyTo}) < 0 {
			return unix.ECONNREFUSED // R5.9
		}
		if len(asker.queue)+asker.asked-1 >= int(asker.max) {
			return unix.EBUSY // R5.5; it may use one of the places held (R3.3)
		}
	case m.IsRequest():
		bound := b.replierFor(m.Name)
		if bound == nil {
			return unix.EADDRNOTAVAIL // R5.1
		}
		replier, via = b.find(bound.owner), bound.number
		if m.To != 0 && m.To != replier.id {
			return unix.EPIPE // R5.2
		}
		if !replier.hasRoom() {
			return m.noRoom(unix.EBUSY, o) // R5.4, R6.5
		}
	}

	// Room is judged by the queues as they are now, before any copy (R6.1).
	copies := slices.DeleteFunc(b.listeners(m.Name), func(l listener) bool {
		return l.once && (l.ksock == asker || l.ksock == replier) // R4.6
	})
	for i, l := range copies {
		if l.hasRoom() {
			continue
		}
		if !m.IsReply() { // R6.4
			if err := m.noRoom(nil, o); err != nil {
				return err
			}
		}
		copies[i].missed = true
	}
	if o != 0 { // a Limpet drops what it has sent itself (R8.4)
		copies = slices.DeleteFunc(copies, func(l listener) bool { return l.ksock == from })
	}

	if asker != nil {
		owed := from.owes(request{m.To, m.InReplyTo})
		from.owed = slices.Delete(from.owed, owed, owed+1)
		asker.asked--
		asker.push(m, 0, false)
	}
	if replier != nil {
		from.asked++
		replier.push(m, via, true)
	}
	for _, l := range copies {
		if !l.missed {
			l.push(m, l.via, false)
		}
	}
	return nil
}

// noRoom is the answer to a message for which somebody has no room, or other if neither send flag decides (R6.2, R6.5).
func (m *Message) noRoom(other error, o origin) error {
	switch {
	case m.Flags&AllOrFail != 0, m.Flags&AllOrWait != 0 && o != 0: // R8.5
		return unix.EBUSY
	case m.Flags&AllOrWait != 0:
		return unix.EAGAIN
	}
	return other
}

// owes returns the place of r in what k has read and not answered, the one read last if there are equal ones, or -1 (R5.9).
func (k *ksock) owes(r request) int {
	for i := len(k.owed) - 1; i >= 0; i-- {
		if k.owed[i] == r {
			return i
		}
	}
	return -1
}

// replierFor returns the binding whose Ksock gets Requests of that name, or nil (R4.3).
func (b *Bus) replierFor(name string) *binding {
	var best *binding
	for i := range b.bindings {
		n := &b.bindings[i]
		if n.replier && Match(n.name, name) && !b.find(n.owner).closing &&
			(best == nil || moreSpecific(n.name, best.name)) {
			best = n
		}
	}
	return best
}

// listener is a Ksock that is to get one copy of a message as Listener.
type listener struct {
	*ksock
	via    uint64 // the binding that it comes by
	missed bool   // there is no room for it
}

// listeners returns the copies that Listeners are to get of a message of that name: one for each matching binding, newest
// first (R4.7), but one for a Ksock with only once (R4.6).
func (b *Bus) listeners(name string) []listener {
	var list []listener
	for _, n := range slices.Backward(b.bindings) {
		if n.replier || !Match(n.name, name) {
			continue
		}
		k := b.find(n.owner)
		has := func(l listener) bool { return l.ksock == k }
		if k.closing || k.once && slices.ContainsFunc(list, has) {
			continue
		}
		list = append(list, listener{ksock: k, via: n.number})
	}
	return list
}

// status makes the Status that answers r (R5.7).
func (b *Bus) status(name string, from uint32, r request) *Message {
	return &Message{ID: b.nextID(), InReplyTo: r.id, To: r.asker, From: from, Flags: Synthetic, Name: name}
}

// answer sends the Status that settles r and says whether it did: none is made for an asker that is gone, and that uses no
// id (R5.7). One for a closing asker is made and not read (R4.8).
func (b *Bus) answer(name string, from uint32, r request) bool {
	asker := b.find(r.asker)
	if asker == nil {
		return false
	}
	m := b.status(name, from, r)
	asker.asked--
	if !asker.closing {
		asker.push(m, 0, false) // the limit is ignored (R3.3)
	}
	return true
}
