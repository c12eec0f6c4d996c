//go:build linux && (amd64 || arm64) && !kbuscheck

package shm

import (
	"math"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The futex operations are the shared ones: with FUTEX_PRIVATE_FLAG the kernel
// would look for sleepers of this process only.
const (
	futexWait = 0
	futexWake = 1
)

// Wait sleeps until a Wake of the word, by any process, or until timeout has
// passed, if the low 32 bits of the word are old; otherwise it returns at once.
// A signal ends the sleep, too: the caller looks at the word again whatever
// ended it. Nil in all these cases; an error is a broken mapping (EFAULT). A
// timeout of 0 or less does not sleep.
//
// The sleep takes a thread of the process.
func (w *Word) Wait(old uint32, timeout time.Duration) error {
	if timeout <= 0 {
		return nil
	}
	ts := unix.NsecToTimespec(int64(timeout))
	// Little-endian: the word's own address is that of its low half.
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWait, uintptr(old),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0, unix.EAGAIN, unix.ETIMEDOUT, unix.EINTR:
		return nil
	}
	return os.NewSyscallError("futex wait", errno)
}

// Wake ends all sleeps in Wait on the word, in all processes. It always wakes
// all: a single one might be dying, and take the wake-up with it. It never
// blocks, so the scheduler need not hear of it.
func (w *Word) Wake() {
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWake, math.MaxInt32, 0, 0, 0)
}
