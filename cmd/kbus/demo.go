package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func demoCommand() *cobra.Command {
	limpets := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it all work, with no set-up",
		Long: `Play the introduction to KBUS: Rosencrantz, Guildenstern, Falstaff and their
audience, each a process of its own, on a bus of their own. At the end one of
them is killed while others wait for its answers.

It needs no supervisor and leaves nothing behind. It exits with 1 if anybody
hears something else than they should.`,
		Example: `  kbus demo
  kbus demo --limpet`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			play := (*demo).play
			if limpets {
				play = (*demo).bowls
			}
			return runDemo(cmd.Context(), cmd.OutOrStdout(), play)
		},
	}
	cmd.Flags().BoolVar(&limpets, "limpet", false, "show two buses joined by a pair of Limpets instead")
	return cmd
}

// demo is one performance. The first thing that goes wrong ends it: the
// methods do nothing once err is set.
type demo struct {
	out    io.Writer
	exe    string
	socket string
	troupe troupe
	err    error
}

func runDemo(ctx context.Context, out io.Writer, play func(*demo)) error {
	// Children are to die with the thread that started them (see start), so
	// that one has to stay.
	runtime.LockOSThread()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kbus-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{out: out, exe: exe, socket: filepath.Join(dir, "socket")}
	defer d.troupe.dismiss()
	defer context.AfterFunc(ctx, d.troupe.kill)()

	play(d)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return d.err
}

func (d *demo) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *demo) scene(title string) {
	if d.err == nil {
		fmt.Fprintf(d.out, "\n== %s\n", title)
	}
}

// remark is the narrator's.
func (d *demo) remark(format string, args ...any) {
	if d.err == nil {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintln(d.out, "    "+strings.ReplaceAll(text, "\n", "\n    "))
	}
}

// says is a line about an actor.
func (d *demo) says(a *actor, format string, args ...any) {
	if d.err == nil {
		fmt.Fprintf(d.out, "%-13s%s\n", a.name, fmt.Sprintf(format, args...))
	}
}

// enter starts an actor's process, which opens a Ksock.
func (d *demo) enter(name string, id uint32) *actor { return d.enterBus(name, 0, id) }

func (d *demo) enterBus(name string, bus int, id uint32) *actor {
	a := &actor{name: name}
	if d.err != nil {
		return a
	}
	if err := a.start(&d.troupe, d.exe, d.socket, bus); err != nil {
		d.fail("start %s: %w", name, err)
		return a
	}
	r := d.do(a, cue{Do: cueOpen})
	d.says(a, "enters as process %d and opens bus %d: Ksock %d", a.pid(), bus, r.Ksock)
	if r.Ksock != id {
		d.fail("%s should be Ksock %d", name, id)
	}
	return a
}

// do gives an actor a cue that has to succeed.
func (d *demo) do(a *actor, c cue) result {
	if d.err != nil {
		return result{}
	}
	r, err := a.do(c)
	switch {
	case err != nil:
		d.fail("%s: %w", a.name, err)
	case r.Err != "":
		d.fail("%s: %s", a.name, r.Err)
	}
	return r
}

func (d *demo) bind(a *actor, role, name string) {
	d.do(a, cue{Do: cueBind, Role: role, Name: name})
	d.says(a, "binds to %s as %s", name, role)
}

func (d *demo) unbind(a *actor, role, name string) {
	d.do(a, cue{Do: cueUnbind, Role: role, Name: name})
	d.says(a, "unbinds from %s as %s", name, role)
}

func (d *demo) announce(a *actor, name, data string) {
	r := d.do(a, cue{Do: cueAnnounce, Name: name, Data: data})
	d.says(a, "announces %s %q (message %s)", name, data, r.ID)
}

func (d *demo) request(a *actor, name, data string) {
	r := d.do(a, cue{Do: cueRequest, Name: name, Data: data})
	d.says(a, "requests %s %q (message %s)", name, data, r.ID)
}

// stateful sends a Request to whoever sent the Reply that a remembers.
func (d *demo) stateful(a *actor, name, data string) {
	r := d.do(a, cue{Do: cueStateful, Name: name, Data: data})
	d.says(a, "requests %s %q of Ksock %d and nobody else (message %s)", name, data, r.To, r.ID)
}

// reply answers the Request that a was last asked to answer.
func (d *demo) reply(a *actor, data string) {
	r := d.do(a, cue{Do: cueReply, Data: data})
	d.says(a, "replies %q (message %s)", data, r.ID)
}

