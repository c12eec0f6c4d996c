package model

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) { // R1.1, R1.2, R1.4, R1.5
	long := func(n int) string { return "$." + strings.Repeat("x", n-2) }
	for _, c := range []struct {
		name          string
		send, binding unix.Errno
	}{
		{"$.A", 0, 0},
		{"$.a.0.zZ9", 0, 0},
		{"$.KBUS.ReplierBindEvent", 0, 0}, // R1.5
		{"$.KBUS.Anything", 0, 0},
		{long(1000), 0, 0},
		{long(1001), unix.ENAMETOOLONG, unix.ENAMETOOLONG},
		{strings.Repeat("!", 1001), unix.ENAMETOOLONG, unix.ENAMETOOLONG},
		{"", unix.EINVAL, unix.EBADMSG},
		{"$.*", unix.EBADMSG, 0},
		{"$.%", unix.EBADMSG, 0},
		{"$.A.*", unix.EBADMSG, 0},
		{"$.A.B.%", unix.EBADMSG, 0},
		{"$.*.A", unix.EBADMSG, unix.EBADMSG},
		{"$.A*", unix.EBADMSG, unix.EBADMSG},
		{"$.**", unix.EBADMSG, unix.EBADMSG},
		{"$.*%", unix.EBADMSG, unix.EBADMSG},
		{"$.%.*", unix.EBADMSG, unix.EBADMSG},
		{"$", unix.EBADMSG, unix.EBADMSG},
		{"$.", unix.EBADMSG, unix.EBADMSG},
		{"A", unix.EBADMSG, unix.EBADMSG},
		{"$A", unix.EBADMSG, unix.EBADMSG},
		{"$..A", unix.EBADMSG, unix.EBADMSG},
		{"$.A.", unix.EBADMSG, unix.EBADMSG},
		{"$.A..B", unix.EBADMSG, unix.EBADMSG},
		{"$.A B", unix.EBADMSG, unix.EBADMSG},
		{"$.A_B", unix.EBADMSG, unix.EBADMSG},
		{"$.Ä", unix.EBADMSG, unix.EBADMSG},
		{"$.A\x00", unix.EBADMSG, unix.EBADMSG},
	} {
		b := start(t)
		k := b.open()
		_, err := b.Send(k, announce(c.name, ""))
		b.is(err, c.send)
		b.is(b.Bind(k, c.name, false), c.binding)
		if c.binding == 0 {
			b.no(b.Unbind(k, c.name, false))
		} else {
			b.is(b.Unbind(k, c.name, false), c.binding)
		}
	}
}

func TestMatch(t *testing.T) { // R1.1 (case), R1.3
	for _, c := range []struct {
		binding, name string
		want          bool
	}{
		{"$.A", "$.A", true},
		{"$.A", "$.a", false},
		{"$.A", "$.A.B", false},
		{"$.*", "$.A", true},
		{"$.*", "$.A.B.C", true},
		{"$.%", "$.A", true},
		{"$.%", "$.A.B", false},
		{"$.A.*", "$.A", false},
		{"$.A.*", "$.A.B", true},
		{"$.A.*", "$.A.B.C", true},
		{"$.A.*", "$.AB.C", false},
		{"$.A.%", "$.A.B", true},
		{"$.A.%", "$.A.B.C", false},
		{"$.A.%", "$.A", false},
		{"$.A.%", "$.B.A", false},
	} {
		if got := Match(c.binding, c.name); got != c.want {
			t.Errorf("Match(%s, %s) = %v", c.binding, c.name, got)
		}
	}
}

func TestReplierQuery(t *testing.T) { // R1.4, R3.7
	b := start(t)
	k := b.open()
	b.reply(k, "$.A.*")
	for _, c := range []struct {
		name string
		want uint32
		err  unix.Errno
	}{
		{"$.A.*", k, 0},
		{"$.A.B", 0, 0},
		{"$.*", 0, 0},
		{"nonsense", 0, 0},
		{"", 0, unix.ENAMETOOLONG},
		{strings.Repeat("x", 1000), 0, 0},
		{strings.Repeat("x", 1001), 0, unix.ENAMETOOLONG},
	} {
		id, err := b.Replier(c.name)
		b.is(err, c.err)
		if id != c.want {
			t.Errorf("Replier(%s) = %d, want %d", c.name, id, c.want)
		}
	}
}
