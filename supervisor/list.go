package supervisor

import (
	"cmp"
	"slices"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
)

// list makes one page of a table.
func (s *Supervisor) list(r *control.Request) (*control.Answer, error) {
	a := &control.Answer{Op: r.Op}
	if r.Op == control.OpBuses {
		for n := r.From; n < MaxBuses; n++ {
			b := s.bus(int(n))
			if b == nil {
				continue
			}
			if a.Room() < control.MaxBusRow {
				a.Next = n
				break
			}
			a.Buses = append(a.Buses, b.info())
		}
		return a, nil
	}
	b, err := s.lookUp(r.Bus)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return nil, err
	}
	if r.Op == control.OpBindings {
		rows, err := b.ring.Bindings()
		if err != nil {
			return nil, err
		}
		for n := int(r.From); n < len(rows); n++ {
			if a.Room() < control.MaxBindingRow {
				a.Next = uint32(n)
				break
			}
			row := &rows[n]
			a.Bindings = append(a.Bindings, control.BindingInfo{Ksock: row.ID, Replier: row.Replier, Name: row.Name})
		}
		return a, nil
	}
	rows := b.ring.Ksocks()
	slices.SortFunc(rows, func(x, y ring.KsockStats) int { return cmp.Compare(x.ID, y.ID) })
	for i := range rows {
		row := &rows[i]
		if row.ID < r.From {
			continue
		}
		if a.Room() < control.MaxKsockRow {
			a.Next = row.ID
			break
		}
		a.Ksocks = append(a.Ksocks, b.ksockInfo(row))
	}
	return a, nil
}

// info is the row of the bus; only its number while it has no region.
func (b *bus) info() control.BusInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := control.BusInfo{Bus: uint32(b.number)}
	if b.mem == nil {
		return i
	}
	st, err := b.ring.Stats()
	if err != nil {
		b.s.log.Error("bus is not read well", "bus", b.number, "err", err)
	}
	c := b.ring.Config()
	i.Ksocks, i.MaxKsocks = uint32(len(st.Ksocks)), uint32(c.MaxKsocks)
	i.Bindings = uint32(len(st.Bindings))
	i.MessageSize, i.MaxMessageSize = st.MessageSize, c.MaxMessageSize
	i.Reports = st.Reports
	i.ArenaBytes, i.ArenaUsed = uint64(st.Arena.Bytes), uint64(st.Arena.Used)
	i.Messages = st.Serial
	return i
}

// ksockInfo is the row of a Ksock. The caller has b.mu.
func (b *bus) ksockInfo(st *ring.KsockStats) control.KsockInfo {
	i := control.KsockInfo{
		Slot: uint32(st.Slot), Ksock: st.ID, PID: uint32(st.Pid), StartTime: st.Start, ReadOnly: st.Mode == ring.ReadOnly,
		MaxMessages: st.MaxMessages, Unread: uint32(st.Unread), Unreplied: uint32(st.Unreplied), Outstanding: uint32(st.Outstanding),
		Sent: st.Sent, Received: st.Received, Missed: st.Missed, Bytes: st.BytesHeld, Command: command(st.Pid),
	}
	if k := b.ksocks[st.Slot]; k != nil {
		i.UID = k.uid
	}
	return i
}

// bound counts the bindings of k with that name and role. The caller has b.mu.
func (b *bus) bound(k *ksock, name string, replier bool) (n uint32, err error) {
	rows, err := b.ring.Bindings()
	for i := range rows {
		if row := &rows[i]; row.ID == k.id && row.Name == name && row.Replier == replier {
			n++
		}
	}
	return n, err
}
