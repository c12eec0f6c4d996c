package torture

import (
	"encoding/binary"
	"math/bits"
)

// sum64 is a checksum of b that goes on from h. Each step is reversible, so two
// inputs that differ in one word never have the same. Unlike hash/crc32's it needs no
// tables, which take a new process longer to make, or to fetch, than most of its sums.
func sum64(h uint64, b []byte) uint64 {
	h ^= uint64(len(b))
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64((h^binary.LittleEndian.Uint64(b))*0x9e3779b97f4a7c15, 29)
	}
	var last uint64
	for i, x := range b {
		last |= uint64(x) << (8 * i)
	}
	return bits.RotateLeft64((h^last)*0x9e3779b97f4a7c15, 29)
}

// sum32 folds a sum.
func sum32(h uint64) uint32 {
	h *= 0xbf58476d1ce4e5b9
	return uint32(h >> 32)
}
