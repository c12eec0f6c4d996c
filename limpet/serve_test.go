package limpet_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kbus.internal/ksock"
	"kbus.internal/limpet"
	"kbus.internal/ring"
	"kbus.internal/supervisor"
)

// A bench is one Limpet, network 1, on a bus; the test is its peer, network 2.
type bench struct {
	*stage
	l     *limpet.Limpet
	k     *ksock.Ksock
	peer  net.Conn
	ended chan error
	wrote uint64
}

func newBench(t *testing.T, o limpet.Options) *bench {
	t.Helper()
	s := newStage(t, 1)
	sup, err := supervisor.Start(supervisor.Options{Socket: s.sups[0].Socket, Bus: ring.Config{MaxKsocks: 16, KeptEvents: 5, ArenaBytes: 16 << 20, MaxMessageSize: 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sup.Close() })
	b := &bench{stage: s, ended: make(chan error, 1)}
	b.k, err = ksock.Open(s.ctx, 0, &ksock.Options{Socket: s.sups[0].Socket})
	if err != nil {
		t.Fatal(err)
	}
	o.NetworkID = 1
	if b.l, err = limpet.New(o); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	b.peer = ends[1]
	ctx, cancel := context.WithCancel(s.ctx)
	t.Cleanup(func() { cancel(); b.peer.Close() })
	go func() { b.ended <- b.l.Serve(ctx, b.k, ends[0]) }()
	b.want([]byte("HELO\x00\x00\x00\x01"))
	return b
}

// greet makes the link work.
func (b *bench) greet() *bench {
	b.write([]byte("HELO\x00\x00\x00\x02"))
	b.settle()
	return b
}

func (b *bench) write(p []byte) {
	b.Helper()
	b.wrote += uint64(len(p))
	if _, err := b.peer.Write(p); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) settle() {
	b.Helper()
	if err := b.l.Settled(b.ctx, b.wrote); err != nil {
		b.Fatal(err)
	}
}

// want reads exactly those bytes.
func (b *bench) want(p []byte) {
	b.Helper()
	got := make([]byte, len(p))
	b.peer.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(b.peer, got); err != nil || !bytes.Equal(got, p) {
		b.Fatalf("read %q, %v, not %q", got, err, p)
	}
}

// frame is a frame as R8.2 has it, written down once more.
func frame(h ksock.Header, data []byte) []byte {
	var f []byte
	for _, n := range []uint32{0x7375624b, h.ID.Network, h.ID.Serial, h.InReplyTo.Network, h.InReplyTo.Serial, h.To, h.From, h.OrigFrom.Network,
		h.OrigFrom.Ksock, h.FinalTo.Network, h.FinalTo.Ksock, 0, h.Flags, uint32(len(h.Name)), uint32(len(data)), 0x4b627573} {
		f = binary.BigEndian.AppendUint32(f, n)
	}
	f = append(f, h.Name...)
	for f = append(f, 0); len(f)%4 != 0; {
		f = append(f, 0)
	}
	for f = append(f, data...); len(f)%4 != 0; {
		f = append(f, 0)
	}
	return binary.BigEndian.AppendUint32(f, 0x4b627573)
}

func (b *bench) in(h ksock.Header, data []byte) {
	b.Helper()
	b.write(frame(h, data))
	b.settle()
}

func bindEvent(bind bool, name string) (ksock.Header, []byte) {
	data := []byte{0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, byte(len(name))}
	if bind {
		data[3] = 1
	}
	for data = append(append(data, name...), 0); len(data)%4 != 0; {
		data = append(data, 0)
	}
	return ksock.Header{Name: ksock.ReplierBindEvent, ID: ksock.MessageID{Network: 2, Serial: 1}, Flags: ksock.Synthetic}, data
}

// R8.1: whom a Limpet does not take for the other of its pair.
func TestGreetings(t *testing.T) {
	for greeting, why := range map[string]string{
		"HELO\x00\x00\x00\x01": "network id 1, which is this Limpet's own",
		"HELO\x00\x00\x00\x00": "network id 0",
		"GET ":                 `"GET "`,
	} {
		b := newBench(t, limpet.Options{})
		b.write([]byte(greeting))
		if err := <-b.ended; err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", greeting, err)
		}
		if _, err := b.peer.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%q: the link is not closed: %v", greeting, err)
		}
		if _, err := b.k.Unread(); !errors.Is(err, ksock.ErrClosed) {
			t.Errorf("%q: the Ksock is not closed: %v", greeting, err)
		}
	}
	if _, err := limpet.New(limpet.Options{}); err == nil {
		t.Error("a Limpet of network 0")
	}
}

