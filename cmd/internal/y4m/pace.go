package y4m

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Due is how long after a stream's first frame its frame n is to be sent at
// rate frames a second. It is worked out from n alone, so that roundings do
// not add up. rate is not 0:0.
func Due(n uint64, rate Ratio) time.Duration {
	hi, lo := bits.Mul64(n, uint64(rate.Den))
	if hi != 0 || lo/uint64(rate.Num) > uint64(1<<63-1)/uint64(time.Second)-1 {
		return 1<<63 - 1
	}
	whole, rest := lo/uint64(rate.Num), lo%uint64(rate.Num)
	return time.Duration(whole)*time.Second + time.Duration(rest*uint64(time.Second)/uint64(rate.Num))
}

// ParseRate reads frames a second as people write them: 25, 29.97, 30000/1001
// or 30000:1001.
func ParseRate(s string) (Ratio, error) {
	bad := func() (Ratio, error) {
		return Ratio{}, fmt.Errorf("rate %q is not a number of frames a second such as 25, 29.97 or 30000/1001", s)
	}
	if num, den, ok := strings.Cut(strings.ReplaceAll(s, "/", ":"), ":"); ok {
		r, err := ratio("rate", num+":"+den)
		if err != nil || r.Num == 0 {
			return bad()
		}
		return r, nil
	}
	whole, decimals, _ := strings.Cut(s, ".")
	den := uint32(1)
	for range decimals {
		if den *= 10; den > 1e6 {
			return bad()
		}
	}
	num, err := digits(whole + decimals)
	if err != nil || num == 0 {
		return bad()
	}
	return Ratio{num, den}, nil
}
