package ring

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Negative controls: bugs that are planted into the source, one at a time, to see
// that the check which is to find such a bug does. Nothing of them is in what is
// built otherwise: the compiler is given another text in place of a file
// (go build -overlay). planted_list_test.go has the bugs.

var plantedFlag = flag.String("planted", "", "which of the planted bugs TestPlantedBugs builds and runs: those whose name matches this; \"\": a handful, with -short one")

// A planted is a bug and the check that finds it.
type planted struct {
	bug   string
	edits []replacement
	layer string // a key of layers
	in    string // the layer's configuration, or the test
	says  string // what a violation says, as a regular expression; "": the layer's
	also  string // another layer, all of it, that finds it
	few   bool   // one of the handful
}

// A replacement is of a text that occurs once in a file.
type replacement struct{ file, old, new string }

// A layer is a way of checking.
type layer struct {
	test string // the name of the test is that with "/" and planted.in
	tags string
	env  []string
	args []string
	says string // what a violation looks like
}

var layers = map[string]layer{
	"scheduler, random": {
		test: "TestCheckRandom", tags: "kbuscheck", env: []string{"KBUS_CHECK_RANDOM=12000"}, says: `schedule: `,
	},
	"scheduler, random, each Put a step": {
		test: "TestCheckRandom", tags: "kbuscheck", env: []string{"KBUS_CHECK_RANDOM=5000", "KBUS_CHECK_PUTS=1"}, says: `schedule: `,
	},
	"scheduler, all interleavings": {
		test: "TestCheckInterleavings", tags: "kbuscheck", env: []string{"KBUS_CHECK_LIMIT=20000"}, says: `schedule: `,
	},
	"scheduler, one preemption": {
		test: "TestCheckBounded", tags: "kbuscheck", env: []string{"KBUS_CHECK_LIMIT=20000", "KBUS_CHECK_PREEMPTIONS=1"}, says: `schedule: `,
	},
	"scheduler, a death at each step": {test: "TestCheckDeaths", tags: "kbuscheck", says: `schedule: `},
	"an end at each write":            {tags: "kbuscheck", args: []string{"-test.short"}, says: `end before write`},
	"lists of operations, shrunk": {
		test: "TestShrinkingHistories", args: []string{"-shrink=6000", "-rapid.shrinktime=5s"}, says: `\[rapid\] failed`,
	},
	"operations at once, jostled": {
		test: "TestConcurrentSteps", tags: "kbuscheck", args: []string{"-test.short"}, says: `no order explains|blocks in use`,
	},
	"a sequence": {args: []string{"-test.short"}, says: `the region is corrupt|model says`},
}

// run is the name of a layer's test, or of the part of it that is called in, its
// tags, and the command's environment and arguments.
func (l layer) run(in string, seed uint64) (name, tags string, env, args []string) {
	name = l.test
	if in != "" {
		name = strings.TrimPrefix(l.test+"/"+strings.ReplaceAll(in, " ", "_"), "/")
	}
	var pattern []string
	for _, s := range strings.Split(name, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(s)+"$")
	}
	args = append([]string{"-test.run", strings.Join(pattern, "/"), "-test.timeout", "5m", "-test.v"}, l.args...)
	args = append(args, "-seed", fmt.Sprint(seed))
	return name, l.tags, append(append([]string{fmt.Sprint("KBUS_CHECK_SEED=", seed)}, l.env...), plantedEnv...), args
}

// plantedEnv keeps the caller's settings from the checks.
var plantedEnv = []string{"KBUS_CHECK_REPLAY=", "KBUS_CHECK_RUNS="}

