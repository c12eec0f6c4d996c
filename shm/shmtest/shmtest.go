// Package shmtest helps the tests of packages that work across processes: it
// runs parts of a test in processes of their own, and finds descriptors that
// were left open. For tests only.
package shmtest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const childVariable = "KBUS_TEST_CHILD"

// Main runs the tests of m, or in a process that Command started the child of
// that name, which ends with status 1 and its error on standard error if it
// returns one. For TestMain; does not return.
func Main(m *testing.M, children map[string]func() error) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(childVariable)
	child, ok := children[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no child %q\n", name)
		os.Exit(2)
	}
	if err := child(); err != nil {
		fmt.Fprintf(os.Stderr, "child %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command returns a command, not started, that runs the child of that name in
// the test's own program; args are its os.Args[1:]. What it writes to standard
// error is shown. It is killed when the test ends.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append(os.Environ(), childVariable+"="+name)
	c.Stderr = os.Stderr
	return c
}

// A Child is a process whose standard input and output are the test's.
type Child struct {
	*exec.Cmd
	In  io.WriteCloser
	Out *bufio.Reader
}

// Start starts c. It is killed, and waited for, when the test ends at the latest.
func Start(t testing.TB, c *exec.Cmd) *Child {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	child := &Child{c, in, bufio.NewReader(out)}
	t.Cleanup(child.Kill)
	return child
}

// Kill kills the process by SIGKILL and waits for its end. It may be repeated.
func (c *Child) Kill() {
	c.Process.Kill()
	c.Wait()
}

// CheckFiles fails the test if, at its end, descriptors are open that are not
// open now. To be called first, so that it looks last.
func CheckFiles(t testing.TB) {
	t.Helper()
	// Go's poller keeps descriptors of its own from its first use on.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	before := OpenFiles(t)
	t.Cleanup(func() {
		for fd, target := range OpenFiles(t) {
			if before[fd] != target {
				t.Errorf("descriptor %s is still open: %s", fd, target)
			}
		}
	})
}

// OpenFiles returns this process's descriptors and what they are.
func OpenFiles(t testing.TB) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(target, "/proc/") { // the directory that was read just now
			continue
		}
		files[e.Name()] = target
	}
	return files
}
