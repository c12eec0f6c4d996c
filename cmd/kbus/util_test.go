package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Every errno that sections 1 to 7 of the rules name has a meaning to a bus.
func TestErrnosOfTheRules(t *testing.T) {
	for _, e := range []unix.Errno{
		unix.EINVAL, unix.ENAMETOOLONG, unix.EBADMSG, // R1.4
		unix.EMSGSIZE,           // R2.6
		unix.ENOENT, unix.EBADF, // R3.1
		unix.EALREADY, unix.ENOMSG, // R3.8
		unix.EADDRINUSE,    // R4.2
		unix.EADDRNOTAVAIL, // R5.1
		unix.EPIPE,         // R5.2
		unix.ENOLCK,        // R5.3
		unix.EBUSY,         // R5.4
		unix.ECONNREFUSED,  // R5.9
		unix.EAGAIN,        // R6.5
		unix.EACCES, unix.ENOMEM, unix.EDQUOT, unix.EUSERS, unix.ENOSPC, unix.EMFILE, unix.ENOBUFS,
		unix.ECANCELED, unix.ESTALE, unix.ESHUTDOWN, unix.EIO, unix.EPROTONOSUPPORT, // beyond the original
	} {
		if len(describeErrno(e).Bus) == 0 {
			t.Errorf("%s has no meaning to a bus", unix.ErrnoName(e))
		}
	}
}

func TestSizeFlag(t *testing.T) {
	for text, want := range map[string]uint64{
		"1": 1, "65536": 65536, "512K": 512 << 10, "64M": 64 << 20, "64MiB": 64 << 20, "64mb": 64 << 20, "2G": 2 << 30, "1T": 1 << 40,
	} {
		var s sizeFlag
		if err := s.Set(text); err != nil || uint64(s) != want {
			t.Errorf("%q: %d, %v; want %d", text, uint64(s), err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "K", "1.5G", "1X", "M1", "99999999999999999999", "9999999999T"} {
		var s sizeFlag
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, uint64(s))
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 256 << 20: "256 MiB", 1<<30 - 64: "1 GiB", 1 << 40: "1 TiB", 1 << 60: "1048576 TiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
