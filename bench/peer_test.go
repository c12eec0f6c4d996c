package bench

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"kbus.internal/shm/shmtest"
)

// peer is the one of a name.
func peer(t *testing.T, of []Peer, name string) *Peer {
	t.Helper()
	p, err := Choose(of, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	return &p[0]
}

func TestPeers(t *testing.T) {
	eachPeer(t, Options{}, []int{8, 64, 100_000, frame}, PeerRTT, func(p *Peer, r *Result) {
		checkLatency(t, p.Name, r.Latency)
	})
}

func TestPeerFan(t *testing.T) {
	eachPeer(t, Options{Listeners: 3}, []int{64, 100_000}, PeerFan, func(_ *Peer, r *Result) {
		if r.Listeners != 3 || r.Sent < 1 || r.PerSecond <= 0 || r.Missed != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// eachPeer measures each peer with messages of these sizes in each way that it can
// wait. Only message queues may be refused by the system.
func eachPeer(t *testing.T, o Options, sizes []int, measure func(context.Context, Options, *Peer) (*Result, error), check func(*Peer, *Result)) {
	shmtest.CheckFiles(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, p := range Peers() {
		waits := []Wait{Adaptive}
		if p.Waits {
			waits = []Wait{Adaptive, Sleep, Spin}
		}
		for _, o.Wait = range waits {
			for _, o.Size = range sizes {
				r, err := measure(t.Context(), short(o), &p)
				var no *Unavailable
				switch {
				case p.Name == "mqueue" && errors.As(err, &no):
					t.Logf("%s of %d bytes: %v", p.Name, o.Size, no)
				case err != nil:
					t.Errorf("%s of %d bytes, %s: %v", p.Name, o.Size, o.Wait, err)
				default:
					if r.System != p.Name || r.Size != o.Size || p.Waits != (r.Wait == o.Wait) {
						t.Errorf("%+v", r)
					}
					check(&p, r)
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
		_, err := PeerRTT(t.Context(), short(Options{Size: 64}), peer(t, testPeers, name))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		var no *Unavailable
		if got := errors.As(err, &no); got != (name == "missing") {
			t.Errorf("%s: unavailable %v", name, got)
		}
	}
	for name, want := range map[string]string{"lost": "another message than number 1", "gone": "10 of "} {
		_, err := PeerFan(t.Context(), short(Options{Size: 64, Listeners: 2}), peer(t, testPeers, name))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := PeerRTT(t.Context(), short(Options{Size: 7}), peer(t, Peers(), "pipe")); !errors.Is(err, ErrOptions) {
		t.Errorf("7 bytes: %v", err)
	}
}
