package check

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What may touch a region's memory in another way than by a shm.Word's methods.
// A new entry here is a new thing to prove.
var (
	// Files outside shm's *_unsafe.go that import sync/atomic, and what for.
	mayUseAtomics = map[string]string{
		"shm/word.go":         "Word itself",
		"shm/word_check.go":   "Word itself",
		"shm/put.go":          "Word.Put",
		"shm/memory_linux.go": "a reference count in Go memory",
	}
	// Functions of ring that take a region's words and bytes from shm.Memory.
	mayMap = map[string]bool{"Attach": true, "Format": true, "readLayout": true}
	// The one function of ring that makes a view of payload bytes.
	mayView = map[string]bool{"Attach": true, "bytesAt": true}
	// Functions of ring that use such views: of blocks that are theirs alone
	// (E3), or that they hold for reading.
	mayUseBytes = map[string]bool{
		"eventFor": true, "Send": true, "draw": true, "Data": true, "room": true, "fill": true, "read": true,
	}
	// Packages with a region: only there must every access be seen by the
	// scheduler. (bench and torture have memory of their own for their own ends.)
	checked = []string{"ring", "ksock", "supervisor"}
)

// scan reports what breaks the rules in one file; name is its path from the
// module's root.
func scan(name string, f *ast.File, report func(pos token.Pos, what string)) {
	dir := strings.Split(name, "/")[0]
	test := strings.HasSuffix(name, "_test.go")
	tool := strings.HasPrefix(name, "ring/check/") // the scheduler itself
	for _, i := range f.Imports {
		switch p, _ := strconv.Unquote(i.Path.Value); {
		case p == "unsafe" && (dir != "shm" || !strings.HasSuffix(name, "_unsafe.go")):
			report(i.Pos(), "unsafe outside shm's *_unsafe.go")
		case strings.Contains(p, "mmap") && dir != "shm":
			report(i.Pos(), "memory mapped outside shm")
		case p == "sync/atomic" && dir == "shm" && strings.Count(name, "/") == 1 && !test &&
			!strings.HasSuffix(name, "_unsafe.go") && mayUseAtomics[name] == "":
			report(i.Pos(), "sync/atomic in another file of shm")
		}
	}
	for _, g := range f.Comments {
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				report(c.Pos(), "go:linkname")
			}
		}
	}
	if test || tool || !slices.Contains(checked, dir) {
		return
	}
	for _, d := range f.Decls {
		in := ""
		if fn, ok := d.(*ast.FuncDecl); ok {
			in = fn.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x := last(sel.X)
			switch s := sel.Sel.Name; {
			case x == "atomic" && !slices.Contains([]string{"Bool", "Int32", "Int64", "Uint32", "Uint64", "Pointer", "Value"}, s):
				// The types live in Go memory; the functions take any pointer.
				report(sel.Pos(), "atomic."+s+" on a plain variable")
			case (x == "unix" || x == "syscall") && (strings.HasSuffix(s, "Mmap") || s == "SYS_FUTEX" || s == "SYS_MMAP"):
				report(sel.Pos(), x+"."+s+" outside shm")
			case s == "Words" || s == "Bytes" && (x == "mem" || x == "m" || x == "memory"):
				if dir != "ring" || !mayMap[in] {
					report(sel.Pos(), "a region's memory is taken in "+in)
				}
			case dir == "ring" && s == "data" && x == "b" && !mayView[in]:
				report(sel.Pos(), "payload bytes are viewed in "+in)
			case dir == "ring" && s == "bytesAt" && !mayUseBytes[in]:
				report(sel.Pos(), "payload bytes are used in "+in)
			}
			return true
		})
	}
}

// last is the last name of an expression like a.b.c.
func last(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// TestNoAccessBypassesWord scans the source of the whole module: every access to
// a region's words goes through shm.Word, so the scheduler sees it, and plain
// access to its bytes is confined to a few named views of payload.
func TestNoAccessBypassesWord(t *testing.T) {
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	files := 0
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(rel, ".s") && !strings.HasPrefix(rel, "shm/") {
			t.Errorf("%s: assembly outside shm", rel)
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		seen[rel] = true
		scan(rel, f, func(pos token.Pos, what string) { t.Errorf("%s: %s", fset.Position(pos), what) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shm/word.go", "shm/word_check.go", "ring/log.go", "ring/block.go", "ksock/ksock.go", "supervisor/bus.go"} {
		if !seen[name] {
			t.Errorf("%s has not been scanned: has it moved?", name)
		}
	}
	t.Logf("%d files", files)
}

// The scan finds what it is to find.
func TestScanFindsBypasses(t *testing.T) {
	for _, c := range []struct{ name, source string }{
		{"ring/x.go", "package ring\nimport \"unsafe\"\nvar _ unsafe.Pointer"},
		{"shm/x.go", "package shm\nimport \"unsafe\"\nvar _ unsafe.Pointer"},
		{"shm/x.go", "package shm\nimport \"sync/atomic\"\nvar _ atomic.Bool"},
		{"supervisor/x.go", "package supervisor\nimport \"github.com/edsrzf/mmap-go\"\nvar _ mmap.MMap"},
		{"ring/x.go", "package ring\nimport \"sync/atomic\"\nfunc f(p *uint64) { atomic.AddUint64(p, 1) }"},
		{"ring/x.go", "package ring\nfunc (c *Client) f() byte { return c.b.data[0] }"},
		{"ring/x.go", "package ring\nfunc (b *Bus) f() byte { return b.bytesAt(1, 0, 1)[0] }"},
		{"ring/x.go", "package ring\nfunc (b *Bus) f() byte { return b.mem.Bytes()[0] }"},
		{"ksock/x.go", "package ksock\nfunc f(m *shm.Memory) { m.Words()[0].Store(1) }"},
		{"ring/x.go", "package ring\nimport \"golang.org/x/sys/unix\"\nvar f = unix.SYS_FUTEX"},
		{"ring/x.go", "package ring\n//go:linkname f runtime.f\nfunc f()"},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), c.name, c.source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		scan(c.name, f, func(token.Pos, string) { found++ })
		if found == 0 {
			t.Errorf("%s: nothing found in %q", c.name, c.source)
		}
	}
}
