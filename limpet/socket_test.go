package limpet_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/limpet"
)

// connected is a pair of Links, by TCP or a Unix socket.
func connected(t *testing.T, addr string) (a, b limpet.Link) {
	t.Helper()
	l, err := limpet.Listen(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan limpet.Link, 1)
	go func() {
		c, err := limpet.Dial(l.Addr(), nil).Connect(t.Context())
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	if a, err = l.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b = <-dialled; b == nil {
		t.FailNow()
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func kinds(t *testing.T, f func(t *testing.T, addr string)) {
	t.Run("TCP", func(t *testing.T) { f(t, "127.0.0.1:0") })
	t.Run("Unix", func(t *testing.T) { f(t, filepath.Join(t.TempDir(), "s")) })
}

// TestGatheredWrites (R8.2): pieces of any number and size arrive whole and in
// order, whatever the reader waits for before it reads, and whatever signals come.
func TestGatheredWrites(t *testing.T) {
	kinds(t, func(t *testing.T, addr string) {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		a, b := connected(t, addr)
		var pieces net.Buffers
		for range 3000 { // more than the system takes at once
			pieces = append(pieces, make([]byte, r.IntN(100)))
		}
		for range 3 { // and more than it buffers
			pieces = append(pieces, make([]byte, 1<<20+r.IntN(9<<20)))
		}
		for _, p := range pieces {
			for i := range p {
				p[i] = byte(r.Uint32())
			}
		}
		whole := bytes.Join(pieces, nil)
		// Signals cut a call that has written something already.
		thread, written := make(chan int), make(chan struct{})
		go func() {
			for id := <-thread; ; runtime.Gosched() {
				select {
				case <-written:
					return
				default:
					_ = unix.Tgkill(unix.Getpid(), id, unix.SIGURG) // which the runtime ignores
				}
			}
		}()
		go func() {
			runtime.LockOSThread()
			thread <- unix.Gettid()
			defer close(written)
			if n, err := a.(limpet.Gatherer).WriteBuffers(pieces); err != nil || n != int64(len(whole)) {
				t.Errorf("%d of %d written: %v", n, len(whole), err)
			}
		}()
		for got := 0; got < len(whole); {
			part := make([]byte, min(1+r.IntN(1<<20), len(whole)-got))
			if err := b.(limpet.Awaiter).Await(len(part)); err != nil {
				t.Fatal(err)
			}
			n, err := b.Read(part)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(part[:n], whole[got:][:n]) {
				t.Fatalf("other bytes in %d from %d on", n, got)
			}
			got += n
		}
	})
}

// TestSocketEnds (R8.10): Close ends whoever reads, waits for bytes that do not
// come, or writes what nobody takes; and the other side reads the end.
func TestSocketEnds(t *testing.T) {
	kinds(t, func(t *testing.T, addr string) {
		for what, use := range map[string]func(l limpet.Link) error{
			"read": func(l limpet.Link) error { _, err := l.Read(make([]byte, 1)); return err },
			"await": func(l limpet.Link) error {
				l.(limpet.Awaiter).Await(1 << 20)
				_, err := l.Read(make([]byte, 1))
				return err
			},
			"write": func(l limpet.Link) error { _, err := l.Write(make([]byte, 64<<20)); return err },
		} {
			a, b := connected(t, addr)
			started, ended := make(chan bool), make(chan error)
			go func() { close(started); ended <- use(a) }()
			<-started
			if err := a.Close(); err != nil {
				t.Errorf("%s: close: %v", what, err)
			}
			if err := <-ended; err == nil {
				t.Errorf("%s succeeded", what)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: a read after Close: %v", what, err)
			}
			if _, err := io.Copy(io.Discard, b); err != nil {
				t.Errorf("%s: the other side: %v", what, err)
			}
			if err := a.Close(); err != nil {
				t.Errorf("%s: close once more: %v", what, err)
			}
		}
	})
}
