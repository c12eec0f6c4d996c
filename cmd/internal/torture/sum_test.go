package torture

import (
	"math/rand/v2"
	"testing"
)

// A bit flipped, words changed over, a part of another message: each has another sum.
func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := make([]byte, 1+rng.IntN(100))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		want, short := sum64(0, b), sum32(sum64(0, b))
		changed := func(what string) {
			t.Helper()
			if got := sum64(0, b); got == want || sum32(got) == short {
				t.Fatalf("%s in %d bytes is not seen", what, len(b))
			}
		}
		i := rng.IntN(8 * len(b))
		b[i/8] ^= 1 << (i % 8)
		changed("a flipped bit")
		b[i/8] ^= 1 << (i % 8)
		if len(b) >= 16 {
			for i := range 8 {
				b[i], b[8+i] = b[8+i], b[i]
			}
			changed("an exchange of words")
			for i := range 8 {
				b[i], b[8+i] = b[8+i], b[i]
			}
		}
		b = append(b, 0)
		changed("a zero more")
		b = b[:len(b)-2]
		changed("a byte less")
	}
	if checksum("$.A", []byte("B")) == checksum("$.AB", nil) {
		t.Error("name and data are one")
	}
}