// hears lets a read its next message, which has to be of that kind and data.
func (d *demo) hears(a *actor, kind, name, data string) {
	r := d.do(a, cue{Do: cueHear})
	d.says(a, "hears     %s", r)
	if r.Kind != kind || r.Name != name || r.Data != data {
		d.fail("%s should have heard a %s %s %q", a.name, kind, name, data)
	}
}

// hearsNothing checks that a has no message left.
func (d *demo) hearsNothing(a *actor) {
	r := d.do(a, cue{Do: cueMore})
	if r.Kind != "" {
		d.fail("%s should have heard nothing more, but hears %s", a.name, r)
	}
	d.says(a, "hears nothing more")
}

func (d *demo) leaves(a *actor) {
	if d.err != nil {
		return
	}
	if err := a.leave(); err != nil {
		d.fail("%s: %w", a.name, err)
	}
	d.says(a, "leaves")
}

// Kinds of messages as hears expects them.
const (
	announcement = "Announcement"
	request      = "Request"
	marked       = "Request to answer" // the one copy that its reader must answer
	reply        = "Reply"
	status       = "Status"

	listener = "Listener"
	replier  = "Replier"

	speak    = "$.Actor.Speak"
	anything = "$.Actor.*"
	ask      = "$.Actor.Ask.Guildenstern"
	coinToss = "$.Actor.CoinToss"
)

func (d *demo) play() {
	fmt.Fprintln(d.out, "A play for four processes and a supervisor. It is the introduction to KBUS.")
	pid, err := d.troupe.supervise(d.exe, d.socket)
	if err != nil {
		d.fail("start a supervisor: %w", err)
		return
	}
	d.remark("The supervisor is process %d; its socket is %s.", pid, d.socket)
	rosencrantz, guildenstern, audience := d.sendersAndListeners()
	d.requestsAndRepliers(rosencrantz, guildenstern, audience)
	falstaff := d.statefulRequests(rosencrantz, guildenstern, audience)
	d.death(rosencrantz, falstaff, audience)
	d.scene("Tidying up")
	d.hearsNothing(rosencrantz)
	d.hearsNothing(audience)
	for _, a := range []*actor{rosencrantz, guildenstern, audience} {
		d.leaves(a)
	}
}

func (d *demo) sendersAndListeners() (rosencrantz, guildenstern, audience *actor) {
	d.scene("Senders and Listeners")
	rosencrantz = d.enter("Rosencrantz", 1)
	d.announce(rosencrantz, speak, "Ahem")
	d.remark("It is no error that nobody was listening.")
	audience = d.enter("Audience", 2)
	d.bind(audience, listener, speak)
	d.announce(rosencrantz, speak, "Ahem")
	d.hears(audience, announcement, speak, "Ahem")
	d.hearsNothing(audience)
	d.announce(rosencrantz, speak, "Hello there")
	d.announce(rosencrantz, speak, "Can you hear me?")
	d.hears(audience, announcement, speak, "Hello there")
	d.hears(audience, announcement, speak, "Can you hear me?")

	d.remark("Now with wildcards: everything whose name begins with $.Actor.")
	guildenstern = d.enter("Guildenstern", 3)
	d.bind(guildenstern, listener, anything)
	d.bind(audience, listener, anything)
	d.bind(rosencrantz, listener, anything)
	d.announce(guildenstern, speak, "Pssst!")
	d.hears(guildenstern, announcement, speak, "Pssst!")
	d.hears(rosencrantz, announcement, speak, "Pssst!")
	d.hears(audience, announcement, speak, "Pssst!")
	d.hears(audience, announcement, speak, "Pssst!")
	d.remark("The audience hears it twice, because it is bound twice: to %s\nand to %s. So it unbinds from one of them.", speak, anything)
	d.unbind(audience, listener, speak)
	return rosencrantz, guildenstern, audience
}

func (d *demo) requestsAndRepliers(rosencrantz, guildenstern, audience *actor) {
	d.scene("Requests and Repliers")
	d.bind(guildenstern, replier, ask)
	d.request(rosencrantz, ask, "Were you speaking to me?")
	d.hears(rosencrantz, request, ask, "Were you speaking to me?")
	d.remark("Rosencrantz still hears himself speaking. He undoes that.")
	d.unbind(rosencrantz, listener, anything)
	d.hears(guildenstern, marked, ask, "Were you speaking to me?")
	d.hears(guildenstern, request, ask, "Were you speaking to me?")
	d.remark("Two copies: the first is marked for its reader to answer; the second came\nbecause Guildenstern listens, too. He need not.")
	d.unbind(guildenstern, listener, anything)
	d.reply(guildenstern, "Yes, yes I was")
	d.hearsNothing(guildenstern)
	d.hears(rosencrantz, reply, ask, "Yes, yes I was")
	d.remark("The audience was listening to all of it.")
	d.hears(audience, request, ask, "Were you speaking to me?")
	d.hears(audience, reply, ask, "Yes, yes I was")
	d.hearsNothing(audience)
}

