package shmtest

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A notification is a struct seccomp_notif.
type notification struct {
	id      uint64
	tid     uint32
	flags   uint32
	number  int32
	arch    uint32
	address uint64
	args    [6]uint64
	call    Call // not the kernel's
}

const _ = uint(unsafe.Offsetof(notification{}.call) - 80)
const _ = uint(80 - unsafe.Offsetof(notification{}.call))

// installFilter makes all threads of the process ask about the system calls
// that come from an address but those of except, or, if address is nil, about
// the call of the number only.
func installFilter(address *uint64, only int, except []int) (int, error) {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		more  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		// Offsets in struct seccomp_data.
		number, arch, low, high, arg0 = 0, 4, 8, 12, 16
	)
	architecture := uint32(unix.AUDIT_ARCH_X86_64)
	if runtime.GOARCH == "arm64" {
		architecture = unix.AUDIT_ARCH_AARCH64
	}
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	ask := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}
	p := []unix.SockFilter{{Code: load, K: arch}, {Code: equal, Jt: 1, K: architecture}, allow}
	if address == nil {
		p = append(p, unix.SockFilter{Code: load, K: number}, unix.SockFilter{Code: equal, Jt: 1, K: uint32(only)}, allow, ask)
	} else {
		p = append(p,
			unix.SockFilter{Code: load, K: low}, unix.SockFilter{Code: equal, Jt: 1, K: uint32(*address)}, allow,
			unix.SockFilter{Code: load, K: high}, unix.SockFilter{Code: equal, Jt: 1, K: uint32(*address >> 32)}, allow,
			unix.SockFilter{Code: load, K: number})
		for _, n := range except {
			p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: uint32(n)}, allow)
		}
		p = append(p,
			unix.SockFilter{Code: equal, Jt: 2, K: unix.SYS_READ}, unix.SockFilter{Code: equal, Jt: 1, K: unix.SYS_WRITE}, ask,
			unix.SockFilter{Code: load, K: arg0}, unix.SockFilter{Code: more, Jt: 1, K: 2}, allow, ask)
	}
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	// With the last flag a signal, as Go's runtime sends them, does not make a
	// call be told twice.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC |
		unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, os.NewSyscallError("seccomp", errno) // Linux 5.19 is needed
	}
	return int(fd), nil
}

func receiveCall(fd int) (n notification, err error) {
	if err := control(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		return n, err
	}
	n.call = Call{int(n.number), n.args}
	return n, nil
}

// answerCall ends a call with errno, or lets it be made if that is 0.
func answerCall(fd int, id uint64, errno unix.Errno) error {
	r := struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}{id: id, errno: -int32(errno)}
	if errno == 0 {
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	return control(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// replaceFile puts a duplicate of file in the place of the caller's descriptor.
func replaceFile(fd int, id uint64, file, descriptor int) error {
	r := struct {
		id                             uint64
		flags, from, number, fileFlags uint32
	}{id, unix.SECCOMP_ADDFD_FLAG_SETFD, uint32(file), uint32(descriptor), unix.O_CLOEXEC}
	return control(fd, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&r))
}

func control(fd int, op uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
