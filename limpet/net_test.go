package limpet_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
)

// A wire joins two network namespaces, in each of which its end is named wire0.
type wire struct {
	s      *stage
	spaces [2]string
}

// newWire makes the namespaces, or says why it can't.
func (s *stage) newWire() *wire {
	s.Helper()
	w := &wire{s: s}
	if os.Getuid() != 0 {
		s.Skip("making network namespaces takes root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			s.Skipf("no %s (package iproute2) on this machine", tool)
		}
	}
	for i := range w.spaces {
		w.spaces[i] = fmt.Sprintf("kbus-%d-%d", os.Getpid(), i)
		if out, err := exec.Command("ip", "netns", "add", w.spaces[i]).CombinedOutput(); err != nil {
			s.Skipf("no network namespace can be made here: %s", out)
		}
		s.Cleanup(func() { exec.Command("ip", "netns", "del", w.spaces[i]).Run() })
	}
	return w
}

// cable makes the wire of a veth pair.
func (w *wire) cable() {
	w.s.Helper()
	if out, err := exec.Command("ip", "link", "add", "wire0", "netns", w.spaces[0], "type", "veth", "peer", "name", "wire0", "netns", w.spaces[1]).CombinedOutput(); err != nil {
		w.s.Skipf("no veth pair can be made here: %s", out)
	}
}

// up gives the ends their addresses.
func (w *wire) up() {
	w.s.Helper()
	for i := range w.spaces {
		w.run(i, fmt.Sprintf("ip addr add 10.77.0.%d/24 dev wire0", i+1))
		w.run(i, "ip link set lo up")
		w.run(i, "ip link set wire0 up")
	}
}

// run runs a command in a namespace.
func (w *wire) run(i int, command string) {
	w.s.Helper()
	args := append([]string{"netns", "exec", w.spaces[i]}, strings.Fields(command)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.s.Fatalf("%s: %v: %s", command, err, out)
	}
}

// What a bad wire does to each packet.
const (
	badDelay  = 3 * time.Millisecond
	badJitter = time.Millisecond
	badLoss   = 0.03
)

// bad makes a wire that delays and loses packets: a veth pair with netem, if the
// kernel has that, else two tun devices with this process between them.
func (w *wire) bad() {
	w.s.Helper()
	w.cable()
	for i := range w.spaces {
		how := fmt.Sprintf("netns exec %s tc qdisc replace dev wire0 root netem delay %dus %dus loss %g%%",
			w.spaces[i], badDelay.Microseconds(), badJitter.Microseconds(), 100*badLoss)
		out, err := exec.Command("ip", strings.Fields(how)...).CombinedOutput()
		if err == nil {
			continue
		}
		w.s.Logf("the kernel has no netem (%s), so packets are delayed and lost between two tun devices", strings.TrimSpace(string(out)))
		w.run(i, "ip link del wire0")
		w.relay()
		return
	}
}

// relay makes the wire of two tun devices.
func (w *wire) relay() {
	w.s.Helper()
	seed := rand.Uint64()
	w.s.Logf("the seed of the losses is %d", seed)
	var ends [2]*os.File
	for i, space := range w.spaces {
		f, err := tun(space)
		if err != nil {
			w.s.Skipf("no tun device can be made here: %v", err)
		}
		w.s.Cleanup(func() { f.Close() })
		ends[i] = f
	}
	var sent, lost atomic.Int64
	for i := range ends {
		go carry(ends[i], ends[1-i], rand.New(rand.NewPCG(seed, uint64(i))), &sent, &lost)
	}
	w.s.Cleanup(func() {
		w.s.Logf("of %d packets %d were lost", sent.Load(), lost.Load())
		if lost.Load() == 0 {
			w.s.Error("the bad wire lost no packet")
		}
	})
}

// tun makes the device wire0 in a namespace.
func tun(space string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine: it is in another namespace
		f, err := func() (*os.File, error) {
			ns, err := os.Open("/var/run/netns/" + space)
			if err != nil {
				return nil, err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, os.NewSyscallError("setns", err)
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
			}
			r, err := unix.NewIfreq("wire0")
			if err == nil {
				r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
				err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
			}
			if err != nil {
				unix.Close(fd)
				return nil, err
			}
			return os.NewFile(uintptr(fd), "tun"), nil // only now can it be polled
		}()
		made <- result{f, err}
	}()
	r := <-made
	return r.f, r.err
}

// carry carries packets from one device to the other, late and not all of them.
func carry(from, to *os.File, r *rand.Rand, sent, lost *atomic.Int64) {
	type packet struct {
		due  time.Time
		data []byte
	}
	under := make(chan packet, 10000) // way; more than that is lost, too
	go func() {
		for p := range under {
			<-time.After(time.Until(p.due))
			to.Write(p.data) // an end that is down takes nothing
		}
	}()
	defer close(under)
	for {
		buf := make([]byte, 2000)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		sent.Add(1)
		p := packet{time.Now().Add(badDelay + rand.N(2*badJitter) - badJitter), buf[:n]}
		if r.Float64() < badLoss {
			lost.Add(1)
			continue
		}
		select {
		case under <- p:
		default:
			lost.Add(1)
		}
	}
}

// TestAcrossMachines: a chain of three buses, the last of which is in a network
// namespace of its own, joined by TCP over a good wire, and one with delay and loss,
// that is then cut without a word: both ends notice, all Requests are answered, and
// traffic resumes by itself.
func TestAcrossMachines(t *testing.T) {
	t.Run("good wire", func(t *testing.T) { acrossMachines(t, (*wire).cable) })
	t.Run("bad wire", func(t *testing.T) { acrossMachines(t, (*wire).bad) })
}

func acrossMachines(t *testing.T, join func(*wire)) {
	s, limpets := chain(t)
	w := s.newWire()
	join(w)
	w.up()
	limpets[2].Listen, limpets[3].Connect = "10.77.0.1:7000", "10.77.0.1:7000"
	for i := range w.spaces {
		limpets[2+i].prefix = []string{"ip", "netns", "exec", w.spaces[i]}
	}
	for _, p := range append(slices.Clone(s.sups), limpets...) {
		s.start(p)
	}
	end := s.joined()
	s.heardOnce(20)
	s.endToEnd()
	end()
	far := s.open(2).bind("$.Far", ksock.Replier)
	near := s.open(0).bind("$.Close", ksock.Replier)
	far.answers()
	near.answers()
	asker, back := s.open(0), s.open(2)
	asker.sees("$.Far", true)
	back.sees("$.Close", true)
	for _, way := range []struct {
		*actor
		name string
	}{{asker, "$.Far"}, {back, "$.Close"}} {
		for range 20 {
			way.call(ksock.Request(way.name, make([]byte, 30000)))
		}
	}
	for cut := range 2 {
		w.run(cut, "ip link set wire0 down")
		// Both directions have something on the way, and get to know that it is lost.
		asker.status(ksock.Request("$.Far", nil), ksock.StatusIgnored)
		asker.sees("$.Far", false)
		back.sees("$.Close", false) // its Limpet had nothing to send: the keep-alive has noticed
		w.run(cut, "ip link set wire0 up")
		asker.sees("$.Far", true)
		back.sees("$.Close", true)
		asker.call(ksock.Request("$.Far", nil))
		back.call(ksock.Request("$.Close", nil))
	}
	s.idle()
}
