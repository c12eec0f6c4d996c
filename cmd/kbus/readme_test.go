package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The Go examples of the README are built and run as they stand there.
func TestReadme(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var body strings.Builder
	parts := strings.Split(string(text), "```go\n")[1:]
	for _, part := range parts {
		code, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatal("an example does not end")
		}
		fmt.Fprintf(&body, "{\n%s}\n", code)
	}
	if len(parts) != 3 {
		t.Fatalf("%d examples instead of 3", len(parts))
	}
	program := filepath.Join(t.TempDir(), "main.go")
	source := fmt.Sprintf(readmeProgram, body.String())
	if err := os.WriteFile(program, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kbus-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := exec.Command("go", "run", program)
	run.Dir = root
	run.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	out, err := run.CombinedOutput()
	const want = "$.Actor.Speak: Ahem\nYes, I was\na frame of 3110400 bytes, the last is 7\n"
	if err != nil || string(out) != want {
		t.Errorf("%v: %s", err, out)
	}
}

const readmeProgram = `package main

import (
	"context"
	"fmt"
	"os"

	"kbus.internal/ksock"
	"kbus.internal/supervisor"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func film(b []byte) { b[len(b)-1] = 7 }
func show(b []byte) { fmt.Printf("a frame of %%d bytes, the last is %%d\n", len(b), b[len(b)-1]) }

func main() {
	ctx := context.Background()
	s, err := supervisor.Start(supervisor.Options{})
	check(err)
	defer s.Close()
	rosencrantz, err := ksock.Open(ctx, 0, nil)
	check(err)
	%s
}
`
