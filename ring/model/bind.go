package model

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// Bind binds k to name, as Replier or as Listener (R4.1, R4.2, R7.3).
func (b *Bus) Bind(id uint32, name string, replier bool) error {
	if err := b.BindBegin(id, name, replier); err != nil {
		return err
	}
	return b.BindEnd(id, name, replier)
}

// BindBegin is the first step of Bind: the checks and the event.
func (b *Bus) BindBegin(id uint32, name string, replier bool) error {
	if _, err := b.open(id); err != nil {
		return err
	}
	if err := CheckBinding(name); err != nil {
		return err
	}
	if !replier {
		return nil
	}
	if name == BindEventName {
		return unix.EBADMSG // R7.5
	}
	if b.bound(name) >= 0 {
		return unix.EADDRINUSE // R4.2
	}
	return b.event(id, name, true)
}

// BindEnd is the second step of Bind: the binding takes effect.
func (b *Bus) BindEnd(id uint32, name string, replier bool) error {
	if _, err := b.open(id); err != nil {
		return err
	}
	b.lastBinding++
	b.bindings = append(b.bindings, binding{b.lastBinding, id, name, replier})
	return nil
}

// Unbind undoes k's newest binding to that name in that role (R4.4, R4.5, R7.3).
func (b *Bus) Unbind(id uint32, name string, replier bool) error {
	if err := b.UnbindBegin(id, name, replier); err != nil {
		return err
	}
	if err := b.UnbindEdit(id, name, replier); err != nil {
		return err
	}
	for b.UnbindStep(id) {
	}
	return nil
}

// UnbindBegin is the first step of Unbind: the checks and the event.
func (b *Bus) UnbindBegin(id uint32, name string, replier bool) error {
	if _, err := b.open(id); err != nil {
		return err
	}
	if err := CheckBinding(name); err != nil {
		return err
	}
	if b.own(id, name, replier) < 0 {
		return unix.EINVAL // R4.4
	}
	if replier {
		return b.event(id, name, false)
	}
	return nil
}

// UnbindEdit is the second step of Unbind: the binding goes, and with it the copies that came by it, queued (R4.5) or kept
// (R7.4). Statuses for Requests among them are due.
func (b *Bus) UnbindEdit(id uint32, name string, replier bool) error {
	k, err := b.open(id)
	if err != nil {
		return err
	}
	at := b.own(id, name, replier)
	if at < 0 {
		return unix.EINVAL
	}
	number := b.bindings[at].number
	b.bindings = slices.Delete(b.bindings, at, at+1)
	k.queue = slices.DeleteFunc(k.queue, func(i item) bool {
		if i.via == number && i.mine {
			k.orphans = append(k.orphans, request{i.msg.From, i.msg.ID})
		}
		return i.via == number
	})
	k.kept = slices.DeleteFunc(k.kept, func(i item) bool { return i.via == number })
	return nil
}

// UnbindStep is one of the last steps of Unbind: it makes the next Status that is due and answers true, or, if none is, lets
// kept events in and answers false.
func (b *Bus) UnbindStep(id uint32) bool {
	k, err := b.open(id)
	if err != nil {
		return false
	}
	for len(k.orphans) > 0 {
		r := k.orphans[0]
		k.orphans = slices.Delete(k.orphans, 0, 1)
		if b.answer(UnboundName, id, r) {
			return true
		}
	}
	k.settle()
	return false
}

// Replier returns the id of the Ksock bound as Replier to exactly that name, 0 if none (R3.7).
func (b *Bus) Replier(name string) (uint32, error) {
	if name == "" || len(name) > MaxName {
		return 0, unix.ENAMETOOLONG // R1.4
	}
	at := b.bound(name)
	if at < 0 || b.find(b.bindings[at].owner).closing {
		return 0, nil
	}
	return b.bindings[at].owner, nil
}

// bound returns the place of the Replier's binding to exactly that name, or -1.
func (b *Bus) bound(name string) int {
	return slices.IndexFunc(b.bindings, func(n binding) bool { return n.replier && n.name == name })
}

