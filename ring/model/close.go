package model

import "slices"

// Close closes k, or is the death of its process: all of R4.8.
func (b *Bus) Close(id uint32) error {
	if err := b.CloseBegin(id); err != nil {
		return err
	}
	b.CloseEnd(id)
	return nil
}

// CloseBegin is the first step of Close: from here on k gets nothing, its bindings match nothing, and what it had not read
// and need not answer has vanished, as has a send that was waiting.
func (b *Bus) CloseBegin(id uint32) error {
	k, err := b.open(id)
	if err != nil {
		return err
	}
	k.closing = true
	k.waiting, k.kept, k.lost = nil, nil, false
	k.queue = slices.DeleteFunc(k.queue, func(i item) bool { return !i.mine })
	return nil
}

// CloseStep does the next thing of R4.8 that makes a message, and answers true: a Status (GoneAway) for a Request that k had
// not read, the event for a Replier's binding that goes, a Status (Ignored) for a Request that it had not answered. It
// answers false if nothing is left.
func (b *Bus) CloseStep(id uint32) bool {
	k := b.find(id)
	if k == nil || !k.closing {
		return false
	}
	for len(k.orphans) > 0 { // of an unbind that was not finished
		r := k.orphans[0]
		k.orphans = slices.Delete(k.orphans, 0, 1)
		if b.answer(UnboundName, id, r) {
			return true
		}
	}
	for len(k.queue) > 0 {
		m := k.queue[0].msg
		k.queue = slices.Delete(k.queue, 0, 1)
		if b.answer(GoneAwayName, id, request{m.From, m.ID}) {
			return true
		}
	}
	for i, n := range slices.Backward(b.bindings) {
		if n.owner != id {
			continue
		}
		b.bindings = slices.Delete(b.bindings, i, i+1) // moves only those that this loop has seen
		if n.replier && b.reports {
			b.closeEvent(id, n.name)
			return true
		}
	}
	for len(k.owed) > 0 {
		last := len(k.owed) - 1
		r := k.owed[last]
		k.owed = k.owed[:last]
		if b.answer(IgnoredName, id, r) {
			return true
		}
	}
	return false
}

// CloseEnd is the last step of Close, after whatever steps are left: k is gone, also as asker.
func (b *Bus) CloseEnd(id uint32) {
	for b.CloseStep(id) {
	}
	b.ksocks = slices.DeleteFunc(b.ksocks, func(k *ksock) bool { return k.id == id && k.closing })
}
