package control

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var requests = []Request{
	{Op: OpOpen, Number: 1, Bus: 255, ReadOnly: true},
	{Op: OpOpen, Number: 1, Value: 1},
	{Op: OpReattach, Number: 2, Bus: 3, Slot: 4, Ksock: 5, Token: Token{1, 15: 9}},
	{Op: OpClose, Number: 3, Value: 1},
	{Op: OpBind, Number: 4, Name: "$.A.*", Replier: true},
	{Op: OpUnbind, Number: math.MaxUint32, Name: "$." + strings.Repeat("x", MaxName-2)},
	{Op: OpBound, Number: 6, Name: "$.B"},
	{Op: OpMaxMessages, Number: 7, Value: math.MaxUint32},
	{Op: OpMessageSize, Number: 8, Value: 1},
	{Op: OpOnlyOnce, Number: 9, Value: Ask},
	{Op: OpReports, Number: 10, Value: On},
	{Op: OpNewBus, Number: 11, Config: Config{1, 2, 3, 4, 5 << 40, 6 << 40}},
	{Op: OpBuses, Number: 12, From: 1},
	{Op: OpKsocks, Number: 13, Bus: 1, From: 77},
	{Op: OpBindings, Number: 14, Bus: 2, From: 78},
}

var answers = []Answer{
	{Text: "no descriptors left", Errno: unix.EMFILE},
	{Op: OpOpen, Number: 1, Slot: 2, Ksock: 3, Token: Token{3: 1}},
	{Op: OpBind, Number: 2, Errno: unix.EADDRINUSE, Text: "Ksock 7 replies to $.A"},
	{Op: OpMaxMessages, Number: 3, Value: 100},
	{Op: OpBuses, Number: 4, Next: 9, Buses: []BusInfo{{1, 2, 3, 4, 5, 6, true, 7, 8, 9}, {Bus: 2}}},
	{Op: OpKsocks, Number: 5, Ksocks: []KsockInfo{{Slot: 1, Ksock: 2, PID: 3, UID: 4, StartTime: 5 << 40, ReadOnly: true,
		MaxMessages: 6, Unread: 7, Unreplied: 8, Outstanding: 9, Sent: 10, Received: 11, Missed: 12, Bytes: 13,
		Command: "kbus listen"}, {Slot: 2}}},
	{Op: OpBindings, Number: 6, Bindings: []BindingInfo{{1, true, "$.A"}, {2, false, "$.A.*"}}},
}

// Whatever is encoded comes back, and nothing shorter or longer is accepted.
func TestFramesComeBack(t *testing.T) {
	for _, want := range requests {
		b, err := want.Append(nil)
		if err != nil {
			t.Fatalf("%v: %v", want.Op, err)
		}
		got, err := ParseRequest(b)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%v: got %+v, %v, want %+v", want.Op, got, err, want)
		}
		for n := range b {
			if r, err := ParseRequest(b[:n]); !errors.Is(err, ErrFrame) {
				t.Errorf("%v cut to %d bytes: %+v, %v", want.Op, n, r, err)
			}
		}
		if _, err := ParseRequest(append(b, 0)); !errors.Is(err, ErrFrame) {
			t.Errorf("%v with a byte more: %v", want.Op, err)
		}
	}
	for _, want := range answers {
		b, err := want.Append(nil)
		if err != nil {
			t.Fatalf("%v: %v", want.Op, err)
		}
		if room := want.Room(); room != MaxAnswer-len(b) {
			t.Errorf("%v: room %d beside %d bytes", want.Op, room, len(b))
		}
		got, err := ParseAnswer(b)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%v: got %+v, %v, want %+v", want.Op, got, err, want)
		}
		for n := range b {
			if a, err := ParseAnswer(b[:n]); !errors.Is(err, ErrFrame) {
				t.Errorf("%v cut to %d bytes: %+v, %v", want.Op, n, a, err)
			}
		}
		if _, err := ParseAnswer(append(b, 0)); !errors.Is(err, ErrFrame) {
			t.Errorf("%v with a byte more: %v", want.Op, err)
		}
	}
}

// What no encoder may write is refused by the encoder already.
func TestRequestsThatAreNone(t *testing.T) {
	for name, r := range map[string]Request{
		"no operation":        {Number: 1},
		"unknown operation":   {Op: opEnd, Number: 1},
		"number 0":            {Op: OpClose},
		"field not read":      {Op: OpBind, Number: 1, Name: "$.A", Bus: 1},
		"name not read":       {Op: OpOpen, Number: 1, Name: "$.A"},
		"replier not read":    {Op: OpOpen, Number: 1, Replier: true},
		"token without slot":  {Op: OpOpen, Number: 1, Token: Token{1}},
		"config not read":     {Op: OpOpen, Number: 1, Config: Config{ArenaBytes: 1}},
		"read-only not read":  {Op: OpReattach, Number: 1, ReadOnly: true},
		"value not read":      {Op: OpBuses, Number: 1, Value: 1},
		"page of a non-table": {Op: OpClose, Number: 1, From: 1},
	} {
		if _, err := r.Append(nil); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := Request{Op: OpBind, Number: 1, Name: strings.Repeat("x", MaxName+1)}
	if _, err := long.Append(nil); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("name too long: %v", err)
	}
}

// Of a frame of another version nothing is read but the version.
func TestOtherVersion(t *testing.T) {
	b, _ := requests[0].Append(nil)
	b[4] = 2
	for n := 6; n <= len(b); n++ {
		_, err := ParseRequest(b[:n])
		var v VersionError
		if !errors.As(err, &v) || v != 2 || !errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// Single wrong bytes in a head never pass as something that the encoder would not write.
func FuzzRequest(f *testing.F) {
	for i := range requests {
		b, _ := requests[i].Append(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is written as %x, %v", b, r, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for i := range answers {
		b, _ := answers[i].Append(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b)
		if err != nil {
			return
		}
		again, err := a.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is written as %x, %v", b, a, again, err)
		}
	})
}
