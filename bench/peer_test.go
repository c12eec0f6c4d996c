package bench

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"kbus.internal/shm/shmtest"
)

// peerAt finds one by name.
func peerAt(t *testing.T, name string) *Peer {
	for _, p := range Peers() {
		if p.Name == name {
			return &p
		}
	}
	t.Fatalf("no peer %q", name)
	return nil
}

func TestPeers(t *testing.T) {
	shmtest.CheckFiles(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, p := range Peers() {
		for _, wait := range []Wait{Spin, Sleep, Adaptive} {
			if !p.Waits && wait != Adaptive {
				continue
			}
			for _, size := range []int{8, 64, 100_000, frame} {
				r, err := PeerRTT(t.Context(), short(Options{Size: size, Wait: wait}), &p)
				var no *Unavailable
				if errors.As(err, &no) {
					t.Logf("%s of %d bytes: %v", p.Name, size, no)
					continue
				}
				if err != nil {
					t.Errorf("%s of %d bytes, %s: %v", p.Name, size, wait, err)
					continue
				}
				checkLatency(t, p.Name, r.Latency)
				if r.System != p.Name || r.Size != size || p.Waits != (r.Wait == wait) {
					t.Errorf("%+v", r)
				}
			}
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPeerFan(t *testing.T) {
	shmtest.CheckFiles(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, p := range Peers() {
		for _, wait := range []Wait{Adaptive, Sleep, Spin} {
			if !p.Waits && wait != Adaptive {
				continue
			}
			for _, size := range []int{64, 100_000} {
				f, err := PeerFan(t.Context(), short(Options{Size: size, Wait: wait, Listeners: 3}), &p)
				var no *Unavailable
				if errors.As(err, &no) {
					t.Logf("%s of %d bytes: %v", p.Name, size, no)
					continue
				}
				if err != nil {
					t.Errorf("%s of %d bytes, %s: %v", p.Name, size, wait, err)
					continue
				}
				if f.System != p.Name || f.Size != size || f.Listeners != 3 || f.Sent < 1 || f.PerSecond <= 0 || f.Missed != 0 {
					t.Errorf("%+v", f)
				}
			}
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// testPeers are channels with something wrong.
var testPeers = func() []Peer {
	good := channelPeer(Peer{OneProcess: true})
	late, lost, gone, missing := good, good, good, good
	late.Name = "late" // answers with the message before
	late.Ask = func(t *PeerTask) (func([]byte) ([]byte, error), func() error, error) {
		ask, end, err := good.Ask(t)
		last := make([]byte, t.Size)
		return func(message []byte) ([]byte, error) {
			answer, err := ask(message)
			before := slices.Clone(last)
			copy(last, answer)
			return before, err
		}, end, err
	}
	lost.Name = "lost" // does not send the first message
	lost.Announce = func(t *PeerTask) (func([]byte) error, func() error, error) {
		send, end, err := good.Announce(t)
		n := 0
		return func(message []byte) error {
			if n++; n == 1 {
				return nil
			}
			return send(message)
		}, end, err
	}
	gone.Name = "gone" // sends nothing from some message on
	gone.Announce = func(t *PeerTask) (func([]byte) error, func() error, error) {
		send, end, err := good.Announce(t)
		n := 0
		return func(message []byte) error {
			if n++; n > 10 {
				return nil
			}
			return send(message)
		}, end, err
	}
	missing.Name = "missing"
	missing.Ask = func(*PeerTask) (func([]byte) ([]byte, error), func() error, error) {
		return nil, nil, &Unavailable{Why: "not here", Install: "apt-get install it"}
	}
	return []Peer{late, lost, gone, missing}
}()

// What a peer gets wrong is noticed; what it needs is said.
func TestPeerErrors(t *testing.T) {
	for name, want := range map[string]string{
		"late": "came back as another one", "missing": "not here: apt-get install it",
	} {
		p := testPeers[slices.IndexFunc(testPeers, func(p Peer) bool { return p.Name == name })]
		_, err := PeerRTT(t.Context(), short(Options{Size: 64}), &p)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		var no *Unavailable
		if got := errors.As(err, &no); got != (name == "missing") {
			t.Errorf("%s: unavailable %v", name, got)
		}
	}
	for name, want := range map[string]string{"lost": "another message than number 1", "gone": "10 of "} {
		p := testPeers[slices.IndexFunc(testPeers, func(p Peer) bool { return p.Name == name })]
		_, err := PeerFan(t.Context(), short(Options{Size: 64, Listeners: 2}), &p)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := PeerRTT(t.Context(), short(Options{Size: 7}), peerAt(t, "pipe")); !errors.Is(err, ErrOptions) {
		t.Errorf("7 bytes: %v", err)
	}
}
