//go:build !kbuscheck

package ring

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLayoutTable compares LAYOUT.md with the source: no word without its line,
// no two in one place, no part elsewhere.
func TestLayoutTable(t *testing.T) {
	text, err := os.ReadFile("LAYOUT.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]int{}
	for _, file := range []string{"layout.go", "control.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		word := regexp.MustCompile(`^(h|w|s|b|rec|m|c)[A-Z]`)
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 || !word.MatchString(v.Names[0].Name) || strings.HasSuffix(v.Names[0].Name, "Words") {
				return true
			}
			l, ok := v.Values[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			x, err := strconv.Atoi(l.Value)
			if err != nil {
				t.Fatalf("%s = %s", v.Names[0].Name, l.Value)
			}
			named[v.Names[0].Name] = x
			return true
		})
	}
	if len(named) < 70 {
		t.Fatalf("only %d words found in the source", len(named))
	}
	l, err := newLayout(Config{})
	if err != nil {
		t.Fatal(err)
	}
	number := map[string]int{"heldWords": heldWords, "inlineCopies": inlineCopies}
	parts := map[string][3]int{
		"header": {0, headerWords, 1}, "slots": {l.slots, l.slotWords, l.cfg.MaxKsocks + 1},
		"cells": {l.cells, cellWords, l.cfg.MaxBindings}, "journal": {l.journal, 1, journalWords},
		"areas": {l.areas, l.areaWords, 2 * (l.cfg.MaxKsocks + 1)}, "blocks": {l.blocks, blockWords, l.units},
		"payload": {l.payload, unitWords, l.units},
		"held":    {l.held, 1, heldWords}, "lane": {l.lane, 1, int(l.qmask) + 1}, "urg": {l.urg, 1, int(l.qmask) + 1},
		"kept": {l.kept, 1, int(l.kmask) + 1}, "rec": {l.rec, recWords, l.cfg.QueueSlots},
	}
	end, size := 0, map[string]int{
		"Header": headerWords, "Slot": sHeld + heldWords, "Cell of a binding": cellWords,
		"Record of the ledger": recWords, "Header of a unit": blockWords, "Payload of a control entry": cHead + 1,
	}
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		bad := func(format string, args ...any) {
			t.Errorf("LAYOUT.md:%d: %s: %s", i+1, line, fmt.Sprintf(format, args...))
		}
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section, end = s, 0
		}
		cols := strings.Split(line, "|")
		if len(cols) < 7 || strings.HasPrefix(line, "|--") {
			continue
		}
		for i := range cols {
			cols[i] = strings.TrimSpace(cols[i])
		}
		if p, ok := parts[cols[1]]; ok {
			if want := fmt.Sprint(p[0], p[1], p[2]); strings.Join(cols[2:5], " ") != want {
				bad("want %s", want)
			}
			if p[0] < end {
				bad("the part before it ends at %d", end)
			}
			if end = p[0] + p[1]*p[2]; cols[1] == "payload" && end > l.words {
				bad("beyond the region's %d words", l.words)
			} else if cols[1] == "rec" && end > l.slotWords {
				bad("beyond the slot's %d words", l.slotWords)
			} else if cols[1] == "payload" {
				end = 0
			}
			delete(parts, cols[1])
			continue
		}
		at, err := strconv.Atoi(cols[1])
		if err != nil {
			if cols[1] != "word" && cols[1] != "part" {
				bad("neither a word nor a part")
			}
			continue
		}
		if x, ok := named[cols[2]]; !ok || x != at {
			bad("in the source: %v, %d", ok, x)
		}
		delete(named, cols[2])
		n, ok := number[cols[3]]
		if !ok {
			if n, err = strconv.Atoi(cols[3]); err != nil {
				bad("how many words?")
			}
		}
		if at < end {
			bad("the word before it ends at %d", end)
		}
		if end = at + n; end > size[section] {
			bad("beyond the part's %d words", size[section])
		}
		if cols[4] == "" || cols[5] == "" || cols[6] == "" && !strings.HasPrefix(cols[4], "entry") {
			bad("who, when, and what a crash leaves?")
		}
	}
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range named {
			if !yield(k) {
				return
			}
		}
	}) {
		t.Errorf("%s is not in LAYOUT.md", k)
	}
	for k := range parts {
		t.Errorf("part %s is not in LAYOUT.md", k)
	}
}

// TestLayoutsFit checks geometries at the edges: parts in order, areas large
// enough to be of use, everything within the region.
func TestLayoutsFit(t *testing.T) {
	for _, c := range []Config{
		{}, small, {MaxKsocks: 1, MaxBindings: 1, ArenaBytes: 4 * unitBytes, KeptEvents: 1, QueueSlots: 2},
		{MaxKsocks: maxSlots - 1, MaxBindings: maxCopies, KeptEvents: 4000, ArenaBytes: 64 << 30},
	} {
		l, err := newLayout(c)
		if err != nil {
			t.Fatal(err)
		}
		at := []int{
			headerWords, l.slots, l.slot(1), l.slot(l.cfg.MaxKsocks + 1), l.cells, l.cell(l.cfg.MaxBindings), l.journal,
			l.journal + journalWords, l.areas, l.area(2*l.cfg.MaxKsocks + 2), l.blocks, l.block(l.units), l.payload, l.payload + l.units*unitWords, l.words,
		}
		if !slices.IsSorted(at) {
			t.Errorf("%+v: parts overlap: %v", c, at)
		}
		in := []int{sHeld, l.held, l.held + heldWords, l.lane, l.lane + int(l.qmask) + 1, l.urg, l.urg + int(l.qmask) + 1,
			l.kept, l.kept + int(l.kmask) + 1, l.rec, l.rec + recWords*(l.lmask+1), l.slotWords}
		if !slices.IsSorted(in) {
			t.Errorf("%+v: parts of a slot overlap: %v", c, in)
		}
		if l.areaWords < areaHead+3*l.areaCap || int(l.kmask) < l.cfg.KeptEvents+1 || l.reserve >= l.units-1 {
			t.Errorf("%+v: %+v", c, l)
		}
	}
}
