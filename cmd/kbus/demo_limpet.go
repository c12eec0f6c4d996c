package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
)

// limpetProcess is one Limpet of a pair, seen from the demo.
type limpetProcess struct {
	name string
	args []string
	cmd  *exec.Cmd
	out  *bufio.Scanner // its events
}

// limpetStarts starts a Limpet.
func (d *demo) limpetStarts(l *limpetProcess) {
	if d.err != nil {
		return
	}
	l.cmd = exec.Command(d.exe, append([]string{"limpet", "--json", "--socket", d.socket}, l.args...)...)
	var out io.Reader
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = d.troupe.start(l.cmd)
	}
	if err != nil {
		d.fail("start %s: %w", l.name, err)
		return
	}
	l.out = bufio.NewScanner(out)
	d.says(&actor{name: l.name}, "attaches itself as process %d", l.cmd.Process.Pid)
}

// limpetLinked waits until a Limpet says that it is linked.
func (d *demo) limpetLinked(l *limpetProcess) {
	for d.err == nil {
		if !l.out.Scan() {
			d.fail("%s ended", l.name)
			return
		}
		var event struct {
			Msg         string
			Peer, Ksock uint32
		}
		if err := json.Unmarshal(l.out.Bytes(), &event); err != nil {
			d.fail("%s says %q: %w", l.name, l.out.Text(), err)
		}
		if event.Msg == "linked" {
			d.says(&actor{name: l.name}, "is Ksock %d on its bus, and linked to network %d", event.Ksock, event.Peer)
			return
		}
	}
}

// sees waits until a knows a Replier.
func (d *demo) sees(a *actor, name string) {
	r := d.do(a, cue{Do: cueSees, Name: name})
	d.says(a, "sees that Ksock %d replies to %s here", r.Ksock, name)
}

const (
	bubble  = "$.Fish.Bubble"
	fish    = "$.Fish.*"
	askFish = "$.Fish.Ask"
)

// bowls plays the introduction to Limpets: two bowls of fish.
func (d *demo) bowls() {
	fmt.Fprintln(d.out, "Four fish in two bowls, and a pair of Limpets.")
	if _, err := d.troupe.supervise(d.exe, d.socket, "--buses", "4"); err != nil {
		d.fail("start a supervisor: %w", err)
		return
	}
	d.scene("Two bowls")
	d.remark("A and B live in a bowl, which is bus 0; R and G in another, bus 3.")
	fishA, fishB := d.enterBus("A", 0, 1), d.enterBus("B", 0, 2)
	fishR, fishG := d.enterBus("R", 3, 1), d.enterBus("G", 3, 2)
	for _, a := range []*actor{fishB, fishR, fishG} {
		d.bind(a, listener, fish)
	}
	d.announce(fishA, bubble, "Blub")
	d.hears(fishB, announcement, bubble, "Blub")
	d.hearsNothing(fishR)
	d.hearsNothing(fishG)

	d.scene("A pair of Limpets")
	link := d.socket + "-link"
	limpet1 := &limpetProcess{name: "Limpet 1", args: []string{"--network-id", "1", "--bus", "0", "--listen", link}}
	limpet2 := &limpetProcess{name: "Limpet 2", args: []string{"--network-id", "2", "--bus", "3", "--connect", link}}
	d.limpetStarts(limpet2)
	d.remark("It does not matter which is first.")
	d.limpetStarts(limpet1)
	d.limpetLinked(limpet1)
	d.limpetLinked(limpet2)
	d.announce(fishA, bubble, "Is anybody there?")
	for _, a := range []*actor{fishB, fishR, fishG} {
		d.hears(a, announcement, bubble, "Is anybody there?")
	}
	d.announce(fishG, bubble, "I am")
	for _, a := range []*actor{fishB, fishR, fishG} {
		d.hears(a, announcement, bubble, "I am")
	}
	d.remark("As if they were all in one bowl. Only the message's id tells: 2 is the\nnetwork that it came from.")

	d.scene("Requests across")
	d.bind(fishG, replier, askFish)
	d.sees(fishA, askFish)
	d.remark("Limpet 1 is the proxy of G in A's bowl.")
	d.request(fishA, askFish, "Who are you?")
	d.hears(fishG, marked, askFish, "Who are you?")
	d.hears(fishG, request, askFish, "Who are you?")
	d.reply(fishG, "A goldfish")
	d.hears(fishA, reply, askFish, "A goldfish")
	d.do(fishA, cue{Do: cueRemember})
	d.hears(fishG, reply, askFish, "A goldfish")
	for _, a := range []*actor{fishB, fishR} {
		d.hears(a, request, askFish, "Who are you?")
		d.hears(a, reply, askFish, "A goldfish")
	}
	d.remark("A would like to know more, from the very same fish.")
	d.unbind(fishG, listener, fish)
	d.stateful(fishA, askFish, "Metaphorical?")
	d.hears(fishG, marked, askFish, "Metaphorical?")
	d.reply(fishG, "Yes")
	d.hears(fishA, reply, askFish, "Yes")

	d.scene("A Limpet dies")
	d.request(fishA, askFish, "Are you still there?")
	d.hears(fishG, marked, askFish, "Are you still there?")
	if d.err != nil {
		return
	}
	if err := (&actor{cmd: limpet2.cmd}).kill(); err != nil {
		d.fail("kill %s: %w", limpet2.name, err)
		return
	}
	d.says(&actor{name: limpet2.name}, "is killed (SIGKILL)")
	d.hears(fishA, status, "$.KBUS.Replier.Ignored", "")
	d.remark("Every Request is answered. The next Limpet takes the place of the last.")
	d.limpetStarts(limpet2)
	d.limpetLinked(limpet2)
	d.sees(fishA, askFish)
	d.request(fishA, askFish, "And now?")
	d.hears(fishG, marked, askFish, "And now?")
	d.reply(fishG, "Here I am")
	d.hears(fishA, reply, askFish, "Here I am")
	d.hearsNothing(fishA)
	for _, a := range []*actor{fishA, fishB, fishR, fishG} {
		d.leaves(a)
	}
}
