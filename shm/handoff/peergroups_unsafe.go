package handoff

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerGroups is getsockopt(SO_PEERGROUPS) (Linux 4.13), for which
// golang.org/x/sys/unix has no function.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64) // enough for nearly everybody; the kernel says when it is not
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size) > len(groups)*4:
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
