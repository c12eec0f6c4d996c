package ring

// What the parts of the layout rely on: a negative constant does not compile.
const (
	_ uint = wCur - hReady - 1
	_ uint = wCarve - wVer - 1
	_ uint = wWaiters - (wCarve + carveClasses)
	_ uint = 64*waiterWords - maxSlots
	_ uint = (headerWords % 16) * -1
	_ uint = sHeld - sMissedBase - 1
	_ uint = (sHeld % 16) * -1
	_ uint = cellWords - (bName + (MaxName+7)/8)
	_ uint = recWords - recOrder - 1
	_ uint = mGroup - (mCopy + inlineCopies)
	_ uint = blockWords - (mGroup + 2)
	_ uint = unitBytes - 8*unitWords
	_ uint = 8*unitWords - unitBytes
	_ uint = MaxName - 1000 // the name's length has 10 bits
	_ uint = 1<<10 - 1 - MaxName
	_ uint = 1<<12 - maxSlots  // a slot has 12 bits
	_ uint = 1<<14 - maxCopies // an index of a copy or a cell has 14
	_ uint = 1<<15 - 1 - maxCopies
	_ uint = 1<<28 - (64<<30)/unitBytes // a handle has 28
	_ uint = laneMod - 2*4096           // positions in sRead are told apart over a whole lane
	_ uint = 1<<13 - laneMod
	_ uint = 16 - maxCopies/32/32 // groups of groups of a tree of bits fit the head's mask
)
