package model

import "encoding/binary"

// key is a canonical encoding of a state.
type key []byte

func (k *key) num(n uint64) { *k = binary.AppendUvarint(*k, n) }

func (k *key) str(s string) {
	k.num(uint64(len(s)))
	*k = append(*k, s...)
}

func (k *key) flags(fs ...bool) {
	var n uint64
	for i, f := range fs {
		if f {
			n |= 1 << i
		}
	}
	k.num(n)
}

func (k *key) pair(a, b uint32) {
	k.num(uint64(a))
	k.num(uint64(b))
}

func (k *key) message(m *Message) {
	k.pair(m.ID.Network, m.ID.Serial)
	k.pair(m.InReplyTo.Network, m.InReplyTo.Serial)
	k.pair(m.OrigFrom.Network, m.OrigFrom.Ksock)
	k.pair(m.FinalTo.Network, m.FinalTo.Ksock)
	k.pair(m.To, m.From)
	k.num(uint64(m.Flags))
	k.str(m.Name)
	k.str(m.Data)
}

// Key is equal for two buses if they will answer equally for ever. It is not meant to be read.
func (b *Bus) Key() string {
	var k key
	k.num(uint64(b.config.MaxMessageSize))
	k.num(uint64(b.config.KeptEvents))
	k.num(uint64(b.serial))
	k.num(uint64(b.lastKsock))
	k.num(uint64(b.size))
	k.flags(b.reports)

	k.num(uint64(len(b.bindings)))
	place := map[uint64]uint64{} // bindings are told apart by their places: their numbers depend on those that are gone
	for i, n := range b.bindings {
		place[n.number] = uint64(i + 1)
		k.num(uint64(n.owner))
		k.str(n.name)
		k.flags(n.replier)
	}
	items := func(list []item) {
		k.num(uint64(len(list)))
		for _, i := range list {
			k.num(place[i.via])
			k.flags(i.mine)
			k.message(i.msg)
		}
	}
	requests := func(list []request) {
		k.num(uint64(len(list)))
		for _, r := range list {
			k.num(uint64(r.asker))
			k.pair(r.id.Network, r.id.Serial)
		}
	}
	k.num(uint64(len(b.ksocks)))
	for _, s := range b.ksocks {
		k.num(uint64(s.id))
		k.flags(s.readOnly, s.closing, s.once, s.lost, s.waiting != nil)
		k.num(uint64(s.max))
		k.pair(s.last.Network, s.last.Serial)
		k.num(uint64(s.asked))
		if s.waiting != nil {
			k.message(s.waiting)
		}
		items(s.queue)
		items(s.kept)
		requests(s.owed)
		requests(s.orphans)
	}
	return string(k)
}
