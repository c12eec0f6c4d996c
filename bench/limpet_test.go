package bench

import (
	"errors"
	"testing"

	"kbus.internal/shm/shmtest"
)

func TestLimpet(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, size := range []int{64, 20000, 1 << 20} {
		r, err := Limpet(t.Context(), long(Options{Size: size}))
		if err != nil {
			t.Fatal(err)
		}
		checkLatency(t, "across", r.Latency)
		checkLatency(t, "one bus", r.Bus)
		checkLatency(t, "TCP", r.TCP)
		checkRun(t, r, "tcp pong", "tcp ping", "replier", "asker", "replier", "asker", "limpet", "limpet",
			"tcp drain", "tcp source", "drain", "spring", "limpet", "limpet")
		if a, b := messages(r, "asker"), messages(r, "replier"); a != b {
			t.Errorf("%d Requests, %d Replies", a, b)
		}
		if a, b := messages(r, "spring"), messages(r, "drain"); a != b || r.Missed != 0 || r.Sent != a {
			t.Errorf("%d sent, %d heard: %+v", a, b, r)
		}
		if r.TCPPerSecond <= 0 || r.PerSecond <= 0 || r.LatencyRatio <= 0 || r.StreamRatio <= 0 || r.Size != size {
			t.Errorf("%+v", r)
		}
	}
	if _, err := Limpet(t.Context(), short(Options{})); !errors.Is(err, ErrOptions) {
		t.Errorf("messages of no bytes: %v", err)
	}
}

// long is short for each of the parts of a workload.
func long(o Options) Options {
	o = short(o)
	o.Duration *= 5
	return o
}
