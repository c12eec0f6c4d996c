package failing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/ring"
	"kbus.internal/shm/shmtest"
	"kbus.internal/supervisor"
)

// small is a bus that takes little memory.
var small = ring.Config{MaxKsocks: 32, ArenaBytes: 4 << 20, MaxMessageSize: 1 << 20}

// patience is after how long something counts as hanging; nothing here takes a
// hundredth of it.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	shmtest.Main(m, map[string]func() error{
		"client":     clientChild,
		"supervisor": supervisorChild,
		"holder":     holderChild,
		"limited":    limitedChild,
		"few":        fewChild,
		"threads":    threadsChild,
		"full":       fullChild,

		"greedy":      greedyChild,
		"unlocked":    unlockedChild,
		"few threads": fewThreadsChild,
	})
}

// pollerCall is what the poller of Go's runtime makes by the same way as
// everybody; it ends the program if that fails, whatever the reason.
const pollerCall = unix.SYS_EPOLL_PWAIT

// warmUp has Go's runtime open the descriptors of its poller.
func warmUp() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
}

// A report is a line of a child about a step that failed, or what it ends with.
type report struct {
	Step string `json:"step"`
	Text string `json:"text"`
	Is   bool   `json:"is"`   // errors.Is(err, the errno injected)
	Op   bool   `json:"op"`   // it is a *ksock.Error
	Hang bool   `json:"hang"` // its context ended
}

func say(r report) {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", b)
}

// clientChild does the script: SOCKET ERRNO. Once to warm up, once watched, and once more.
func clientChild() error {
	socket := os.Args[1]
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	failed := false
	step := func(pass string) func(string, error) {
		return func(name string, err error) {
			if err != nil {
				var op *ksock.Error
				say(report{pass + ": " + name, err.Error(), errors.Is(err, unix.Errno(n)), errors.As(err, &op), errors.Is(err, context.DeadlineExceeded)})
				failed = true
			}
		}
	}
	script(socket, step("before"))
	if failed {
		return errors.New("the script fails by itself")
	}
	quiet() // what the warming up needed has ended
	before := resources()
	if err := shmtest.BeWatched(pollerCall); err != nil {
		return err
	}
	script(socket, step("watched"))
	quiet()
	shmtest.EndWatch()
	script(socket, step("again"))
	if left := leftovers(before); left != "" {
		say(report{Step: "left over", Text: left})
	}
	say(report{Step: "end"})
	return nil
}

// resources is what the process holds: descriptors, mappings of regions, goroutines.
func resources() map[string]int {
	m := map[string]int{"goroutines": runtime.NumGoroutine()}
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range dir {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || to == shmtest.FailedClose || strings.HasPrefix(to, "/proc/") || strings.Contains(to, "seccomp") {
			continue
		}
		kind, _, _ := strings.Cut(to, ":")
		m[kind]++
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	m["mappings of regions"] = strings.Count(string(maps), "/memfd:kbus-")
	return m
}

// quiet waits until no Ksock's goroutine is left; not for those that stay.
func quiet() {
	give := time.NewTimer(time.Second)
	defer give.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for buf := make([]byte, 1<<16); bytes.Contains(buf[:runtime.Stack(buf, true)], []byte("/ring/control.")); {
		select {
		case <-tick.C:
		case <-give.C:
			return
		}
	}
}

// leftovers waits until nothing is held that was not held before; what still is
// after that is a leak.
func leftovers(before map[string]int) string {
	give := time.NewTimer(5 * time.Second) // Links end in the background
	defer give.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		left := ""
		for what, n := range resources() {
			if n > before[what] {
				left += fmt.Sprintf("%s: %d, was %d; ", what, n, before[what])
			}
		}
		if left == "" {
			return ""
		}
		select {
		case <-give.C:
			if strings.Contains(left, "goroutines") {
				buf := make([]byte, 1<<16)
				left += string(buf[:runtime.Stack(buf, true)])
			}
			return left
		case <-tick.C:
		}
	}
}

// supervisorChild runs a supervisor, watched from before its start, until its
// input ends: SOCKET.
func supervisorChild() error {
	warmUp()
	if err := shmtest.BeWatched(pollerCall); err != nil {
		return err
	}
	return runSupervisor(os.Args[1])
}