// R8.3: only then, and not before.
func TestNothingIsBoundBeforeTheGreeting(t *testing.T) {
	b := newBench(t, limpet.Options{})
	from := b.open(0)
	switches := func(when string, want bool) {
		t.Helper()
		for what, ask := range map[string]func(context.Context, ksock.Switch) (bool, error){
			"only once": b.k.SetOnlyOnce, "reports": b.k.SetReportReplierBinds,
		} {
			if on, err := ask(b.ctx, ksock.AskOnly); err != nil || on != want {
				t.Errorf("%s the other's greeting: %s is %v, %v", when, what, on, err)
			}
		}
	}
	switches("before", false)
	from.send(ksock.Announce("$.Before", nil))
	b.greet()
	switches("after", true)
	id := from.send(ksock.Announce("$.After", nil))
	kid := from.ID()
	b.want(frame(ksock.Header{
		ID: ksock.MessageID{Network: 1, Serial: id.Serial}, From: kid,
		OrigFrom: ksock.EndPoint{Network: 1, Ksock: kid}, Name: "$.After",
	}, nil))
}

// R8.8: what has been here before is dropped and counted, from either side; bind
// events are excepted.
func TestLoops(t *testing.T) {
	b := newBench(t, limpet.Options{}).greet()
	ear := b.open(0).bind("$.%", ksock.Listener)
	own := ksock.MessageID{Network: 1, Serial: 7}
	b.in(ksock.Header{ID: own, Name: "$.A"}, nil)
	h, data := bindEvent(true, "$.Far")
	h.ID = own
	b.in(h, data)
	ear.sees("$.Far", true)
	m := ksock.Announce("$.B", nil)
	m.ID = own
	ear.send(m)
	m.ID.Network = 2 // the other's: it comes from there
	ear.send(m)
	b.settle()
	if n := b.l.Stats().Looped; n != 2 {
		t.Errorf("%d messages were dropped", n)
	}
	for range 2 {
		if m := ear.next(); m.Name != "$.B" {
			t.Errorf("heard %v", m)
		}
	}
	id := ear.send(ksock.Announce("$.C", nil))
	b.want(frame(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: id.Serial}, From: ear.ID(), OrigFrom: ksock.EndPoint{Network: 1, Ksock: ear.ID()}, Name: "$.C"}, nil))
}

