package failing

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kbus.internal/shm/handoff"
	"kbus.internal/shm/shmtest"
)

// A kind is a system call as the tables below name it: with the operation, where
// one call has many.
type kind string

func kindOf(pid int, c shmtest.Call) kind {
	arg := func(i int) int { return int(int32(c.Args[i])) }
	switch c.Number {
	case unix.SYS_FCNTL:
		return sub("fcntl", fcntls, arg(1))
	case unix.SYS_FUTEX:
		return sub("futex", futexes, arg(1))
	case unix.SYS_GETSOCKOPT:
		return sub("getsockopt", options, arg(2))
	case unix.SYS_EPOLL_CTL:
		return sub("epoll_ctl", epolls, arg(1))
	case unix.SYS_READ, unix.SYS_WRITE:
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, arg(0))); err == nil && to == "anon_inode:[eventfd]" {
			return kind(calls[c.Number] + "(eventfd)")
		}
	case unix.SYS_OPENAT:
		if arg(2)&unix.O_CREAT != 0 {
			return "openat(create)"
		}
	}
	if name, ok := calls[c.Number]; ok {
		return kind(name)
	}
	return kind(fmt.Sprint("call ", c.Number))
}

func sub(call string, of map[int]string, n int) kind {
	if name, ok := of[n]; ok {
		return kind(call + "(" + name + ")")
	}
	return kind(fmt.Sprintf("%s(%d)", call, n))
}

var (
	fcntls = map[int]string{
		unix.F_DUPFD_CLOEXEC: "dup", unix.F_ADD_SEALS: "add seals", unix.F_GET_SEALS: "get seals",
		unix.F_GETFL: "get flags", unix.F_SETFL: "set flags",
	}
	futexes = map[int]string{0: "wait", 1: "wake"}
	options = map[int]string{unix.SO_PEERCRED: "peer's user", unix.SO_PEERGROUPS: "peer's groups", unix.SO_PEERPIDFD: "peer's pidfd"}
	epolls  = map[int]string{unix.EPOLL_CTL_ADD: "add", unix.EPOLL_CTL_DEL: "delete"}
)

// calls are the calls that appear, by number.
var calls = map[int]string{
	unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FCHMOD: "fchmod",
	unix.SYS_MMAP: "mmap", unix.SYS_MUNMAP: "munmap", unix.SYS_MADVISE: "madvise", unix.SYS_FSTAT: "fstat",
	unix.SYS_SYSINFO: "sysinfo", unix.SYS_SOCKET: "socket", unix.SYS_SOCKETPAIR: "socketpair",
	unix.SYS_CONNECT: "connect", unix.SYS_BIND: "bind",
	unix.SYS_LISTEN: "listen", unix.SYS_ACCEPT4: "accept4", unix.SYS_SENDMSG: "sendmsg", unix.SYS_RECVMSG: "recvmsg",
	unix.SYS_PIDFD_OPEN: "pidfd_open", unix.SYS_PIDFD_GETFD: "pidfd_getfd",
	unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_CLOSE: "close", unix.SYS_FLOCK: "flock",
	unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_READLINKAT: "readlinkat",
	unix.SYS_GETDENTS64: "getdents64", unix.SYS_EVENTFD2: "eventfd2", unix.SYS_GETRANDOM: "getrandom",
	unix.SYS_PPOLL: "poll", unix.SYS_PREAD64: "pread64", unix.SYS_SCHED_YIELD: "sched_yield",
}

