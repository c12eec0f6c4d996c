package main

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
)

// process is a program that runs in the background.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed when it has ended and all its output is there

	signalled bool // a signal is to end it, not the end of its standard input

	mu       sync.Mutex
	out, err []byte        // what it has written so far
	news     chan struct{} // closed and renewed when that grows
}

// start starts cmd; getenv, if not nil, gives its environment.
func start(cmd *exec.Cmd, getenv func(string) string) (*process, error) {
	p := &process{cmd: cmd, news: make(chan struct{}), ended: make(chan struct{})}
	if getenv != nil {
		for _, dir := range filepath.SplitList(getenv("PATH")) {
			if file, err := exec.LookPath(filepath.Join(dir, cmd.Args[0])); err == nil {
				cmd.Path, cmd.Err = file, nil
				break
			}
		}
		for _, v := range []string{"PATH", "HOME", "TMPDIR", "KBUS_SOCKET"} {
			cmd.Env = append(cmd.Env, v+"="+getenv(v))
		}
	}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.collect(stdout, &p.out) })
	readers.Go(func() { p.collect(stderr, &p.err) })
	go func() {
		readers.Wait()
		_ = cmd.Wait() // its exit code tells
		close(p.ended)
	}()
	return p, nil
}

func (p *process) collect(from io.Reader, to *[]byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		*to = append(*to, buf[:n]...)
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits until enough says so of what the process has written; false if
// it ended before.
func (p *process) await(enough func(out, err []byte) bool) bool {
	for {
		p.mu.Lock()
		done, news := enough(p.out, p.err), p.news
		p.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-news:
		case <-p.ended:
			p.mu.Lock()
			defer p.mu.Unlock()
			return enough(p.out, p.err)
		}
	}
}

// says waits until something that the process has written matches.
func (p *process) says(want string) bool {
	re := regexp.MustCompile("(?m)" + want)
	return p.await(func(out, err []byte) bool { return re.Match(out) || re.Match(err) })
}

// wait ends standard input, waits for the end and returns the exit code, -1 if
// the process was killed. After that out and err may be read.
func (p *process) wait() int {
	if !p.signalled {
		p.in.Close()
	}
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// words is all that it has written by now, for error messages.
func (p *process) words() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(bytes.Join([][]byte{p.out, p.err}, nil))
}
