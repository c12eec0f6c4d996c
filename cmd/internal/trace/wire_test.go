package trace

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func transcripts(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"limpet/given", "limpet/corrected"} {
		list, err := filepath.Glob(filepath.Join("testdata", dir, "*.jsonl"))
		if err != nil || len(list) == 0 {
			t.Fatalf("no transcripts in %s: %v", dir, err)
		}
		all = append(all, list...)
	}
	return all
}

func parseWire(t testing.TB, file string) *Wire {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseWire(bytes.NewReader(text), file)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWire plays every transcript with a real Limpet on a real bus: section 8, byte for byte.
func TestWire(t *testing.T) {
	for _, file := range transcripts(t) {
		w := parseWire(t, file)
		corrected := filepath.Base(filepath.Dir(file)) == "corrected"
		if corrected != (len(w.Corrected) > 0) || w.Accidents != nil || w.Name+".jsonl" != filepath.Base(file) {
			t.Errorf("%s: name %q, corrected by %v, shows %v", file, w.Name, w.Corrected, w.Accidents)
		}
		t.Run(w.Name, func(t *testing.T) {
			list, err := w.Play(t.Context(), Real)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list {
				t.Error(d)
			}
		})
	}
}

// TestWireCatches changes a transcript in each of the ways that a Limpet could err, and wants that to be seen.
func TestWireCatches(t *testing.T) {
	const file = "testdata/limpet/given/dialogue.jsonl"
	before := limit
	limit = 300 * time.Millisecond // these wait for what does not come
	defer func() { limit = before }()
	play := func(change func(*Wire)) []Difference {
		t.Helper()
		w := parseWire(t, file)
		change(w)
		list, err := w.Play(t.Context(), Real)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	outs := func(w *Wire) (list []int) {
		for i, s := range w.Steps {
			if s.Out != nil {
				list = append(list, i)
			}
		}
		return list
	}
	for what, c := range map[string]struct {
		change func(*Wire)
		op     string
	}{
		"another byte written": {func(w *Wire) { w.Steps[outs(w)[3]].Out[20] ^= 1 }, "out"},
		"more written than listed": {func(w *Wire) {
			i := outs(w)[2]
			w.Steps = slices.Delete(w.Steps, i, i+1)
		}, "send"},
		"a link left open":   {func(w *Wire) { w.Steps[len(w.Steps)-2] = WireStep{Line: 99, In: []byte{}} }, "closed"},
		"a link closed":      {func(w *Wire) { w.Steps = w.Steps[:len(w.Steps)-1] }, "in"},
		"another answer":     {func(w *Wire) { w.Steps[10].Bus.Want["msg"].(map[string]any)["name"] = "$.Else" }, "next"},
		"a frame that is no": {func(w *Wire) { w.Steps[6].In[0] ^= 1 }, "in"},
	} {
		t.Run(what, func(t *testing.T) {
			list := play(c.change)
			if !slices.ContainsFunc(list, func(d Difference) bool { return d.Op == c.op }) {
				t.Errorf("not seen at %q: %v", c.op, list)
			}
		})
	}
}

// TestWireParsing checks that what is no transcript is refused, with its line.
func TestWireParsing(t *testing.T) {
	const header = `{"format":"limpet-wire/1","name":"n","about":"a","network_id":1,"peer_network_id":2,"role":"connect","limpet_ksock":1,"limpet_ksock_opened":"before the first step"}` + "\n"
	for text, want := range map[string]string{
		"": "empty file",
		strings.Replace(header, "connect", "lurk", 1):                "role",
		header + `{"out":"4"}`:                                       "f:2: out",
		header + `{"frame":{}}`:                                      "neither",
		header + `{"closed":false}`:                                  "closed is not true",
		header + `{"in":"00","more":1}`:                              "more does not belong here",
		header + `{"bus":{"op":"next","k":"a","want":{"msg":null}}}`: `ksock "a" is not open`,
	} {
		if _, err := ParseWire(strings.NewReader(text), "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := parseWire(t, "testdata/limpet/given/dialogue.jsonl").Play(t.Context(), Model); err == nil {
		t.Error("a transcript was played on the model")
	}
}
