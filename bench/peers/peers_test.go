package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kbus.internal/bench"
)

func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], []string{"bench", "child"}) {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Each library runs for a moment; those that are not installed are skipped with
// the line that installs them. No figure is judged.
func TestLibraries(t *testing.T) {
	for _, p := range libraries() {
		t.Run(p.Name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			for _, size := range []int{8, 64, 100_000, 1 << 20} {
				r, err := bench.PeerRTT(t.Context(), bench.Options{Size: size, Duration: 30 * time.Millisecond}, &p)
				check(t, r, err)
				if r.System != p.Name || r.Latency == nil || r.Count < 1 || r.P50 < 1 {
					t.Errorf("%d bytes: %+v", size, r)
				}
			}
			if p.Announce != nil {
				for _, n := range []int{1, 3} {
					r, err := bench.PeerFan(t.Context(), bench.Options{Size: 64, Listeners: n, Duration: 30 * time.Millisecond}, &p)
					check(t, r, err)
					if r.PerSecond <= 0 || r.Sent < 1 || r.Missed != 0 || r.Listeners != n {
						t.Errorf("to %d: %+v", n, r)
					}
				}
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func check(t *testing.T, r *bench.Result, err error) {
	t.Helper()
	var no *bench.Unavailable
	if errors.As(err, &no) && no.Install != "" {
		t.Skipf("this machine lacks it: %v", no) // says the line that installs it
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What is not installed is left out, and the line that installs it is said.
func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dbus, err := bench.Choose(libraries(), []string{"dbus"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = bench.PeerRTT(t.Context(), bench.Options{Size: 64, Duration: time.Millisecond}, &dbus[0])
	var no *bench.Unavailable
	if !errors.As(err, &no) || no.Install != "apt-get install dbus-daemon" {
		t.Errorf("%v", err)
	}
}

func TestCommand(t *testing.T) {
	var out, words bytes.Buffer
	if code := run(t.Context(), []string{"--only", "grpc", "--rounds", "1", "--seconds", "0.001", "--wait", "sleep", "--json"}, &out, &words); code != 0 {
		t.Fatalf("exit code %d: %s", code, &words)
	}
	var report bench.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	systems := map[string]int{}
	for _, r := range report.Results {
		systems[r.System]++
	}
	if systems["grpc"] != 5 || systems[bench.KBUS] == 0 || systems[bench.Machinery] != 2 {
		t.Errorf("%v", systems)
	}
	for _, bad := range [][]string{{"--only", "telegraph"}, {"--seconds", "0"}, {"--pin", "x"}, {"--pin", "5000"}, {"--wait", "doze"}, {"more"}, {"--rounds", "0"}} {
		words.Reset()
		if code := run(t.Context(), bad, &out, &words); code != 2 || words.Len() == 0 {
			t.Errorf("%v: exit code %d, %s", bad, code, &words)
		}
	}
	words.Reset()
	if code := run(t.Context(), []string{"--help"}, &out, &words); code != 0 || !strings.Contains(words.String(), "zeromq") {
		t.Errorf("help: %d, %s", code, &words)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	words.Reset()
	if code := run(ctx, nil, &out, &words); code != 1 || !strings.Contains(words.String(), "interrupted") {
		t.Errorf("interrupted: %d, %s", code, &words)
	}
}
