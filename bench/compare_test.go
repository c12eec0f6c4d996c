package bench

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	o := short(Options{})
	o.Duration = time.Millisecond
	queue := *peer(t, Peers(), "mqueue")
	queue.Announce, queue.Listen = nil, nil
	said := 0
	r, err := Compare(t.Context(), o, 1, []Wait{Sleep, Spin}, []Peer{queue, *peer(t, testPeers, "missing")}, func(string) { said++ })
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for _, x := range r.Results {
		names[x.Name]++
		if x.Round != 1 {
			t.Errorf("%s: round %d", x.Name, x.Round)
		}
	}
	for _, want := range []string{
		"floor/size=64/wait=spin/readers=1", "rtt/size=3145728/wait=sleep", "fan/size=65536/wait=adaptive/listeners=4",
		"mqueue/rtt/size=64/wait=spin", "mqueue/rtt/size=4096/wait=sleep",
	} {
		if names[want] != 1 {
			t.Errorf("%d times %s: %v", names[want], want, names)
		}
	}
	if i := slices.IndexFunc(r.Skipped, func(s Skipped) bool { return s.System == "missing" }); i < 0 ||
		r.Skipped[i].String() != "missing: not here: apt-get install it" {
		t.Errorf("%+v", r.Skipped)
	}
	// Each system is left out once, or once for each size.
	seen := map[string]bool{}
	for _, s := range r.Skipped {
		if key := strings.SplitAfter(s.String(), ":")[0]; seen[key] {
			t.Errorf("skipped twice: %v", &s)
		} else {
			seen[key] = true
		}
	}
	if said < len(r.Results) {
		t.Errorf("%d words for %d runs", said, len(r.Results))
	}
	r.Results[2].Load.Disturbed = true
	var b strings.Builder
	if err := r.WriteComparison(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kbus, spin ", "mqueue, sleep ", "round trip of a futex", "copy of 3 MiB", "LEFT OUT\n", " ~1", "~N: N rounds"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if _, err := Compare(t.Context(), o, 0, nil, nil, nil); !errors.Is(err, ErrOptions) {
		t.Errorf("no rounds: %v", err)
	}
}

func TestChoose(t *testing.T) {
	if all, err := Choose(Peers(), nil); err != nil || len(all) != len(Peers()) {
		t.Errorf("%d of %d, %v", len(all), len(Peers()), err)
	}
	if two, err := Choose(Peers(), []string{"mqueue", "pipe"}); err != nil || len(two) != 2 || two[0].Name != "mqueue" {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := Choose(Peers(), []string{"telegraph"}); err == nil || !strings.Contains(err.Error(), "unix-seqpacket") {
		t.Error(err)
	}
}
