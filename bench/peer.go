package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Peer is another way for processes to send each other messages, for people to
// compare a bus with. Its functions run in processes of their own, as roles of a
// workload; they return errors, an [Unavailable] if it can't be measured here.
type Peer struct {
	Name  string // that users type
	About string // one line: what it is and how it is used
	// Waits says that it can wait in all ways that there are. If not it waits in
	// its own way, which is mostly to sleep.
	Waits bool
	// InPlace says that messages are used where they lie.
	InPlace bool
	// OneProcess says that its ends are goroutines of one process.
	OneProcess bool

	// Answer prepares all that Ask needs, calls Begin, sends every message back
	// until the asker says that there will be no more, and returns their number.
	Answer func(*PeerTask) (messages int64, err error)
	// Ask connects. ask sends one message and returns the answer, which is
	// valid until the next one; end ends Answer.
	Ask func(*PeerTask) (ask func(message []byte) ([]byte, error), end func() error, err error)

	// Listen prepares all that Announce needs, calls Begin, and gives each message
	// to got until the announcer says that there will be no more. It may not lose any.
	// Without Listen and Announce the peer is measured with round trips only.
	Listen func(t *PeerTask, got func(message []byte) error) error
	// Announce connects to all Listeners.
	Announce func(*PeerTask) (send func(message []byte) error, end func() error, err error)

	clean func(dir string) // what a process that died may have left; nil: nothing outside of dir
}

// PeerTask is what a function of a [Peer] is asked to do.
type PeerTask struct {
	Context   context.Context // never ends, but could
	Dir       string          // a directory of this run, removed after it
	Size      int             // of each message, in bytes
	Wait      Wait            // if it Waits
	Index     int             // of this Listener, from 0
	Listeners int             // in all

	begin func() error
	local any // what the ends share if they are in one process
}

// Begin says that Answer or Listen is prepared, and returns when all others are.
func (t *PeerTask) Begin() error { return t.begin() }

// Path is a file for Listener i; the one that answers is Listener 0.
func (t *PeerTask) Path(i int) string { return filepath.Join(t.Dir, strconv.Itoa(i)) }

// Unavailable is the error of a peer that can't be measured here, or not with
// messages of this size.
type Unavailable struct {
	Why     string `json:"why"`
	Install string `json:"install,omitempty"` // the command that changes it
}

func (u *Unavailable) Error() string {
	if u.Install != "" {
		return u.Why + ": " + u.Install
	}
	return u.Why
}

// Choose finds peers by their names; all if there are none.
func Choose(peers []Peer, names []string) ([]Peer, error) {
	if len(names) == 0 {
		return peers, nil
	}
	var chosen []Peer
	for _, name := range names {
		i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == name })
		if i < 0 {
			var known []string
			for _, p := range peers {
				known = append(known, p.Name)
			}
			return nil, fmt.Errorf("no peer is named %q: there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, peers[i])
	}
	return chosen, nil
}

// PeerRTT is [RTT] of a peer instead of a bus.
func PeerRTT(ctx context.Context, o Options, p *Peer) (*Result, error) {
	roles := []string{roleAnswer, roleAsk}
	if p.OneProcess {
		roles = []string{roleBoth}
	}
	return measurePeer(ctx, o, "rtt", p, func(s *stage) error {
		reports, err := s.cast(roles)
		if err == nil {
			last := reports[len(reports)-1]
			s.result.Latency, s.result.PerSecond = last.Latencies[""], last.Rate
		}
		return err
	})
}

// PeerFan is [Fan] of a peer instead of a bus. A Listener that misses something fails.
func PeerFan(ctx context.Context, o Options, p *Peer) (*Result, error) {
	if p.Announce == nil {
		return nil, &Unavailable{Why: "one to many is not measured"}
	}
	return measurePeer(ctx, o, "fan", p, func(s *stage) error {
		n := s.o.Listeners
		roles := append(slices.Repeat([]string{roleListen}, n), roleAnnounce)
		if p.OneProcess {
			roles, n = []string{roleBothFan}, 1
		}
		s.result.Listeners = s.o.Listeners
		reports, err := s.cast(roles)
		if err == nil {
			s.result.count(reports[:n], reports[len(reports)-1].Messages)
		}
		return err
	})
}

func measurePeer(ctx context.Context, o Options, workload string, p *Peer, f func(*stage) error) (*Result, error) {
	if o.Size < 8 {
		return nil, fmt.Errorf("%w: peers have messages of 8 bytes or more", ErrOptions)
	}
	if p.OneProcess {
		o.Pin = nil // goroutines go where there is room
	}
	return measure(ctx, o, workload, func(s *stage) error {
		dir, err := os.MkdirTemp("", "kbus-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if p.clean != nil {
			defer p.clean(dir)
		}
		defer s.clear() // before the directory goes
		s.peer, s.peerDir = p.Name, dir
		r := s.result
		r.System, r.Size, r.InPlace = p.Name, s.o.Size, p.InPlace
		if p.Waits {
			r.Wait = s.o.Wait
		}
		return f(s)
	})
}

