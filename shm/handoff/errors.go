package handoff

import "golang.org/x/sys/unix"

// sentinel is a condition that also answers errors.Is for an errno.
type sentinel struct {
	text  string
	errno unix.Errno
}

func (s *sentinel) Error() string { return s.text }

// Is makes errors.Is find the errno.
func (s *sentinel) Is(target error) bool { return target == s.errno }

// As makes errors.As find it, for who tells others the errno.
func (s *sentinel) As(target any) bool {
	e, ok := target.(*unix.Errno)
	if ok {
		*e = s.errno
	}
	return ok
}

// Conditions, wrapped with what happened where; test for them with errors.Is,
// which finds the errno named with each, too.
var (
	// ErrRunning (EADDRINUSE): another process listens at the path.
	ErrRunning error = &sentinel{"another process is listening there", unix.EADDRINUSE}

	// ErrBadPath (EINVAL): no socket can be, or should be, at the path.
	ErrBadPath error = &sentinel{"not usable as the path of a socket", unix.EINVAL}

	// ErrNotListener (ENOTSOCK): the descriptor is not a listening Unix socket
	// of the kind SOCK_SEQPACKET.
	ErrNotListener error = &sentinel{"not a listening SOCK_SEQPACKET Unix socket", unix.ENOTSOCK}

	// ErrTooLong (EMSGSIZE): a packet is longer than the buffer for it, or than the
	// socket takes.
	ErrTooLong error = &sentinel{"packet too long", unix.EMSGSIZE}

	// ErrEmpty (EINVAL): a packet of no bytes, which can not be told from the
	// end of the connection, is not sent.
	ErrEmpty error = &sentinel{"packet of no bytes", unix.EINVAL}

	// ErrTooManyFiles (E2BIG): a packet carries more than MaxFiles descriptors.
	ErrTooManyFiles error = &sentinel{"too many descriptors in a packet", unix.E2BIG}

	// ErrFilesLost (EMFILE): descriptors of a packet could not be taken over:
	// most likely this process has no descriptor left (ulimit -n).
	ErrFilesLost error = &sentinel{"descriptors were lost on the way, probably because this process has none left", unix.EMFILE}

	// ErrNoPoller (ENOMEM): the poller of Go's runtime, epoll, did not take a
	// descriptor; package os keeps the reason to itself.
	ErrNoPoller error = &sentinel{"the descriptor can not be waited for (no memory, or more than fs.epoll.max_user_watches)", unix.ENOMEM}

	// ErrGone (ESRCH): the process has ended.
	ErrGone error = &sentinel{"the process has ended", unix.ESRCH}
)
