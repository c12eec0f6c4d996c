package limpet_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
)

// TestOneWrite: header, name and data of several waiting messages leave in one
// gathered write, in which large data is a piece of its own; large data that comes
// is read in one call that has more room than the reader's buffer, so by
// the bus's memory itself.
func TestOneWrite(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("nobody sees system calls: %v; install strace", err)
	}
	s := newStage(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &process{part: part{Socket: s.sups[0].Socket, NetworkID: 1, Connect: l.Addr().String()}}
	s.start(s.sups[0])
	s.start(p)
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	greeting := []byte("HELO\x00\x00\x00\x02")
	if _, err := peer.Write(greeting); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, greeting); err != nil {
		t.Fatal(err)
	}
	speaker := s.open(0)
	s.until(func() bool { // the Limpet listens: what is said arrives
		stats, err := ksock.Stats(s.ctx, s.sups[0].Socket, 0)
		if err != nil {
			t.Fatal(err)
		}
		return stats[0].Reports // the last that it does
	})

	// strace says on standard error when it has begun.
	trace := filepath.Join(s.dir, "trace")
	tracer := exec.Command(strace, "-f", "-e", "trace=read,writev", "-s", "0", "-o", trace, "-p", fmt.Sprint(p.cmd.Process.Pid))
	words, err := tracer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	first, _ := bufio.NewReader(words).ReadString('\n')
	if !strings.Contains(first, "attached") {
		tracer.Wait()
		t.Skipf("strace may not look at a process here: %s", first)
	}
	go io.Copy(io.Discard, words)

	signal := func(what unix.Signal) {
		if err := p.cmd.Process.Signal(what); err != nil {
			t.Fatal(err)
		}
	}
	signal(unix.SIGSTOP)
	s.until(func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		return err == nil && strings.ContainsAny(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))[1], "Tt")
	})
	const large = 20000
	total := 0
	for i := range 10 {
		data := make([]byte, 64)
		if i%4 == 1 { // three of them
			data = make([]byte, large)
		}
		m := ksock.Announce("$.One", data)
		speaker.send(m)
		total += len(frame(m.Header, m.Data))
	}
	signal(unix.SIGCONT)
	if _, err := io.CopyN(io.Discard, peer, int64(total)); err != nil {
		t.Fatal(err)
	}
	const big = 200 << 10
	ear := s.open(0).bind("$.Big", ksock.Listener)
	if _, err := peer.Write(frame(ksock.Header{Name: "$.Big", ID: ksock.MessageID{Network: 2, Serial: 1}, From: 1}, make([]byte, big))); err != nil {
		t.Fatal(err)
	}
	if m := ear.next(); len(m.Data) != big {
		t.Errorf("heard %v", m)
	}

	if err := tracer.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	tracer.Wait() // ends by the signal
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	// Three pieces are large data in place; small data is a part of the pieces around them.
	if !regexp.MustCompile(fmt.Sprintf(`writev\(.*, 7(\)| <unfinished \.\.\.>(?s:.*)writev resumed>\)) += %d\n`, total)).Match(text) {
		t.Errorf("no write of all %d bytes in 7 pieces:\n%s", total, text)
	}
	if !regexp.MustCompile(`read(\(.*|.*""\.\.\.), [12][0-9]{5}(\) += | <unfinished)`).Match(text) { // the buffer has 65536 bytes
		t.Errorf("large data is read in small parts:\n%s", text)
	}
}

// TestNoCopies: a megabyte on its way through a pair of Limpets is at no place in
// Go's memory: neither Limpet allocates anything of that size.
func TestNoCopies(t *testing.T) {
	s := newStage(t, 2)
	for _, p := range s.sups {
		s.start(p)
	}
	at, err := limpet.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	for i, c := range []limpet.Connector{at, limpet.Dial(at.Addr(), nil)} {
		l, err := limpet.New(limpet.Options{Socket: s.sups[i].Socket, NetworkID: uint32(i + 1), Connect: c})
		if err != nil {
			t.Fatal(err)
		}
		go l.Run(s.ctx)
	}
	s.open(1).bind("$.There", ksock.Replier)
	from, to := s.open(0), s.open(1).bind("$.Large", ksock.Listener)
	from.sees("$.There", true)
	const size, times = 400_000, 50
	h := ksock.Header{Name: "$.Large"}
	pass := func() {
		loan, err := from.Loan(size)
		if err == nil {
			_, err = from.SendLoan(s.ctx, &h, loan)
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := to.View(s.ctx)
		if err != nil || len(v.Data()) != size {
			t.Fatal(len(v.Data()), err)
		}
		v.Release()
	}
	pass()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		pass()
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / times; n > size/10 {
		t.Errorf("%d bytes are allocated for each message of %d", n, size)
	}
}
