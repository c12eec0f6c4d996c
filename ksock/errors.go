package ksock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kbus.internal/ring"
	"kbus.internal/ring/control"
)

// Conditions that an operation may report, wrapped in an [*Error]; test for
// them with errors.Is. Each also answers errors.Is for its errno, so
// errors.Is(err, unix.EBUSY) and errors.Is(err, ErrQueueFull) hold together.
var (
	// ErrReplierExists: somebody, perhaps this Ksock, is Replier for the name (R4.2).
	ErrReplierExists error = &condition{unix.EADDRINUSE, "the name has a Replier already"}
	// ErrNotBound: no binding of this Ksock has that name and role (R4.4).
	ErrNotBound error = &condition{unix.EINVAL, "this Ksock has no such binding"}
	// ErrNoReplier: nobody replies to Requests of that name (R5.1).
	ErrNoReplier error = &condition{unix.EADDRNOTAVAIL, "nobody is Replier for the name"}
	// ErrAskerGone: the Ksock that sent the Request is closed (R3.8).
	ErrAskerGone error = &condition{unix.EADDRNOTAVAIL, "the asker is gone"}
	// ErrBadName: the name breaks R1.1 or, where it may have wildcards, R1.2.
	ErrBadName error = &condition{unix.EBADMSG, "not a valid message name"}
	// ErrNameTooLong: the name has more than 1000 bytes (R1.4).
	ErrNameTooLong error = &condition{unix.ENAMETOOLONG, "the name is longer than 1000 bytes, or empty"}
	// ErrQueueFull: a recipient that must get the message has no room (section 6).
	ErrQueueFull error = &condition{unix.EBUSY, "a queue is full"}
	// ErrWouldBlock: the message now waits in this Ksock (R6.5); of a bind or
	// unbind: a Listener of the bind events has no room (R7.3).
	ErrWouldBlock error = &condition{unix.EAGAIN, "a queue is full, for now"}
	// ErrSendPending: a send of this Ksock still waits (R6.5).
	ErrSendPending error = &condition{unix.EALREADY, "a send of this Ksock is still waiting"}
	// ErrNothingToSend: no send of this Ksock is waiting (R6.5).
	ErrNothingToSend error = &condition{unix.ENOMSG, "there is nothing to send"}
	// ErrNotAsked: the Reply answers no Request that this Ksock has read and not answered (R5.9).
	ErrNotAsked error = &condition{unix.ECONNREFUSED, "this Ksock owes no Reply to that Request"}
	// ErrNoReplyRoom: a Request needs a free place in its own sender's queue (R5.3).
	ErrNoReplyRoom error = &condition{unix.ENOLCK, "no room in this Ksock's queue for the answer"}
	// ErrReplierChanged: another Ksock than the one addressed is Replier now (R5.2).
	ErrReplierChanged error = &condition{unix.EPIPE, "the Replier is not the Ksock addressed"}
	// ErrTooLong: the message is larger than the bus's limit (R2.6).
	ErrTooLong error = &condition{unix.EMSGSIZE, "the message is larger than the bus's limit"}
	// ErrReadOnly: the Ksock was opened for reading only (R3.1).
	ErrReadOnly error = &condition{unix.EBADF, "the Ksock is read-only"}
	// ErrInvalid: an argument is out of range, or flags contradict each other.
	ErrInvalid error = &condition{unix.EINVAL, "invalid argument"}
	// ErrNoMemory: the bus's arena has no room for the message now.
	ErrNoMemory error = &condition{unix.ENOMEM, "the bus has no memory left for the message"}
	// ErrNoBus: there is no bus of that number (R3.1).
	ErrNoBus error = &condition{unix.ENOENT, "there is no such bus"}
	// ErrNotAllowed: the supervisor does not admit this user.
	ErrNotAllowed error = &condition{unix.EACCES, "this user is not admitted"}
	// ErrDiscarded: another goroutine discarded the message that this Send waited for.
	ErrDiscarded error = &condition{unix.ECANCELED, "the waiting message was discarded"}
	// ErrGone: the supervisor, started anew, does not know this Ksock any more; open another.
	ErrGone error = &condition{unix.ESTALE, "the bus does not know this Ksock any more"}

	// ErrClosed: the Ksock was closed, before or during the operation.
	ErrClosed = os.ErrClosed
	// ErrNoSupervisor: nobody answers at the socket.
	ErrNoSupervisor = control.ErrNoSupervisor
	// ErrCorrupt: the region holds what no version of this program writes.
	ErrCorrupt = ring.ErrCorrupt
)

// condition is an errno with the meaning that it has to a bus.
type condition struct {
	errno unix.Errno
	text  string
}

func (c *condition) Error() string { return c.text + " (" + unix.ErrnoName(c.errno) + ")" }

func (c *condition) Unwrap() error { return c.errno }

