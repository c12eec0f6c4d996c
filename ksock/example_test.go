package ksock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// bus starts a supervisor for one example; a program would find the one that
// "kbus up" runs.
func bus() (o *ksock.Options, end func()) {
	dir, err := os.MkdirTemp("", "kbus")
	check(err)
	s, err := supervisor.Start(supervisor.Options{Socket: filepath.Join(dir, "socket"), Bus: ring.Config{ArenaBytes: 8 << 20, MaxMessageSize: 4 << 20}})
	check(err)
	return &ksock.Options{Socket: s.Socket()}, func() {
		s.Close()
		os.RemoveAll(dir)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Announce and listen.
func Example() {
	options, end := bus()
	defer end()
	ctx := context.Background()

	audience, err := ksock.Open(ctx, 0, options)
	check(err)
	defer audience.Close()
	check(audience.Bind(ctx, "$.Actor.*", ksock.Listener))

	rosencrantz, err := ksock.Open(ctx, 0, options)
	check(err)
	defer rosencrantz.Close()
	_, err = rosencrantz.Send(ctx, ksock.Announce("$.Actor.Speak", []byte("Ahem")))
	check(err)

	m, err := audience.Next(ctx)
	check(err)
	fmt.Println(m)
	// Output: Announcement $.Actor.Speak id 0:1 from 2 "Ahem"
}

// Request and reply.
func ExampleKsock_Call() {
	options, end := bus()
	defer end()
	ctx := context.Background()

	guildenstern, err := ksock.Open(ctx, 0, options)
	check(err)
	check(guildenstern.Bind(ctx, "$.Actor.Ask.Guildenstern", ksock.Replier))
	go func() {
		for m := range guildenstern.Messages(ctx) {
			if m.MustReply() {
				_, err := guildenstern.Send(ctx, ksock.ReplyTo(m, []byte("Yes, yes I was")))
				check(err)
			}
		}
	}()

	rosencrantz, err := ksock.Open(ctx, 0, options)
	check(err)
	defer rosencrantz.Close()
	reply, err := rosencrantz.Call(ctx, ksock.Request("$.Actor.Ask.Guildenstern", []byte("Were you speaking to me?")))
	check(err)
	fmt.Printf("%s\n", reply.Data)

	guildenstern.Close()
	_, err = rosencrantz.Call(ctx, ksock.Request("$.Actor.Ask.Guildenstern", nil))
	fmt.Println(err, errors.Is(err, ksock.ErrNoReplier), errors.Is(err, unix.EADDRNOTAVAIL))
	// Output:
	// Yes, yes I was
	// Ksock 2: call $.Actor.Ask.Guildenstern: nobody is Replier for the name (EADDRNOTAVAIL) true true
}

// A frame in place: nobody copies it, whatever the number of Listeners.
func ExampleKsock_Loan() {
	options, end := bus()
	defer end()
	ctx := context.Background()
	camera, err := ksock.Open(ctx, 0, options)
	check(err)
	defer camera.Close()
	screen, err := ksock.Open(ctx, 0, options)
	check(err)
	defer screen.Close()
	check(screen.Bind(ctx, "$.Video.Frame", ksock.Listener))

	loan, err := camera.Loan(1920 * 1080)
	check(err)
	frame := loan.Data()
	for i := range frame {
		frame[i] = byte(i)
	}
	_, err = camera.SendLoan(ctx, &ksock.Header{Name: "$.Video.Frame"}, loan)
	check(err)

	view, err := screen.View(ctx)
	check(err)
	fmt.Println(len(view.Data()), view.Data()[1919])
	view.Release()
	// Output: 2073600 127
}

// A conversation with one Replier, which fails when another takes its place.
func ExampleStatefulRequest() {
	options, end := bus()
	defer end()
	ctx := context.Background()
	guildenstern, err := ksock.Open(ctx, 0, options)
	check(err)
	check(guildenstern.Bind(ctx, "$.Actor.CoinToss", ksock.Replier))
	rosencrantz, err := ksock.Open(ctx, 0, options)
	check(err)
	defer rosencrantz.Close()

	_, err = rosencrantz.Send(ctx, ksock.Request("$.Actor.CoinToss", []byte("Head")))
	check(err)
	toss, err := guildenstern.Next(ctx)
	check(err)
	_, err = guildenstern.Send(ctx, ksock.ReplyTo(toss, []byte("Head count is 1")))
	check(err)
	count, err := rosencrantz.Next(ctx)
	check(err)
	fmt.Printf("%s\n", count.Data)

	guildenstern.Close()
	falstaff, err := ksock.Open(ctx, 0, options)
	check(err)
	defer falstaff.Close()
	check(falstaff.Bind(ctx, "$.Actor.CoinToss", ksock.Replier))
	_, err = rosencrantz.Send(ctx, ksock.StatefulRequest(count, "$.Actor.CoinToss", []byte("Head")))
	fmt.Println(err)
	// Output:
	// Head count is 1
	// Ksock 2: send $.Actor.CoinToss (Ksock 1): the Replier is not the Ksock addressed (EPIPE)
}

// A Ksock beside other descriptors: the file is readable while messages wait.
func ExampleKsock_File() {
	options, end := bus()
	defer end()
	ctx := context.Background()
	k, err := ksock.Open(ctx, 0, options)
	check(err)
	defer k.Close()
	check(k.Bind(ctx, "$.A", ksock.Listener))
	f, err := k.File()
	check(err)
	defer f.Close()

	_, err = k.Send(ctx, ksock.Announce("$.A", []byte("hello")))
	check(err)
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	_, err = unix.Poll(fds, -1)
	check(err)
	for m, err := k.TryNext(); m != nil; m, err = k.TryNext() {
		check(err)
		fmt.Printf("%s\n", m.Data)
	}
	// Output: hello
}
