package ring

import (
	"fmt"
	"sync"

	"kbus.internal/shm"
)

// A Bus is one bus's region as one process sees it. Safe for use by many
// goroutines.
type Bus struct {
	layout
	mem  *shm.Memory
	w    []shm.Word
	data []byte // the same memory, for payload only

	mu     sync.Mutex // guards tables
	tables tables
}

// Attach checks a region and opens it. The Bus uses the memory for as long as
// it lives; unmapping it is the caller's business.
func Attach(mem *shm.Memory) (*Bus, error) {
	l, err := readLayout(mem)
	if err != nil {
		return nil, err
	}
	b := &Bus{layout: l, mem: mem, w: mem.Words(), data: mem.Bytes()}
	b.tables.init(b)
	return b, nil
}

// Config returns the geometry; MessageSize is the limit now.
func (b *Bus) Config() Config {
	c := b.cfg
	c.MessageSize = b.MessageSize()
	return c
}

// MessageSize is the bus's size limit now, in bytes (R2.6).
func (b *Bus) MessageSize() uint32 { return uint32(b.w[wMsgSize].Load()) }

// Reports tells whether Replier bindings are reported (R7.1).
func (b *Bus) Reports() bool { return b.w[wReports].Load()&1 != 0 }

// slotsUsed is the highest slot that was ever used.
func (b *Bus) slotsUsed() int { return int(min(b.w[wSlots].Load(), uint64(b.cfg.MaxKsocks))) }

// cellsUsed is the number of cells that were ever used.
func (b *Bus) cellsUsed() int { return int(min(b.w[wCells].Load(), uint64(b.cfg.MaxBindings))) }

// NetCatches counts sleeps that ended by their timeout though there was
// something to wake for: waker and supervisor both gone at the wrong moment.
func (b *Bus) NetCatches() uint64 { return b.w[wNet].Load() }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// A party is who appends and helps: one side of a slot, with a plan area that
// nobody else writes. One goroutine at a time.
type party struct {
	b    *Bus
	slot int
	area int // 2*slot, or 2*slot+1 for the reading side
	plan planner
}

func (p *party) init(b *Bus, slot, side int) {
	p.b, p.slot, p.area = b, slot, 2*slot+side
	p.plan.init(b, p.area)
}