// R8.4, R8.5: of several Requests with one id the oldest is meant; a Reply with
// network 0 matches nothing, and a Request with network 0 is the other side's.
func TestIDs(t *testing.T) {
	b := newBench(t, limpet.Options{Name: "$.Pass"}).greet()
	b.in(bindEvent(true, "$.Far"))
	askers := []*actor{b.open(0), b.open(0)}
	id := ksock.MessageID{Network: 5, Serial: 77}
	for _, a := range askers {
		m := ksock.Request("$.Far", nil)
		m.ID = id
		a.send(m)
		b.want(frame(ksock.Header{ID: id, From: a.ID(), OrigFrom: ksock.EndPoint{Network: 1, Ksock: a.ID()}, Flags: ksock.WantReply | ksock.MustReply, Name: "$.Far"}, nil))
	}
	ear := b.open(0).bind("$.Far", ksock.Listener)
	b.in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 1}, InReplyTo: ksock.MessageID{Serial: 77}, Name: "$.Far"}, nil)
	if m := ear.next(); m.InReplyTo != (ksock.MessageID{Network: 2, Serial: 77}) {
		t.Errorf("the copy is %v", m)
	}
	for i, a := range askers {
		b.in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 2}, InReplyTo: id, Name: "$.Far"}, []byte{byte(i)})
		if m := a.next(); m.InReplyTo != id || m.Data[0] != byte(i) {
			t.Errorf("asker %d gets %v", i, m)
		}
	}
	if n := b.l.Stats().Waiting; n != 0 {
		t.Errorf("%d Requests wait", n)
	}
	r := b.open(0).bind("$.Here", ksock.Replier)
	e, data := bindEvent(true, "$.Here")
	binary.BigEndian.PutUint32(data[4:], r.ID())
	e.ID, e.OrigFrom, e.Flags = ksock.MessageID{Network: 1, Serial: r.lastSerial()}, ksock.EndPoint{Network: 1}, ksock.Synthetic|ksock.AllOrFail
	b.want(frame(e, data))
	b.in(ksock.Header{ID: ksock.MessageID{Serial: 9}, From: 3, Flags: ksock.WantReply | ksock.MustReply, Name: "$.Here"}, nil)
	q := r.next()
	if q.ID != (ksock.MessageID{Network: 2, Serial: 9}) {
		t.Errorf("the Request is %v", q)
	}
	id = r.send(ksock.ReplyTo(q, nil))
	b.want(frame(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: id.Serial}, InReplyTo: q.ID, To: b.k.ID(), From: r.ID(),
		OrigFrom: ksock.EndPoint{Network: 1, Ksock: r.ID()}, Name: "$.Here"}, nil))
}

// lastSerial is the last number that was given on the bus, by using the next.
func (a *actor) lastSerial() uint32 { return a.send(ksock.Announce("$.Count", nil)).Serial - 1 }

// R8.5: a binding that fails with EAGAIN is tried until it succeeds, or the next
// event for that name comes; neither ends the link.
func TestBindingsAreTriedAgain(t *testing.T) {
	b := newBench(t, limpet.Options{Name: "$.Pass"}).greet()
	full := b.open(0).holds(1).bind(ksock.ReplierBindEvent, ksock.Listener).bind("$.Fill", ksock.Listener)
	fill := func() { b.open(0).send(ksock.Announce("$.Fill", nil)) }
	fill()
	b.in(bindEvent(true, "$.A"))
	b.in(bindEvent(true, "$.B"))
	b.in(bindEvent(false, "$.B")) // overtakes
	if s := b.l.Stats(); s.ToBeBound != 1 || len(s.Proxied) != 0 {
		t.Errorf("%+v", s)
	}
	full.next()
	full.sees("$.A", true)
	full.sees("$.B", false)
	full.next()
	fill()
	b.in(bindEvent(false, "$.A"))
	full.sees("$.A", true)
	full.next()
	full.sees("$.A", false)
	b.settle()
	if s := b.l.Stats(); s.ToBeBound != 0 || len(s.Proxied) != 0 {
		t.Errorf("%+v", s)
	}
}

// Data of all sizes crosses in both directions unchanged, large data in place.
func TestData(t *testing.T) {
	b := newBench(t, limpet.Options{}).greet()
	a := b.open(0).bind("$.In", ksock.Listener)
	for _, n := range []int{0, 1, 1024, 1025, 4096, 16000, 16384, 40000, 1 << 20, 2<<20 - 200} {
		data := make([]byte, n)
		rand.Read(data)
		id := a.send(ksock.Announce("$.Out", data))
		b.want(frame(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: id.Serial}, From: a.ID(), OrigFrom: ksock.EndPoint{Network: 1, Ksock: a.ID()}, Name: "$.Out"}, data))
		b.in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 5}, Name: "$.In"}, data)
		if m := a.next(); !bytes.Equal(m.Data, data) {
			t.Errorf("%d bytes came as %d", n, len(m.Data))
		}
	}
	// More than this bus takes is refused, and the link goes on (R8.6).
	b.in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 6}, From: 3, Name: "$.Ask", Flags: ksock.WantReply | ksock.MustReply}, make([]byte, 3<<20))
	b.want(frame(ksock.Header{InReplyTo: ksock.MessageID{Network: 2, Serial: 6}, To: 3, Name: "$.KBUS.RemoteError.90"}, nil))
	if s := b.l.Stats(); s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// A Request that comes back to the Limpet that put it on the bus is answered.
