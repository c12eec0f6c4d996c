package limpet_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kbus.internal/ksock"
)

// A wire is two network namespaces joined by a veth pair.
type wire struct {
	s      *stage
	spaces [2]string
}

// newWire makes one, or says why it can't.
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
	if out, err := exec.Command("ip", "link", "add", "veth0", "netns", w.spaces[0], "type", "veth", "peer", "name", "veth0", "netns", w.spaces[1]).CombinedOutput(); err != nil {
		s.Skipf("no veth pair can be made here: %s", out)
	}
	for i := range w.spaces {
		w.run(i, fmt.Sprintf("ip addr add 10.77.0.%d/24 dev veth0", i+1))
		w.run(i, "ip link set lo up")
		w.run(i, "ip link set veth0 up")
	}
	return w
}

// run runs a command in a namespace.
func (w *wire) run(i int, command string) {
	w.s.Helper()
	args := append([]string{"netns", "exec", w.spaces[i]}, strings.Fields(command)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.s.Fatalf("%s: %v: %s", command, err, out)
	}
}

// netem makes the wire bad, if the kernel can do that.
func (w *wire) netem(i int, how string) bool {
	out, err := exec.Command("ip", strings.Fields("netns exec "+w.spaces[i]+" tc qdisc replace dev veth0 root netem "+how)...).CombinedOutput()
	if err != nil {
		w.s.Logf("the kernel has no netem, so nothing is delayed or lost: %s", out)
	}
	return err == nil
}

// TestAcrossMachines: two buses whose Limpets are in network namespaces of their own,
// joined by TCP over a wire with delay and loss, and one that is cut without a word:
// both ends notice, all Requests are answered, and traffic resumes by itself.
func TestAcrossMachines(t *testing.T) {
	s := newStage(t, 2)
	w := s.newWire()
	for i := range 2 {
		w.netem(i, "delay 3ms 1ms loss 3%")
	}
	space := func(i int) []string { return []string{"ip", "netns", "exec", w.spaces[i]} }
	a := &process{part: part{Socket: s.sups[0].Socket, NetworkID: 1, Listen: "10.77.0.1:7000", MaxMessages: 4000}, prefix: space(0)}
	b := &process{part: part{Socket: s.sups[1].Socket, NetworkID: 2, Connect: "10.77.0.1:7000", MaxMessages: 4000}, prefix: space(1)}
	for _, p := range []*process{s.sups[0], s.sups[1], b, a} {
		s.start(p)
	}
	end := s.joined()
	s.heardOnce(20)
	end()
	far := s.open(1).bind("$.Far", ksock.Replier)
	near := s.open(0).bind("$.Close", ksock.Replier)
	far.answers()
	near.answers()
	asker, back := s.open(0), s.open(1)
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
		w.run(cut, "ip link set veth0 down")
		// Both directions have something on the way, and get to know that it is lost.
		asker.status(ksock.Request("$.Far", nil), ksock.StatusIgnored)
		asker.sees("$.Far", false)
		back.sees("$.Close", false) // its Limpet had nothing to send: the keep-alive has noticed
		w.run(cut, "ip link set veth0 up")
		asker.sees("$.Far", true)
		back.sees("$.Close", true)
		asker.call(ksock.Request("$.Far", nil))
		back.call(ksock.Request("$.Close", nil))
	}
	s.idle()
}