// runSupervisor runs a supervisor until standard input ends, for more users than its own.
func runSupervisor(socket string, users ...uint32) error {
	s, err := supervisor.Start(supervisor.Options{
		Socket: socket, Bus: small, AllowUsers: users, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Close()
	}()
	return s.Wait()
}

// holderChild opens a Ksock and holds it until it is killed: SOCKET.
func holderChild() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: os.Args[1]})
	if err == nil {
		err = k.Bind(ctx, "$.Holder", ksock.Replier)
	}
	if err != nil {
		fmt.Println(err)
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// script is a Ksock's life: what a client program does, in one process. step is
// told of each error.
func script(socket string, step func(name string, err error)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	try := func(name string, err error) bool {
		step(name, err)
		return err == nil
	}
	open := func(name string) *ksock.Ksock {
		k, err := ksock.Open(ctx, 0, &ksock.Options{Socket: socket, Spin: -1})
		if !try(name, err) {
			return nil
		}
		return k
	}
	a := open("open the first")
	if a == nil {
		return
	}
	defer func() { try("close the first", a.Close()) }()
	b := open("open the second")
	if b == nil {
		return
	}
	defer func() { try("close the second", b.Close()) }()

	// Each step stands for itself: if one fails, those go on that can.
	listening := try("bind a Listener", a.Bind(ctx, "$.F.*", ksock.Listener))
	replying := try("bind a Replier", a.Bind(ctx, "$.F.Ask", ksock.Replier))
	_, err := a.SetMaxMessages(ctx, 50)
	try("set max_messages", err)
	_, err = a.SetOnlyOnce(ctx, ksock.On)
	try("switch only once", err)
	_, err = ksock.Stats(ctx, socket)
	try("stat", err)

	if listening {
		_, err := b.Send(ctx, ksock.Announce("$.F.Say", []byte("hello")))
		if try("send", err) {
			_, err = a.Next(ctx)
			try("receive", err)
		}
		if l, err := b.Loan(70000); try("take a Loan", err) {
			clear(l.Data())
			if _, err := b.SendLoan(ctx, &ksock.Header{Name: "$.F.Say"}, l); try("send a Loan", err) {
				v, err := a.View(ctx)
				if try("view", err) {
					v.Release()
				}
			}
		}
		// Somebody sleeps, and is woken.
		sleeping, stop := context.WithCancel(ctx)
		defer stop()
		got := make(chan error, 1)
		go func() {
			_, err := a.Next(sleeping)
			got <- err
		}()
		_, err = b.Send(ctx, ksock.Announce("$.F.Say", []byte("wake up")))
		if try("send to a sleeper", err) {
			try("sleep", <-got)
		} else {
			stop()
			<-got
		}
	}
	if replying {
		answering, stop := context.WithCancel(ctx)
		defer stop()
		asking, giveUp := context.WithCancel(ctx)
		defer giveUp()
		answered := make(chan error, 1)
		go func() {
			for {
				m, err := a.Next(answering)
				if err == nil && !m.MustReply() {
					continue
				}
				if err == nil {
					_, err = a.Send(answering, ksock.ReplyTo(m, []byte("yes")))
				}
				answered <- err
				if err != nil {
					giveUp() // there will be no answer
				}
				return
			}
		}()
		_, err := b.Call(asking, ksock.Request("$.F.Ask", []byte("is it?")))
		if err != nil {
			stop() // perhaps there is no Request
		}
		switch reply := <-answered; {
		case err == nil:
			try("reply", reply)
		case errors.Is(err, context.Canceled):
			try("receive a Request", reply)
		default:
			try("call", err)
		}
	}
	if f, err := a.File(); try("open a descriptor", err) {
		if listening {
			_, err = b.Send(ctx, ksock.Announce("$.F.Say", []byte("for select")))
			if try("send for a descriptor", err) {
				_, err = f.Read(make([]byte, 8))
				if !try("wait at a descriptor", ofFile(err)) {
					f.Close()
					return
				}
				_, err := a.TryNext()
				try("receive after a descriptor", err)
			}
		}
		try("close a descriptor", ofFile(f.Close()))
	}
	if listening {
		try("unbind", a.Unbind(ctx, "$.F.*", ksock.Listener))
	}
}

// ofFile makes an error of the script's own call on a descriptor one that says so.
func ofFile(err error) error {
	if err == nil {
		return nil
	}
	return &ksock.Error{Op: "use the descriptor", Err: err}
}