func TestOwnRequest(t *testing.T) {
	b := newBench(t, limpet.Options{}).greet()
	b.in(bindEvent(true, "$.Far"))
	q := ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 6}, From: 3, OrigFrom: ksock.EndPoint{Network: 2, Ksock: 3}, Name: "$.Far", Flags: ksock.WantReply | ksock.MustReply}
	b.in(q, nil)
	b.want(frame(ksock.Header{InReplyTo: q.ID, To: 3, Name: ksock.StatusGoneAway}, nil))
	b.idle()
}

// What an operator should know is told once, and stays to be seen.
func TestToldOnce(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, limpet.Options{Name: "$.Pass", Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}).greet()
	b.open(0).bind("$.A", ksock.Replier)
	b.settle()
	for range 3 {
		b.in(bindEvent(true, "$.A"))
		if s := b.l.Stats(); len(s.NamesTaken) != 1 || s.NamesTaken[0] != "$.A" || len(s.Proxied) != 0 {
			t.Errorf("%+v", s)
		}
		b.in(bindEvent(false, "$.A"))
		if s := b.l.Stats(); len(s.NamesTaken) != 0 {
			t.Errorf("%+v", s)
		}
	}
	for i := range 3 {
		b.in(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: uint32(i)}, Name: "$.Round"}, nil)
	}
	b.write([]byte("no frame"))
	err := <-b.ended
	var bad *limpet.FrameError
	if !errors.As(err, &bad) || bad.Field != "the guard before the header" {
		t.Errorf("ended by %v", err)
	}
	for what, times := range map[string]int{"a Replier on both sides": 1, "had been here before": 1} {
		if n := strings.Count(log.String(), what); n != times {
			t.Errorf("%q was told %d times:\n%s", what, n, &log)
		}
	}
}

// R7.4: a Limpet that misses unbindings, its link being too slow, makes up for them.
func TestLostEvents(t *testing.T) {
	b := newBench(t, limpet.Options{MaxMessages: 20}).greet()
	r := b.open(0)
	const names = 30 // more than its queue and what is kept aside for it
	for i := range names {
		r.bind(fmt.Sprintf("$.Far.N%d", i), ksock.Replier)
		b.settle()
	}
	a := b.open(0)
	for { // until the link takes nothing more, and the queue is full
		stats, err := ksock.Stats(b.ctx, b.sups[0].Socket, 0)
		if err != nil {
			t.Fatal(err)
		}
		if k := stats[0].Ksocks[0]; k.Missed > 0 && k.Unread == 20 {
			break
		}
		a.send(ksock.Announce("$.Loud", make([]byte, 2000)))
	}
	r.Close()
	a.send(ksock.Announce("$.Last", nil)) // missed, or the last; the events come before
	// Read all that comes, as the other Limpet would.
	bound, lost := map[string]bool{}, false
	in := bufio.NewReader(b.peer)
	for seen := 0; len(bound) > 0 || seen == 0; {
		head := make([]byte, 64)
		b.peer.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(in, head); err != nil {
			t.Fatalf("%d names stay bound, events lost %v: %v", len(bound), lost, err)
		}
		word := func(b []byte, i int) int { return int(binary.BigEndian.Uint32(b[4*i:])) }
		name, data := make([]byte, 4*((word(head, 13)+4)/4)), make([]byte, 4*((word(head, 14)+3)/4)+4)
		io.ReadFull(in, name)
		io.ReadFull(in, data)
		switch string(bytes.TrimRight(name, "\x00")) {
		case ksock.UnbindEventsLost:
			lost = true
		case ksock.ReplierBindEvent:
			n := string(data[12:][:word(data, 2)])
			if delete(bound, n); word(data, 0) == 1 {
				bound[n] = true
				seen++
			}
		}
	}
	if !lost {
		t.Error("no event was lost")
	}
}

