package limpet_test

import (
	"runtime"
	"testing"

	"kbus.internal/limpet"
)

// TestOwnProcess: a small machine's limit is raised, a larger one left, and what the
// environment says obeyed.
func TestOwnProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range []struct {
		env       string
		have, get int
	}{{"", 1, 4}, {"", 2, 4}, {"", 4, 4}, {"", 7, 7}, {"2", 2, 2}} {
		t.Setenv("GOMAXPROCS", c.env)
		runtime.GOMAXPROCS(c.have)
		limpet.OwnProcess()
		if got := runtime.GOMAXPROCS(0); got != c.get {
			t.Errorf("GOMAXPROCS=%q in the environment, %d in force: becomes %d, not %d", c.env, c.have, got, c.get)
		}
	}
}