// cast has processes for the roles enter and play.
func (s *stage) cast(roles []string) ([]*report, error) {
	if err := s.enter(roles...); err != nil {
		return nil, err
	}
	return s.play()
}

// Roles of peers.
const (
	roleAnswer   = "peer answerer"
	roleAsk      = "peer asker"
	roleBoth     = "goroutines"
	roleListen   = "peer listener"
	roleAnnounce = "peer announcer"
	roleBothFan  = "fan of goroutines"
)

func init() {
	for name, role := range map[string]func(*worker, *Peer, *PeerTask) (*report, error){
		roleAnswer: peerAnswer, roleAsk: peerAsk, roleBoth: peerBoth,
		roleListen: peerListen, roleAnnounce: peerAnnounce, roleBothFan: peerBothFan,
	} {
		roles[name] = func(w *worker) (*report, error) {
			for i := range w.peers {
				if p := &w.peers[i]; p.Name == w.Peer {
					return role(w, p, w.peerTask())
				}
			}
			return nil, fmt.Errorf("no peer %q", w.Peer)
		}
	}
}

func (w *worker) peerTask() *PeerTask {
	return &PeerTask{
		Context: w.ctx, Dir: w.PeerDir, Size: w.Size, Wait: w.Wait, Index: w.Index, Listeners: w.Listeners,
		begin: func() error { return w.begin(report{}) },
	}
}

func peerAnswer(_ *worker, p *Peer, t *PeerTask) (*report, error) {
	n, err := p.Answer(t)
	return &report{Messages: n}, err
}

func peerAsk(w *worker, p *Peer, t *PeerTask) (*report, error) {
	ask, end, err := p.Ask(t)
	if err != nil {
		return nil, err
	}
	if err := t.Begin(); err != nil {
		return nil, err
	}
	n, message := uint64(0), make([]byte, t.Size)
	r, err := w.timed(1, step{do: func() error {
		n++
		mark(message, n)
		answer, err := ask(message)
		if err != nil {
			return err
		}
		if !marked(answer, t.Size, n) {
			return fmt.Errorf("message %d came back as another one", n)
		}
		return nil
	}})
	return r, errors.Join(err, end())
}

func peerBoth(w *worker, p *Peer, t *PeerTask) (*report, error) {
	prepared := make(chan struct{})
	t.local = newChannels(t)
	t.begin = func() error {
		close(prepared)
		return nil
	}
	failed := make(chan error, 1)
	go func() {
		_, err := p.Answer(t)
		failed <- err
	}()
	<-prepared
	t.begin = func() error { return w.begin(report{}) }
	r, err := peerAsk(w, p, t)
	if err != nil {
		return nil, err
	}
	return r, <-failed
}

func peerListen(_ *worker, p *Peer, t *PeerTask) (*report, error) {
	n, begin := uint64(0), int64(0)
	err := p.Listen(t, func(message []byte) error {
		if begin == 0 {
			begin = now()
		}
		n++
		if !marked(message, t.Size, n) {
			return fmt.Errorf("another message than number %d", n)
		}
		return nil
	})
	return &report{Messages: int64(n), Elapsed: time.Duration(now() - begin)}, err
}

func peerAnnounce(w *worker, p *Peer, t *PeerTask) (*report, error) {
	send, end, err := p.Announce(t)
	if err != nil {
		return nil, err
	}
	if err := t.Begin(); err != nil {
		return nil, err
	}
	n, message := uint64(0), make([]byte, t.Size)
	for begin := now(); err == nil && now()-begin < int64(w.Duration); {
		for range min(16, 1+64<<10/(t.Size+1)) {
			n++
			mark(message, n)
			if err = send(message); err != nil {
				break
			}
		}
	}
	return &report{Messages: int64(n)}, errors.Join(err, end())
}

// peerBothFan reports the slowest of all goroutines that listen.
func peerBothFan(w *worker, p *Peer, t *PeerTask) (*report, error) {
	prepared, failed := make(chan struct{}), make(chan error)
	reports := make([]*report, t.Listeners+1)
	t.local = newChannels(t)
	for i := range t.Listeners {
		own := *t
		own.Index = i
		own.begin = func() error {
			prepared <- struct{}{}
			return nil
		}
		go func() {
			r, err := peerListen(w, p, &own)
			reports[i] = r
			failed <- err
		}()
	}
	for range t.Listeners {
		<-prepared
	}
	go func() {
		r, err := peerAnnounce(w, p, t)
		reports[t.Listeners] = r
		failed <- err
	}()
	for range reports {
		if err := <-failed; err != nil {
			return nil, err
		}
	}
	slow, sent := &report{}, reports[t.Listeners].Messages
	for _, r := range reports[:t.Listeners] {
		if r.Messages != sent {
			return nil, fmt.Errorf("%d of %d messages came", r.Messages, sent)
		}
		if r.Elapsed >= slow.Elapsed {
			slow = r
		}
	}
	return slow, nil
}