func (d *demo) statefulRequests(rosencrantz, guildenstern, audience *actor) (falstaff *actor) {
	d.scene("Stateful requests")
	d.request(rosencrantz, ask, "Will you count heads for me?")
	d.hears(guildenstern, marked, ask, "Will you count heads for me?")
	d.reply(guildenstern, "Yes, yes I shall")
	d.bind(guildenstern, replier, coinToss)
	d.hears(rosencrantz, reply, ask, "Yes, yes I shall")
	d.do(rosencrantz, cue{Do: cueRemember})
	for heads := 1; heads <= 2; heads++ {
		count := fmt.Sprintf("Head count is %d", heads)
		d.stateful(rosencrantz, coinToss, "Head")
		d.hears(guildenstern, marked, coinToss, "Head")
		d.reply(guildenstern, count)
		d.hears(rosencrantz, reply, coinToss, count)
	}
	d.remark("Falstaff intervenes, and forces Guildenstern to disconnect.")
	d.do(guildenstern, cue{Do: cueClose})
	d.says(guildenstern, "\"Falstaff! No! Ouch!\" (closes Ksock 3)")
	falstaff = d.enter("Falstaff", 4)
	d.bind(falstaff, replier, coinToss)
	if d.err == nil {
		r, err := rosencrantz.do(cue{Do: cueStateful, Name: coinToss, Data: "Head"})
		switch {
		case err != nil:
			d.fail("Rosencrantz: %w", err)
		case r.Errno != int(unix.EPIPE):
			d.fail("Rosencrantz should have got EPIPE, but got %q", r.Err)
		}
		d.says(rosencrantz, "requests %s \"Head\" of Ksock %d and nobody else, and gets an error:", coinToss, r.To)
		d.remark("%s", r.Err)
		d.remark("(kbus errno EPIPE) %s", busMeanings[unix.EPIPE][0])
	}
	d.hearsNothing(falstaff)
	d.remark("From the audience's point of view:")
	d.hears(audience, request, ask, "Will you count heads for me?")
	d.hears(audience, reply, ask, "Yes, yes I shall")
	d.hears(audience, request, coinToss, "Head")
	d.hears(audience, reply, coinToss, "Head count is 1")
	d.hears(audience, request, coinToss, "Head")
	d.hears(audience, reply, coinToss, "Head count is 2")
	d.hearsNothing(audience)
	return falstaff
}

// death kills Falstaff while he owes two answers.
func (d *demo) death(rosencrantz, falstaff, audience *actor) {
	d.scene("A death")
	d.request(rosencrantz, coinToss, "Where is Guildenstern?")
	d.hears(falstaff, marked, coinToss, "Where is Guildenstern?")
	d.request(rosencrantz, coinToss, "Well?")
	d.remark("Falstaff has read the first question and not the second. Rosencrantz waits.")
	if d.err != nil {
		return
	}
	if err := rosencrantz.await(2); err != nil {
		d.fail("Rosencrantz: %w", err)
		return
	}
	killed := monotonic()
	if err := falstaff.kill(); err != nil {
		d.fail("kill Falstaff: %w", err)
		return
	}
	d.says(falstaff, "is killed (SIGKILL)")
	for _, want := range []string{"$.KBUS.Replier.GoneAway", "$.KBUS.Replier.Ignored"} {
		r, err := rosencrantz.result()
		if err != nil || r.Err != "" {
			d.fail("Rosencrantz: %w", errors.Join(err, errors.New(r.Err)))
			return
		}
		d.says(rosencrantz, "hears     %s, %d µs after the kill", r, (time.Duration(r.At) - killed).Microseconds())
		if r.Kind != status || r.Name != want {
			d.fail("Rosencrantz should have heard a Status %s", want)
		}
	}
	d.remark("Each Request is answered: what its Replier has not read is GoneAway, and\nwhat it has read is Ignored. Listeners do not hear a Status.")
	d.hears(audience, request, coinToss, "Where is Guildenstern?")
	d.hears(audience, request, coinToss, "Well?")
}

// monotonic is the clock that all processes of the machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