// documented are the errnos that the manual pages name and that can come in such
// a use.
var documented = map[kind][]unix.Errno{
	"memfd_create":   {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINVAL, unix.EACCES},
	"ftruncate":      {unix.EFBIG, unix.EINVAL, unix.EPERM, unix.EINTR, unix.EIO},
	"fchmod":         {unix.EPERM, unix.EIO, unix.EROFS},
	"mmap":           {unix.ENOMEM, unix.ENFILE, unix.EAGAIN, unix.EACCES, unix.EPERM, unix.ENODEV},
	"munmap":         {unix.EINVAL, unix.ENOMEM},
	"madvise":        {unix.EINVAL, unix.ENOMEM, unix.EAGAIN, unix.EIO},
	"fstat":          {unix.ENOMEM, unix.EOVERFLOW},
	"fstatat":        {unix.ENOMEM, unix.EACCES, unix.ENOENT, unix.ELOOP},
	"sysinfo":        {unix.EFAULT},
	"socket":         {unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EACCES, unix.EAFNOSUPPORT},
	"socketpair":     {unix.EMFILE, unix.ENFILE, unix.EOPNOTSUPP},
	"connect":        {unix.EAGAIN, unix.ECONNREFUSED, unix.EACCES, unix.ENOENT, unix.EPERM, unix.EINTR, unix.EPROTOTYPE},
	"bind":           {unix.EADDRINUSE, unix.EACCES, unix.ENOMEM, unix.EROFS, unix.ENOENT},
	"listen":         {unix.EADDRINUSE, unix.EOPNOTSUPP},
	"accept4":        {unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR, unix.EPERM, unix.EPROTO},
	"sendmsg":        {unix.EPIPE, unix.ECONNRESET, unix.EINTR, unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE, unix.ETOOMANYREFS},
	"recvmsg":        {unix.EINTR, unix.ENOMEM, unix.ECONNRESET, unix.ENOTCONN},
	"pidfd_open":     {unix.EMFILE, unix.ENFILE, unix.ENODEV, unix.ENOMEM, unix.ESRCH, unix.EINVAL},
	"pidfd_getfd":    {unix.EMFILE, unix.EPERM, unix.ESRCH, unix.EBADF},
	"poll":           {unix.EINTR, unix.ENOMEM},
	"openat":         {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EACCES, unix.ENOENT, unix.EINTR, unix.ELOOP},
	"openat(create)": {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EACCES, unix.ENOSPC, unix.EROFS, unix.EDQUOT, unix.EINTR},
	"read":           {unix.EINTR, unix.EIO},
	"write":          {unix.EINTR, unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EFBIG},
	"close":          {unix.EINTR, unix.EIO, unix.ENOSPC},
	"flock":          {unix.EINTR, unix.ENOLCK, unix.EWOULDBLOCK},
	"mkdirat":        {unix.EACCES, unix.EEXIST, unix.ENOSPC, unix.EROFS, unix.ENOENT},
	"unlinkat":       {unix.EACCES, unix.EBUSY, unix.EIO, unix.EPERM, unix.EROFS},
	"renameat":       {unix.EACCES, unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT},
	"fchmodat":       {unix.EPERM, unix.EIO, unix.EROFS},
	"readlinkat":     {unix.ENOENT, unix.EACCES, unix.ENOMEM},
	"getdents64":     {unix.ENOENT},
	"eventfd2":       {unix.EMFILE, unix.ENFILE, unix.ENODEV, unix.ENOMEM},

	"fcntl(dup)":       {unix.EMFILE, unix.EINVAL},
	"fcntl(add seals)": {unix.EBUSY, unix.EINVAL, unix.EPERM},
	"fcntl(get seals)": {unix.EINVAL},
	"fcntl(set flags)": {unix.EPERM},

	// eventfd(2) tells of EAGAIN, too: see below.
	"read(eventfd)":  {unix.EINTR, unix.EINVAL},
	"write(eventfd)": {unix.EINTR},

	"futex(wait)": {unix.EINTR, unix.EAGAIN, unix.ETIMEDOUT, unix.EACCES, unix.EFAULT, unix.EINVAL},
	"futex(wake)": {unix.EFAULT, unix.ENOMEM, unix.EINVAL},

	"getsockopt(peer's user)":   {unix.ENOPROTOOPT, unix.ENOBUFS},
	"getsockopt(peer's groups)": {unix.ENOPROTOOPT, unix.ENODATA},
	"getsockopt(peer's pidfd)":  {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ESRCH, unix.EINVAL, unix.ENODATA},

	"epoll_ctl(add)": {unix.ENOMEM, unix.ENOSPC, unix.EPERM},
}

// otherWords are what stands for the errno: what it means there, or, where Go's
// library keeps it to itself, what is known.
var otherWords = map[kind][]string{
	"epoll_ctl(add)":           {handoff.ErrNoPoller.Error(), "no descriptor left"},
	"flock":                    {handoff.ErrRunning.Error()},
	"sendmsg":                  {handoff.ErrTooLong.Error()},
	"getsockopt(peer's pidfd)": {handoff.ErrGone.Error(), "no descriptor left"},
	"connect":                  {handoff.ErrRunning.Error(), "is not of the kind SOCK_SEQPACKET"}, // EAGAIN, EPROTOTYPE: somebody is there
	"getdents64":               {"nobody holds the bus any more"},                                 // ENOENT: the process has ended
	"fstatat":                  {"has not given it back yet"},
	"fcntl(get seals)":         {"not a memory file"},
	"readlinkat":               {"has not given it back yet"},
	"pidfd_open":               {"nobody holds the bus any more", "its process ended"}, // ESRCH
	"accept4":                  {"no descriptor left"},
	"openat":                   {"no descriptor left", "has not given it back yet"},
}

// leftOut are calls that are seen and not made to fail, and why. (EAGAIN of
// sendmsg, recvmsg, accept4 and of eventfds is left out, too: the kernel says it only if it will
// tell the poller later, so a false one makes a wait that nothing ends.)
var leftOut = map[kind]string{
	"fcntl(get flags)":  "fails only for what is no descriptor",
	"epoll_ctl(delete)": "the runtime's, which does not look at the error; the close that follows does the same",
	"sched_yield":       "never fails, and nobody looks",
	"pread64":           "the runtime's, which looks at its group's limit of CPUs about once a second",
}