// TLS: both sides prove who they are, or there is no link.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := authority(t)
	other, otherKey := authority(t)
	files := func(name string, ca *x509.Certificate, key *ecdsa.PrivateKey) (cert, keyFile string) {
		return certify(t, filepath.Join(dir, name), ca, key)
	}
	caFile := filepath.Join(dir, "ca")
	writePEM(t, caFile, "CERTIFICATE", ca.Raw)
	c1, k1 := files("one", ca, caKey)
	c2, k2 := files("two", ca, caKey)
	c3, k3 := files("stranger", other, otherKey)
	one, err := limpet.TLSConfig(c1, k1, caFile)
	if err != nil {
		t.Fatal(err)
	}
	two, err := limpet.TLSConfig(c2, k2, caFile)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := limpet.TLSConfig(c3, k3, caFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := limpet.Listen("127.0.0.1:0", one)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	meet := func(d limpet.Connector) (string, error) {
		got := make(chan error, 1)
		go func() {
			link, err := l.Connect(t.Context())
			if err == nil {
				_, err = link.Write([]byte("hello"))
				link.Close()
			}
			got <- err
		}()
		text := ""
		link, err := d.Connect(t.Context())
		if err == nil {
			var b []byte
			b, err = io.ReadAll(link)
			text = string(b)
			link.Close()
		}
		return text, errors.Join(err, <-got)
	}
	if text, err := meet(limpet.Dial(l.Addr(), two)); err != nil || text != "hello" {
		t.Errorf("between friends: %q, %v", text, err)
	}
	if text, err := meet(limpet.Dial(l.Addr(), stranger)); err == nil || text != "" {
		t.Errorf("from a stranger: %q", text)
	}
	for what, f := range map[string][3]string{"no certificate": {"none", k1, caFile}, "no authority": {c1, k1, "none"}, "an authority that is none": {c1, k1, k1}} {
		if _, err := limpet.TLSConfig(f[0], f[1], f[2]); err == nil {
			t.Error(what)
		}
	}
}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func certify(t *testing.T, file string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: filepath.Base(file)}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &k.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, file+".pem", "CERTIFICATE", der)
	writePEM(t, file+".key", "EC PRIVATE KEY", private)
	return file + ".pem", file + ".key"
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Requests that are dropped are answered at once, as they would be when the Limpet
// closes: nobody waits for what can't come (R8.4, R8.8, R5.6).
func TestDroppedRequestsAreAnswered(t *testing.T) {
	b := newBench(t, limpet.Options{Name: "$.Pass"}).greet()
	b.in(bindEvent(true, "$.Far"))
	b.in(bindEvent(true, "$.KBUS.*"))
	a := b.open(0)
	for _, r := range []struct {
		name    string
		network uint32
	}{{"$.Far", 2}, {"$.Far", 1}, {ksock.ReplierBindEvent, 0}} {
		m := ksock.Request(r.name, nil)
		m.ID = ksock.MessageID{Network: r.network, Serial: 7}
		a.status(m, ksock.StatusIgnored)
	}
	// From the link: a Request, and the only Reply to one.
	q := ksock.Header{ID: ksock.MessageID{Network: 1, Serial: 5}, From: 3, Name: "$.Here", Flags: ksock.WantReply | ksock.MustReply}
	b.in(q, nil)
	b.want(frame(ksock.Header{InReplyTo: q.ID, To: 3, Name: ksock.StatusIgnored}, nil))
	id := a.send(ksock.Request("$.Far", nil))
	out := ksock.MessageID{Network: 1, Serial: id.Serial}
	b.want(frame(ksock.Header{ID: out, From: a.ID(), OrigFrom: ksock.EndPoint{Network: 1, Ksock: a.ID()}, Flags: ksock.WantReply | ksock.MustReply, Name: "$.Far"}, nil))
	b.in(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: 9}, InReplyTo: out, From: 3, Name: "$.Far"}, nil)
	if m := a.next(); m.Name != ksock.StatusIgnored || m.InReplyTo != id {
		t.Errorf("the answer is %v", m)
	}
	if n := b.l.Stats().Looped; n != 3 {
		t.Errorf("%d messages were dropped for their network id", n)
	}
	b.idle()
}