// sources puts the bug into its files, and gives the text of each.
func (p *planted) sources() (map[string]string, error) {
	files := map[string]string{}
	for _, e := range p.edits {
		text, ok := files[e.file]
		if !ok {
			b, err := os.ReadFile(e.file)
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s: occurs %d times, must occur once: %q", e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// row is the bug's row of the table in README.md.
func (p *planted) row() string {
	by := p.layer
	if p.also != "" {
		by += "; " + p.also
	}
	return fmt.Sprintf("| %s | %s | %s |", p.bug, by, p.in)
}

// TestPlantedBugsApply: every planted bug still fits the source, and README.md's
// table is of these bugs.
func TestPlantedBugsApply(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "## Planted bugs")
	if i := strings.Index(table, "\n## "); i >= 0 {
		table = table[:i]
	}
	rows := 0
	for _, l := range strings.Split(table, "\n") {
		if strings.HasPrefix(l, "| ") && !strings.HasPrefix(l, "| bug ") {
			rows++
		}
	}
	names := map[string]bool{}
	for i := range plantedBugs {
		p := &plantedBugs[i]
		if names[p.bug] {
			t.Errorf("%s: twice in the list", p.bug)
		}
		names[p.bug] = true
		if _, ok := layers[p.layer]; !ok {
			t.Errorf("%s: no layer %q", p.bug, p.layer)
		}
		if _, ok := layers[p.also]; !ok && p.also != "" {
			t.Errorf("%s: no layer %q", p.bug, p.also)
		}
		if _, err := p.sources(); err != nil {
			t.Errorf("%s does not fit the source any more: %v", p.bug, err)
		}
		if !strings.Contains(table, p.row()+"\n") {
			t.Errorf("not in README.md's table:\n%s", p.row())
		}
	}
	if rows != len(plantedBugs) {
		t.Errorf("README.md's table has %d rows, there are %d planted bugs", rows, len(plantedBugs))
	}
}

// TestPlantedBugs plants the bugs of -planted, one at a time, and wants each found
// by its check, which must find nothing without the bug.
func TestPlantedBugs(t *testing.T) {
	sd := *seedFlag
	if sd == 0 {
		sd = 1
	}
	which, err := regexp.Compile(*plantedFlag)
	if err != nil {
		t.Fatal(err)
	}
	g := &gardener{seed: sd, dir: t.TempDir(), clean: map[string]string{}, passed: map[string]string{}}
	ran, found := 0, 0
	for i := range plantedBugs {
		p := &plantedBugs[i]
		if *plantedFlag == "" && (!p.few || testing.Short() && ran > 0) || !which.MatchString(p.bug) {
			continue
		}
		ran++
		ok := t.Run(p.bug, func(t *testing.T) {
			files, err := p.sources()
			if err != nil {
				t.Fatalf("does not fit the source any more: %v", err)
			}
			g.find(t, files, layers[p.layer], p.in, p.says)
			if p.also != "" {
				g.find(t, files, layers[p.also], "", "")
			}
		})
		if ok {
			found++
		}
	}
	t.Logf("%d planted bugs, %d found; seed %d; %s, %s", ran, found, sd, plantedMachine(), runtime.Version())
	if ran == 0 {
		t.Error("no bug has such a name")
	}
}

// A gardener builds and runs.
type gardener struct {
	seed   uint64
	dir    string
	clean  map[string]string // by tags: the test binary of the source as it is
	passed map[string]string // by command: "", or what was wrong without a bug
}

// find wants a part of a layer to find the bug in files, and nothing without it.
func (g *gardener) find(t *testing.T, files map[string]string, l layer, in, says string) {
	t.Helper()
	name, tags, env, args := l.run(in, g.seed)
	if g.clean[tags] == "" {
		g.clean[tags] = filepath.Join(g.dir, "clean"+tags)
		plantedBuild(t, g.clean[tags], tags, nil)
	}
	key := fmt.Sprint(env, args)
	if _, ok := g.passed[key]; !ok {
		g.passed[key] = ""
		if out, err := plantedRun(g.clean[tags], env, args); err != nil {
			g.passed[key] = fmt.Sprintf("%v\n%s", err, plantedTail(out))
		} else if !strings.Contains(out, "--- PASS: "+name+" (") {
			g.passed[key] = "no such test:\n" + plantedTail(out)
		}
	}
	if g.passed[key] != "" {
		t.Fatalf("without the bug, %s: %s", name, g.passed[key])
	}
	bin := filepath.Join(g.dir, "planted")
	plantedBuild(t, bin, tags, files)
	start := time.Now()
	out, err := plantedRun(bin, env, args)
	if says == "" {
		says = l.says
	}
	switch {
	case err == nil:
		t.Fatalf("NOT FOUND by %s", name)
	case !strings.Contains(out, "--- FAIL: "+name+" (") || strings.Contains(out, "panic: test timed out"):
		t.Fatalf("%s neither passed nor failed: %v\n%s", name, err, plantedTail(out))
	case !regexp.MustCompile(says).MatchString(out):
		t.Fatalf("%s failed for another reason:\n%s", name, plantedTail(out))
	}
	t.Logf("found by %s in %v", name, time.Since(start).Round(time.Millisecond))
}

// plantedTail is the end of a long text.
func plantedTail(out string) string { return out[max(0, len(out)-4000):] }

// plantedBuild builds the package's test binary, with other texts for some files.
func plantedBuild(t *testing.T, bin, tags string, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(overlay.Replace[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-tags", tags, "-overlay", list, "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
}

// plantedRun runs a test binary; an error means that a test failed.
func plantedRun(bin string, env, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// plantedMachine tells what the machine is.
func plantedMachine() string {
	cpu := runtime.GOARCH
	b, _ := os.ReadFile("/proc/cpuinfo")
	if _, s, ok := strings.Cut(string(b), "model name\t: "); ok {
		cpu, _, _ = strings.Cut(s, "\n")
	}
	return fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), cpu)
}
