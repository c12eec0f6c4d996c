package torture

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/shm"
)

// Words of the board: a header, the places' journals, and random bytes to send.
const (
	bPhase = 0
	bLives = 8 // numbers given to Ksocks so far
	bHead  = 16

	// of a place
	pBeat = 0 // grows while its client goes round
	pSent = 8 // two journals: head, tail on lines of their own
	pRead = 24
	pHead = 40

	journalRecords = 1 << 13
	recordWords    = 8
	journalWords   = journalRecords * recordWords
	placeWords     = pHead + 2*journalWords

	poolBytes = 4<<20 + 1<<16
)

// Phases of a run, for clients.
const (
	phaseRun    = iota
	phaseSettle // send no more, answer what is owed, read
	phaseEnd    // read what is there, close, and go
)

// A board is the memory that all processes of a run share.
type board struct {
	mem    *shm.Memory
	w      []shm.Word
	places int
	pool   []byte
	epoch  time.Time // when clock was at base
	base   int64
}

func boardSize(places int) int64 { return int64(bHead+places*placeWords)*8 + poolBytes }

func newBoard(places int) (*board, error) {
	mem, err := shm.Create("kbus-torture", boardSize(places))
	if err != nil {
		return nil, err
	}
	return boardOn(mem, places), nil
}

func openBoard(f *os.File, places int) (*board, error) {
	mem, err := shm.Map(f)
	if err != nil {
		return nil, err
	}
	return boardOn(mem, places), nil
}

func boardOn(mem *shm.Memory, places int) *board {
	b := &board{mem: mem, w: mem.Words(), places: places, pool: mem.Bytes()[boardSize(places)-poolBytes:]}
	// The monotonic clock, which all processes share, as cheap as time.Now. The two
	// have to be read at once: nobody may be stopped in between.
	for best := time.Duration(1 << 62); best > 20*time.Microsecond; {
		var ts unix.Timespec
		before := time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic(err) // there is no Linux without it
		}
		if took := time.Since(before); took < best {
			best, b.epoch, b.base = took, before, ts.Nano()
		}
	}
	return b
}

// now is nanoseconds of the monotonic clock, the same in all processes.
func (b *board) now() int64 { return b.base + int64(time.Since(b.epoch)) }

func (b *board) phase() int { return int(b.w[bPhase].Load()) }

func (b *board) beat(place int) *shm.Word { return &b.w[bHead+place*placeWords+pBeat] }

func (b *board) sent(place int) *journal {
	at := bHead + place*placeWords
	return newJournal(&b.w[at+pSent], &b.w[at+pSent+8], b.w[at+pHead:][:journalWords])
}

func (b *board) read(place int) *journal {
	at := bHead + place*placeWords
	return newJournal(&b.w[at+pRead], &b.w[at+pRead+8], b.w[at+pHead+journalWords:][:journalWords])
}

// Kinds of records. Those of the sending journal:
const (
	recOpened  = 1 + iota // id: Ksock id; flags: lifeFlags
	recIntent             // seq, class; reply: what it answers; to: whom; flags: the batch that it is in, or 0
	recOutcome            // seq, code; id, unless flags is noID
	recLater              // seq, code: the end of a message that waited
	recUnbind             // a Replier's binding is about to go
	recClosing            // the Ksock is about to be closed; code 1: a Call may have taken messages that nobody got
	recDropped            // seq: nobody waits for this Request's answer any more
	recWrong              // code: one of wrongs; reply: more about it
	// and of the reading journal:
	recBound   // listens to the chain since at
	recMessage // one was read
	recDrained // all that was there at reply (a time) has been read; code 1: the very end
)

// noID: SendBatch does not tell the ids, but the last one.
const noID = 1

// A record is one event in a process's life.
type record struct {
	kind   uint8
	class  uint8
	code   uint16
	life   uint32 // of the Ksock
	at     int64  // clock
	origin uint64 // life[32] seq[32] of the message
	id     uint64 // network[32] serial[32]
	reply  uint64 // in_reply_to
	from   uint32
	to     uint32
	flags  uint32
	name   uint32
	hash   uint64
}

func (r *record) seq() uint32 { return uint32(r.origin) }

// A journal is a ring of records with one writer and one reader, in processes of
// their own. The head moves when a record is whole.
type journal struct {
	head, tail *shm.Word
	w          []shm.Word
	at         uint64 // the writer's head or the reader's tail
	limit      uint64 // the tail as the writer saw it
}

func newJournal(head, tail *shm.Word, w []shm.Word) *journal {
	return &journal{head: head, tail: tail, w: w}
}

// writer begins to write where the predecessor, who may have been killed, ended.
func (j *journal) writer() *journal {
	j.at, j.limit = j.head.Load(), j.tail.Load()
	return j
}

func (j *journal) put(r *record) {
	for j.at-j.limit >= journalRecords {
		if j.limit = j.tail.Load(); j.at-j.limit >= journalRecords {
			time.Sleep(100 * time.Microsecond) // the judge is behind
		}
	}
	w := j.w[j.at%journalRecords*recordWords:][:recordWords]
	w[0].Put(uint64(r.life)<<32 | uint64(r.code)<<16 | uint64(r.class)<<8 | uint64(r.kind))
	w[1].Put(uint64(r.at))
	w[2].Put(r.origin)
	w[3].Put(r.id)
	w[4].Put(r.reply)
	w[5].Put(uint64(r.from)<<32 | uint64(r.to))
	w[6].Put(uint64(r.flags)<<32 | uint64(r.name))
	w[7].Put(r.hash)
	j.at++
	j.head.Store(j.at)
}

// take hands the records before end to f.
func (j *journal) take(end uint64, f func(*record)) {
	var r record
	for ; j.at != end; j.at++ {
		w := j.w[j.at%journalRecords*recordWords:][:recordWords]
		v := w[0].Load()
		r.kind, r.class, r.code, r.life = uint8(v), uint8(v>>8), uint16(v>>16), uint32(v>>32)
		r.at, r.origin, r.id, r.reply = int64(w[1].Load()), w[2].Load(), w[3].Load(), w[4].Load()
		v = w[5].Load()
		r.from, r.to = uint32(v>>32), uint32(v)
		v = w[6].Load()
		r.flags, r.name = uint32(v>>32), uint32(v)
		r.hash = w[7].Load()
		f(&r)
	}
	j.tail.Store(j.at)
}