// own returns the place of k's newest binding to that name in that role, or -1 (R4.4).
func (b *Bus) own(id uint32, name string, replier bool) int {
	for i, n := range slices.Backward(b.bindings) {
		if n.owner == id && n.name == name && n.replier == replier {
			return i
		}
	}
	return -1
}

// ReportReplierBinds sets or asks whether Repliers' bindings are reported, and returns the setting before (R3.9). Switching
// it on queues an event for each Replier bound, newest first, for this Ksock; EBUSY if they do not all fit (R7.2).
func (b *Bus) ReportReplierBinds(id uint32, v Switch) (was bool, err error) {
	k, err := b.open(id)
	if err != nil {
		return false, err
	}
	if v != On {
		was = b.reports
		return was, v.set(&b.reports)
	}
	repliers := slices.DeleteFunc(slices.Clone(b.bindings), func(n binding) bool {
		return !n.replier || b.find(n.owner).closing
	})
	if len(repliers) > 0 && (len(k.kept) > 0 || len(k.queue)+k.asked+len(repliers) > int(k.max)) {
		return false, unix.EBUSY
	}
	for _, n := range slices.Backward(repliers) {
		k.push(b.bindEvent(n.owner, n.name, true), 0, false)
	}
	was, b.reports = b.reports, true
	return was, nil
}

// bindEvent makes the message of R7.1.
func (b *Bus) bindEvent(binder uint32, name string, isBind bool) *Message {
	var is uint32
	if isBind {
		is = 1
	}
	data := binary.NativeEndian.AppendUint32(nil, is)
	data = binary.NativeEndian.AppendUint32(data, binder)
	data = binary.NativeEndian.AppendUint32(data, uint32(len(name)))
	data = append(data, name...)
	data = append(data, make([]byte, 4-len(name)%4)...)
	return &Message{ID: b.nextID(), Flags: Synthetic | AllOrFail, Name: BindEventName, Data: string(data)}
}

// event reports a bind or unbind that can still fail (R7.1): EAGAIN if a Listener of the events has no room (R7.3).
func (b *Bus) event(binder uint32, name string, isBind bool) error {
	if !b.reports {
		return nil
	}
	m := b.bindEvent(binder, name, isBind)
	to := b.listeners(m.Name)
	if slices.ContainsFunc(to, func(l listener) bool { return !l.hasRoom() }) {
		return unix.EAGAIN
	}
	for _, l := range to {
		l.push(m, l.via, false)
	}
	return nil
}

// closeEvent reports an unbind that can't fail, because its Ksock is closing. Who has no room has it kept aside, or misses
// it (R7.4).
func (b *Bus) closeEvent(binder uint32, name string) {
	m := b.bindEvent(binder, name, false)
	to := b.listeners(m.Name)
	var missed []listener // the newest binding of each Ksock that misses the event
	for i, l := range to {
		of := func(o listener) bool { return o.ksock == l.ksock }
		if slices.ContainsFunc(to[:i], of) {
			continue // done with its newest binding: what one Ksock gets is decided once (R6.1)
		}
		copies := slices.DeleteFunc(slices.Clone(to), func(o listener) bool { return !of(o) })
		switch {
		case l.hasRoom():
			for _, c := range copies {
				l.push(m, c.via, false)
			}
		case !l.lost && len(l.kept)+len(copies) <= b.config.KeptEvents:
			for _, c := range copies {
				l.kept = append(l.kept, item{msg: m, via: c.via})
			}
		default:
			l.lost = true
			missed = append(missed, l)
		}
	}
	if len(missed) == 0 {
		return
	}
	gone := &Message{ID: b.nextID(), Flags: Synthetic, Name: EventsLostName}
	for _, l := range missed {
		if n := len(l.kept); n == 0 || l.kept[n-1].msg.Name != EventsLostName {
			l.kept = append(l.kept, item{msg: gone, via: l.via})
		}
	}
}
