package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kbus": main})
}

// The scripts run kbus as its users do: processes, pipes and exit codes. Beside
// testscript's own commands they have those of scriptCommands.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Cmds:                scriptCommands,
		Setup: func(env *testscript.Env) error {
			running := &processes{m: map[string]*process{}}
			env.Values[processesKey{}] = running
			env.Defer(running.end)
			// The path of a socket is short.
			dir, err := os.MkdirTemp("", "kbus-test-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("KBUS_SOCKET", filepath.Join(dir, "s"))
			return nil
		},
	})
}

var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	// start NAME REGEXP PROGRAM ARG…: run in the background until a line of its
	// standard output or error matches. Its standard input is open and empty.
	"start": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 3 {
			ts.Fatalf("usage: start NAME REGEXP PROGRAM ARG…")
		}
		cmd := exec.Command(args[2], args[3:]...)
		cmd.Dir = ts.Getenv("WORK")
		p, err := start(cmd, ts.Getenv)
		ts.Check(err)
		ts.Value(processesKey{}).(*processes).add(args[0], p)
		if !p.says(args[1]) {
			ts.Fatalf("%s ended before it said %s: %s", args[0], args[1], p.words())
		}
	},
	// said NAME REGEXP: wait until a line of its output matches.
	"said": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 2 {
			ts.Fatalf("usage: said NAME REGEXP")
		}
		p := ts.Value(processesKey{}).(*processes).get(ts, args[0])
		if !p.says(args[1]) {
			ts.Fatalf("%s ended before it said %s: %s", args[0], args[1], p.words())
		}
	},
	// feed NAME FILE: write the file to its standard input, which stays open.
	"feed": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 2 {
			ts.Fatalf("usage: feed NAME FILE")
		}
		_, err := io.WriteString(ts.Value(processesKey{}).(*processes).get(ts, args[0]).in, ts.ReadFile(args[1]))
		ts.Check(err)
	},
	// signal NAME SIGNAL.
	"signal": func(ts *testscript.TestScript, neg bool, args []string) {
		signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP}
		if neg || len(args) != 2 || signals[args[1]] == 0 {
			ts.Fatalf("usage: signal NAME INT|TERM|KILL|STOP")
		}
		p := ts.Value(processesKey{}).(*processes).get(ts, args[0])
		p.signalled = true
		ts.Check(p.cmd.Process.Signal(signals[args[1]]))
	},
	// finish NAME CODE: wait for its end and for that exit code (-1: killed), and
	// leave its output in NAME.out and NAME.err.
	"finish": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 2 {
			ts.Fatalf("usage: finish NAME CODE")
		}
		p := ts.Value(processesKey{}).(*processes).get(ts, args[0])
		code := p.wait()
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), p.out, 0o600))
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), p.err, 0o600))
		if fmt.Sprint(code) != args[1] {
			ts.Fatalf("%s exited with %d, want %s: %s", args[0], code, args[1], p.words())
		}
	},
	// until REGEXP PROGRAM ARG…: run it again and again until its output matches.
	"until": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: until REGEXP PROGRAM ARG…")
		}
		want := regexp.MustCompile("(?m)" + args[0])
		for {
			ts.Check(ts.Exec(args[1], args[2:]...))
			if want.MatchString(ts.ReadFile("stdout")) {
				return
			}
		}
	},
	// code N PROGRAM ARG…: run and want that exit code; then "stdout" and "stderr"
	// look at its output.
	"code": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: code N PROGRAM ARG…")
		}
		err := ts.Exec(args[1], args[2:]...)
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else {
			ts.Check(err)
		}
		if fmt.Sprint(code) != args[0] {
			ts.Fatalf("exit code %d, want %s", code, args[0])
		}
	},
}

type processes struct{ m map[string]*process }

type processesKey struct{}

func (p *processes) add(name string, proc *process) { p.m[name] = proc }

func (p *processes) get(ts *testscript.TestScript, name string) *process {
	proc := p.m[name]
	if proc == nil {
		ts.Fatalf("nothing called %s was started", name)
	}
	return proc
}

// end ends what a script has left.
func (p *processes) end() {
	for _, proc := range p.m {
		_ = proc.cmd.Process.Kill() // it may have ended
		proc.wait()
	}
}