// A lasting trouble is told once, however often the pair connects; so is a bus that
// can't take what comes.
func TestTroublesAreToldOnce(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	b := newBench(t, limpet.Options{Logger: logger}).greet()
	for range 3 {
		b.in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 6}, Name: "$.Large"}, make([]byte, 3<<20))
	}
	if n := strings.Count(log.String(), "raise its limit"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
	// The other end takes links and ends them at once.
	log.Reset()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lim, err := limpet.New(limpet.Options{NetworkID: 1, Socket: b.sups[0].Socket, Connect: limpet.Dial(l.Addr().String(), nil), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error)
	go func() { ended <- lim.Run(ctx) }()
	for range 4 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("HELO\x00\x00\x00\x02"))
		c.(*net.TCPConn).SetLinger(0) // a reset: its error names the port
		io.ReadFull(c, make([]byte, 8))
		c.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for what, times := range map[string]int{"the link ended": 1, "waiting for the other Limpet": 1} {
		if n := strings.Count(log.String(), `msg="`+what) + strings.Count(log.String(), "msg="+what); n != times {
			t.Errorf("%q was told %d times:\n%s", what, n, &log)
		}
	}
}

// What a Limpet says of itself is true: frames and bytes both ways, and what waits.
func TestStats(t *testing.T) {
	b := newBench(t, limpet.Options{NetworkID: 1}).greet()
	var want limpet.Stats
	want.NetworkID, want.Name, want.State, want.Peer, want.Ksock = 1, "$.*", "linked", 2, b.k.ID()
	want.BytesIn, want.BytesOut = 8, 8
	check := func(what string) {
		t.Helper()
		b.settle()
		if got := b.l.Stats(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s:\n%+v, not\n%+v", what, got, want)
		}
	}
	in := func(h ksock.Header, data []byte) {
		t.Helper()
		b.in(h, data)
		want.FramesIn++
		want.BytesIn += uint64(len(frame(h, data)))
	}
	out := func(h ksock.Header, data []byte) {
		t.Helper()
		f := frame(h, data)
		b.want(f)
		want.FramesOut++
		want.BytesOut += uint64(len(f))
	}
	check("at first")
	in(bindEvent(true, "$.Far"))
	want.Proxied = []string{"$.Far"}
	check("a proxied name")
	a := b.open(0)
	from := ksock.EndPoint{Network: 1, Ksock: a.ID()}
	id := a.send(ksock.Request("$.Far", make([]byte, 5000)))
	asked := ksock.MessageID{Network: 1, Serial: id.Serial}
	out(ksock.Header{ID: asked, From: a.ID(), OrigFrom: from, Flags: ksock.WantReply | ksock.MustReply, Name: "$.Far"}, make([]byte, 5000))
	want.Waiting = 1
	check("a Request")
	in(ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 3}, InReplyTo: asked, From: 3, Name: "$.Far"}, make([]byte, 40000))
	a.next()
	want.Waiting = 0
	check("its Reply")
	q := ksock.Header{ID: ksock.MessageID{Network: 2, Serial: 4}, From: 3, Name: "$.Nobody", Flags: ksock.WantReply | ksock.MustReply}
	in(q, nil)
	out(ksock.Header{InReplyTo: q.ID, To: 3, Name: fmt.Sprintf("%s%d", ksock.StatusRemoteError, unix.EADDRNOTAVAIL)}, nil)
	want.Refused = 1
	check("a Request that is refused")
	in(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: 4}, Name: "$.Round"}, nil)
	want.Looped = 1
	check("a loop")
	id = a.send(ksock.Announce("$.Small", []byte("x")))
	out(ksock.Header{ID: ksock.MessageID{Network: 1, Serial: id.Serial}, From: a.ID(), OrigFrom: from, Name: "$.Small"}, []byte("x"))
	check("an announcement")
	in(bindEvent(false, "$.Far"))
	want.Proxied = nil
	check("no name")
}