// An Error is what an operation of a Ksock returns when it fails. errors.Is
// finds in it the conditions of this package, the errno that the rules name, or
// the cause with which a context ended.
type Error struct {
	Op   string // "send", "bind", ...
	Name string // of the message or binding, or what else the operation was about; may be empty
	ID   uint32 // of the Ksock; 0 before it has one
	Peer uint32 // the other Ksock that it was about: whom the message was to, or whose Status came; 0 if there is none or it is not known
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.ID != 0 {
		fmt.Fprintf(&b, "Ksock %d: ", e.ID)
	}
	b.WriteString(e.Op)
	if e.Name != "" {
		b.WriteByte(' ')
		b.WriteString(shown(e.Name))
	}
	if e.Peer != 0 {
		fmt.Fprintf(&b, " (Ksock %d)", e.Peer)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// shown is a name on one line and not longer than is of use: what is refused as a
// name can be anything.
func shown(name string) string {
	const most = 100
	size := len(name)
	if size > most {
		name = name[:most]
	}
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' {
			name = strconv.Quote(name)
			break
		}
	}
	if size > most {
		name += fmt.Sprintf("… (%d bytes)", size)
	}
	return name
}

// Timeout tells whether a deadline ended the operation.
func (e *Error) Timeout() bool { return errors.Is(e.Err, context.DeadlineExceeded) }

// A StatusError is what [Ksock.Call] returns when the Request was answered by
// a Status: a message saying that no Reply will come (R5.6, R8.5, R8.6).
type StatusError struct {
	Status *Message
}

// Name is the Status's name, such as [StatusGoneAway].
func (e *StatusError) Name() string { return e.Status.Name }

func (e *StatusError) Error() string {
	name := e.Status.Name
	if text, ok := statusTexts[name]; ok {
		return text + " (" + name + ")"
	}
	if errno, ok := e.Errno(); ok {
		return fmt.Sprintf("the bus behind the Limpet refused the Request: %s (%s)", errno.Error(), name)
	}
	return "answered by the Status " + name
}

// Errno is that of a remote error (R8.6); false if the Status is none or names none.
func (e *StatusError) Errno() (unix.Errno, bool) {
	digits, ok := strings.CutPrefix(e.Status.Name, StatusRemoteError)
	if !ok || digits == "" || len(digits) > 4 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return unix.Errno(n), n != 0
}

// Is makes a StatusError answer errors.Is for the errno of a remote error, and
// for a StatusError of the same name.
func (e *StatusError) Is(target error) bool {
	switch t := target.(type) {
	case unix.Errno:
		n, ok := e.Errno()
		return ok && n == t
	case *StatusError:
		return t.Status != nil && t.Status.Name == e.Status.Name
	}
	return false
}

// kinds of operation, for errnos that mean different things to them.
type kind int

const (
	forOther kind = iota
	forReply
	forUnbind
)

// meaning gives an errno the meaning that it has in an operation of kind k.
// Whatever else err says (a supervisor's words, the recipient) is kept.
func meaning(k kind, err error) error {
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	c, ok := conditions[errno].(*condition)
	switch {
	case errno == unix.EADDRNOTAVAIL && k == forReply:
		c = ErrAskerGone.(*condition)
	case errno == unix.EINVAL && k == forUnbind:
		c = ErrNotBound.(*condition)
	case !ok:
		return err
	}
	var told *control.Error
	if err == error(errno) || errors.As(err, &told) && told.Error() == errno.Error() {
		return c
	}
	return &detail{c, err}
}

// precise says more of a condition with several causes, where the operation shows
// which it is.
func precise(op, name string, err error) error {
	send := op == "send" || op == "call" || op == "relay"
	switch {
	case name == "" && (err == ErrInvalid && send || err == ErrBadName): // R1.4
		return &detail{err.(*condition), errors.New("the name is empty")}
	case err == ErrInvalid && send: // the name was looked at before (R3.8)
		return &detail{err.(*condition), errors.New("AllOrWait and AllOrFail, or Request and Reply, exclude each other")} // R2.4, R2.5
	}
	return err
}

// detail is a condition with more words about it.
type detail struct {
	c   *condition
	err error
}

func (d *detail) Error() string { return d.err.Error() }

func (d *detail) Unwrap() []error { return []error{d.c, d.err} }

var conditions = map[unix.Errno]error{
	unix.EADDRINUSE:    ErrReplierExists,
	unix.EADDRNOTAVAIL: ErrNoReplier,
	unix.EBADMSG:       ErrBadName,
	unix.ENAMETOOLONG:  ErrNameTooLong,
	unix.EBUSY:         ErrQueueFull,
	unix.EAGAIN:        ErrWouldBlock,
	unix.EALREADY:      ErrSendPending,
	unix.ENOMSG:        ErrNothingToSend,
	unix.ECONNREFUSED:  ErrNotAsked,
	unix.ENOLCK:        ErrNoReplyRoom,
	unix.EPIPE:         ErrReplierChanged,
	unix.EMSGSIZE:      ErrTooLong,
	unix.EBADF:         ErrReadOnly,
	unix.EINVAL:        ErrInvalid,
	unix.ENOMEM:        ErrNoMemory,
	unix.ENOENT:        ErrNoBus,
	unix.EACCES:        ErrNotAllowed,
	unix.ESTALE:        ErrGone,
}
