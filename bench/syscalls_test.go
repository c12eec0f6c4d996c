package bench

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// I5: a message costs no system call when nobody sleeps. strace counts those of
// the thread that sends and receives; the other threads are Go's housekeeping.
// The same with a reader that waits by descriptor, which costs one for each message,
// shows that the count counts.
func TestNoSystemCalls(t *testing.T) {
	t.Setenv("GODEBUG", "asyncpreemptoff=1") // no signals of Go's own to that thread
	// The thread begins and ends with some: the word to go, and the report.
	const few = lockedMessages / 1000
	if n := systemCalls(t, "locked"); n > few {
		t.Errorf("%d system calls for %d messages", n, lockedMessages)
	}
	if n := systemCalls(t, "descriptor"); n < lockedMessages {
		t.Errorf("%d system calls for %d messages and a descriptor", n, lockedMessages)
	}
}

// systemCalls counts those of the thread that a role sends and receives on,
// while it does so.
func systemCalls(t *testing.T, role string) int {
	r, err := measure(t.Context(), short(Options{Size: 64, Strace: true}), role, func(s *stage) error {
		if err := s.set(role); err != nil {
			return err
		}
		_, err := s.play()
		return err
	})
	if errors.Is(err, ErrNoStrace) {
		t.Skipf("nobody counts system calls: %v", err) // says which package to install, or what is not permitted
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(*r.Processes[0].SystemCalls*lockedMessages + 0.5)
}

// lockedMessages is how many messages the roles here send.
const lockedMessages = 100_000

func init() {
	roles["locked"] = func(w *worker) (*report, error) { return locked(w, false) }
	roles["descriptor"] = func(w *worker) (*report, error) { return locked(w, true) }
}

// locked sends and receives on one thread that does nothing else. It does not
// look at a clock.
func locked(w *worker, descriptor bool) (*report, error) {
	runtime.LockOSThread()
	p, err := w.openPair()
	if err != nil {
		return nil, err
	}
	if descriptor {
		f, err := p.to.k.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
	}
	if err := w.begin(report{Thread: unix.Gettid()}); err != nil {
		return nil, err
	}
	for range lockedMessages {
		if err := p.pass(); err != nil {
			return nil, err
		}
	}
	return &report{Messages: lockedMessages}, nil
}
