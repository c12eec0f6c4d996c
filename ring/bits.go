package ring

// The packed words, one place each.

// cur: seq[49] area[13] phase[2]. The log's one word: which entry is next, and
// whose plan for it counts.
const (
	curIdle    = 0 // entry seq is yet to come
	curClaimed = 1 // area's slot has claimed seq with what its sCmd says
	curPlanned = 2 // area holds the plan that everybody carries out

	lastSeq = 1<<49 - 1 // 0 comes next
)

func curWord(seq uint64, area int, phase uint64) uint64 { return seq<<15 | uint64(area)<<2 | phase }
func curSeq(w uint64) uint64                            { return w >> 15 }
func curArea(w uint64) int                              { return int(w >> 2 & 0x1fff) }
func curPhase(w uint64) uint64                          { return w & 3 }

// sRead: es[37] frz[1] ud[13] head[13]. All that a reader changes of its queue:
// head of the normal lane, depth of the urgent lane; es = stamp of the last
// entry that changed the word, frz while that entry edits the queue.
type readWord uint64

func makeRead(es uint64, frz bool, ud, head uint64) readWord {
	f := uint64(0)
	if frz {
		f = 1
	}
	return readWord(es<<27 | f<<26 | ud&0x1fff<<13 | head&0x1fff)
}
func (r readWord) es() uint64   { return uint64(r) >> 27 }
func (r readWord) frozen() bool { return r>>26&1 != 0 }
func (r readWord) ud() uint64   { return uint64(r) >> 13 & 0x1fff }
func (r readWord) head() uint64 { return uint64(r) & 0x1fff }

func esStamp(seq uint64) uint64 { return (seq + 1) & (1<<37 - 1) }

// A copy in a lane: stamp[22] index in its block's list[14] handle[28]. In the
// normal lane the stamp is the lap, in the urgent lane that of the entry.
func laneWord(stamp uint64, idx, h int) uint64 {
	return stamp<<42 | uint64(idx)<<28 | uint64(h)
}
func laneStamp(w uint64) uint64 { return w >> 42 }
func laneIdx(w uint64) int      { return int(w >> 28 & 0x3fff) }
func laneHandle(w uint64) int   { return int(w & 0xfffffff) }

const stampMask = 1<<22 - 1

// A block's head: gen[34] owner[12] armed[1] sender[1] mask[16]. Free: no bit
// below gen is set (anyone may take it), or armed alone (headPool: it belongs to
// the pool of free space, which only entries change).
const (
	headArmed  = 1 << 17
	headSender = 1 << 16
	headPool   = headArmed
	headMask   = 1<<16 - 1
	genMask    = 1<<34 - 1
)

func headGen(w uint64) uint64  { return w >> 30 }
func headOwner(w uint64) int   { return int(w >> 18 & 0xfff) }
func headFree(w uint64) bool   { return w&(1<<30-1) == 0 }
func headPooled(w uint64) bool { return w&(1<<30-1) == headPool }
func headWord(gen uint64, owner int, low uint64) uint64 {
	return gen&genMask<<30 | uint64(owner)<<18 | low
}

// A group word: gen[31] armed[1] mask[32].
func groupWord(gen uint64, armed bool, mask uint64) uint64 {
	w := gen << 33
	if armed {
		w |= 1 << 32
	}
	return w | mask
}

// A ledger word: state[2] ver[30] serial[32].
const (
	ledFree   = 0
	ledOpen   = 1
	ledOrphan = 2 // its Replier unbound before reading it; a Status is owed
)

func ledWord(state, ver uint64, serial uint32) uint64 {
	return state<<62 | ver&(1<<30-1)<<32 | uint64(serial)
}
func ledState(w uint64) uint64 { return w >> 62 }
func ledVer(w uint64) uint64   { return w >> 32 & (1<<30 - 1) }

// A copy in a block's list: slot[12]@16 role[2]@14 cell[14].
const (
	roleListener = 0
	roleReplier  = 1 // the copy whose reader must reply
	roleDirect   = 2 // came by no binding: Reply, Status, events of R7.2
)

func copyWord(slot, role, cell int) uint64 { return uint64(slot)<<16 | uint64(role)<<14 | uint64(cell) }
func copySlot(w uint64) int                { return int(w >> 16 & 0xfff) }
func copyRole(w uint64) int                { return int(w >> 14 & 3) }
func copyCell(w uint64) int                { return int(w & 0x3fff) }

// mLed: slot[12]@52 index[14]@32 ver[32].
func ledRef(slot, idx int, ver uint64) uint64 {
	return uint64(slot)<<52 | uint64(idx)<<32 | ver&0xffffffff
}
func ledRefSplit(w uint64) (slot, idx int, ver uint64) {
	return int(w >> 52), int(w >> 32 & 0x3fff), w & 0xffffffff
}

// serialOf is the serial number of the count-th number given, from 1 (R2.2).
func serialOf(count uint64) uint32 { return uint32(1 + (count-1)%(1<<32-1)) }

func pair(hi, lo uint32) uint64             { return uint64(hi)<<32 | uint64(lo) }
func unpair(w uint64) (hi, lo uint32)       { return uint32(w >> 32), uint32(w) }
func unpairID(w uint64) MessageID           { return MessageID{uint32(w >> 32), uint32(w)} }
func unpairEnd(w uint64) EndPoint           { return EndPoint{uint32(w >> 32), uint32(w)} }
func restamp(old uint64, low uint32) uint64 { return (old>>32+1)<<32 | uint64(low) }
