package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kbus.internal/ring/model"
)

// files are all traces in testdata.
func files(t testing.TB) []string {
	t.Helper()
	list, err := filepath.Glob("testdata/*/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 184 {
		t.Fatalf("there are %d traces, 184 were recorded", len(list))
	}
	return list
}

func parse(t testing.TB, file string) *Trace {
	t.Helper()
	r, _, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	return r.(*Trace)
}

// TestModel plays every trace on the model of the rules.
func TestModel(t *testing.T) {
	playAll(t, Model)
}

// playAll plays every trace on what start starts.
func playAll(t *testing.T, start Start) {
	for _, file := range files(t) {
		tr := parse(t, file)
		t.Run(tr.Name, func(t *testing.T) {
			list, err := tr.Play(t.Context(), start)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list {
				t.Error(d)
			}
		})
	}
}

// TestHeaders checks that the corrected traces name the rules that decide, and none shows what is not to be reproduced.
func TestHeaders(t *testing.T) {
	for _, file := range files(t) {
		tr := parse(t, file)
		corrected := filepath.Base(filepath.Dir(file)) == "corrected"
		if corrected != (len(tr.Corrected) > 0) {
			t.Errorf("%s: corrected by %v", file, tr.Corrected)
		}
		for _, rule := range tr.Corrected {
			if !slices.Contains([]string{"R2.5", "R4.3", "R4.6", "R5.6", "R5.9", "R6.4", "R6.5", "R7.2", "R7.4"}, rule) {
				t.Errorf("%s: %s is no rule that is better here than in the original", file, rule)
			}
		}
		if tr.Accidents != nil {
			t.Errorf("%s: shows %v", file, tr.Accidents)
		}
		if tr.Name+".jsonl" != filepath.Base(file) || tr.About == "" || len(tr.Steps) == 0 {
			t.Errorf("%s: name %q, about %q, %d steps", file, tr.Name, tr.About, len(tr.Steps))
		}
	}
}

// TestAllOps checks that the traces have every operation in them, so that nothing is compared by accident only.
func TestAllOps(t *testing.T) {
	seen := map[string]bool{}
	for _, file := range files(t) {
		for _, s := range parse(t, file).Steps {
			seen[s.Op] = true
		}
	}
	for op := range operations {
		if !seen[op] {
			t.Errorf("no trace has %s", op)
		}
	}
}

// TestConfig checks that a header's config reaches what is started.
func TestConfig(t *testing.T) {
	var got Config
	_, err := parse(t, "testdata/scripted/events-lost.jsonl").Play(t.Context(), func(c Config) (Player, error) {
		got = c
		return Model(c)
	})
	if err != nil || got != (Config{KeptEvents: 4}) {
		t.Errorf("started with %+v, %v", got, err)
	}
	list, err := parse(t, "testdata/scripted/events-lost.jsonl").Play(t.Context(), func(Config) (Player, error) { return Model(Config{}) })
	if err != nil || len(list) == 0 {
		t.Errorf("without its config it is the same: %v, %v", list, err)
	}
}

// TestEveryAnswerCounts plants a wrong wanted answer in each step of some traces in turn: just that is found.
func TestEveryAnswerCounts(t *testing.T) {
	for _, name := range []string{"events-basic", "buses-isolated", "fields-pass-through", "readonly-ksock", "all-or-wait-resend"} {
		tr := parse(t, "testdata/scripted/"+name+".jsonl")
		for i := range tr.Steps {
			right := tr.Steps[i].Want
			for _, wrong := range wrongs(right) {
				tr.Steps[i].Want = wrong
				list, err := tr.Play(t.Context(), Model)
				if err != nil {
					t.Fatal(err)
				}
				if len(list) != 1 || list[0].Line != tr.Steps[i].Line || list[0].Op != tr.Steps[i].Op {
					t.Errorf("%s:%d: %s planted: found %v", tr.File, tr.Steps[i].Line, wrong, list)
				}
			}
			tr.Steps[i].Want = right
		}
	}
}

// wrongs returns answers that differ from a in one thing each.
func wrongs(a answer) []answer {
	list := []answer{{"err": "EIO"}}
	for key, value := range a {
		w := answer{}
		for k, v := range a {
			w[k] = v
		}
		switch value := value.(type) {
		case uint32:
			w[key] = value + 1
		case bool:
			w[key] = !value
		case pair:
			w[key] = pair{value[0], value[1] + 1}
		case map[string]any: // a message: each of its fields
			for k := range value {
				m := map[string]any{}
				for k, v := range value {
					m[k] = v
				}
				delete(m, k)
				list = append(list, answer{key: m})
			}
			continue
		case nil:
			w[key] = map[string]any{"id": pair{0, 1}, "name": "$.A"}
		default:
			delete(w, key)
		}
		list = append(list, w)
	}
	return list
}

// calm is the model with a planted fault: no message is urgent.
type calm struct{ Player }

func (p calm) Open(bus int, readOnly bool) (Ksock, error) {
	k, err := p.Player.Open(bus, readOnly)
	return calmKsock{k}, err
}

type calmKsock struct{ Ksock }

func (k calmKsock) Send(m *model.Message) (model.MessageID, error) {
	m.Flags &^= model.Urgent
	return k.Ksock.Send(m)
}

func startCalm(c Config) (Player, error) {
	p, err := Model(c)
	return calm{p}, err
}

// TestPlantedFault plays on a bus with a fault and checks every word of what Run prints.
func TestPlantedFault(t *testing.T) {
	const file = "testdata/scripted/urgent-copies-reverse.jsonl"
	var out bytes.Buffer
	r, err := Print(t.Context(), &out, []string{file, "testdata/scripted/all-or-fail.jsonl"}, startCalm)
	if err != nil {
		t.Fatal(err)
	}
	show := func(id, flags int, data string) string {
		return fmt.Sprintf(`{"msg":{"data":"%s","flags":%d,"from":1,"id":[0,%d],"name":"$.R"}}`, data, flags, id)
	}
	want := ""
	for i, d := range [][2]string{
		{show(2, 9, "urgent"), show(1, 3, "plain")},
		{show(2, 11, "urgent"), show(1, 1, "plain")},
		{show(1, 3, "plain"), show(2, 3, "urgent")},
		{show(1, 1, "plain"), show(2, 1, "urgent")},
	} {
		want += fmt.Sprintf("%s:%d: next: wanted %s, got %s\n", file, 8+i, d[0], d[1])
	}
	want += "34 steps, 4 differ\n"
	if out.String() != want || r.Steps != 34 || r.Differ != 4 {
		t.Errorf("%d steps, %d differ, printed\n%swant\n%s", r.Steps, r.Differ, out.String(), want)
	}
}

// broken is a player whose Ksocks can't be opened, and which can't be ended.
type broken struct{}

var errBroken = errors.New("broken")

func (broken) Open(int, bool) (Ksock, error) { return nil, fmt.Errorf("open: %w", unix.EMFILE) }
func (broken) Close() error                  { return errBroken }

func TestBrokenPlayer(t *testing.T) {
	tr := parse(t, "testdata/scripted/no-listeners.jsonl")
	list, err := tr.Play(t.Context(), func(Config) (Player, error) { return broken{}, nil })
	if !errors.Is(err, errBroken) || len(list) != len(tr.Steps) {
		t.Fatalf("%d of %d steps differ, %v", len(list), len(tr.Steps), err)
	}
	if list[0].Got != `{"err":"EMFILE"}` || list[len(list)-1].Got != `{"err":"its open had failed"}` {
		t.Errorf("got %s, then %s", list[0].Got, list[len(list)-1].Got)
	}
	var out bytes.Buffer
	r, err := Print(t.Context(), &out, []string{tr.File}, func(Config) (Player, error) { return nil, errBroken })
	if r.Steps != 0 || r.Differ != 0 || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), tr.File) {
		t.Errorf("%d steps, %d differ, %v", r.Steps, r.Differ, err)
	}
}

// TestBadFiles checks that Run goes on after a file that it can't read, and says which.
func TestBadFiles(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, err := Print(t.Context(), &out, []string{bad, bad + "x", "testdata/scripted/no-listeners.jsonl"}, Model)
	if err == nil || !strings.Contains(err.Error(), bad+":1: ") || !errors.Is(err, os.ErrNotExist) || r.Differ != 0 {
		t.Errorf("%d differ, %v", r.Differ, err)
	}
	if !strings.HasSuffix(out.String(), " steps, 0 differ\n") || strings.HasPrefix(out.String(), "0 ") {
		t.Errorf("printed %q", out.String())
	}
	if _, err := Print(t.Context(), failing{}, []string{"testdata/scripted/no-listeners.jsonl"}, Model); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("nothing could be printed: %v", err)
	}
}

// TestInterrupted checks that the end of the context ends a replay between two steps, and that what was not finished is not
// counted.
func TestInterrupted(t *testing.T) {
	const file = "testdata/scripted/no-listeners.jsonl"
	ctx, cancel := context.WithCancelCause(t.Context())
	plays := 0
	r, err := Run(ctx, []string{file, file, file}, func(c Config) (Player, error) {
		if plays++; plays == 2 {
			cancel(errBroken)
		}
		return Model(c)
	}, func(Difference) error { return nil })
	if once := len(parse(t, file).Steps); plays != 2 || r.Steps != once || !errors.Is(err, errBroken) {
		t.Errorf("%d plays, %d steps of %d each, %v", plays, r.Steps, once, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

const header = `{"format":"kbus-trace/1","name":"x","about":"y"}` + "\n"
const opened = header + `{"op":"open","k":"a","mode":"rw","want":{"id":1}}` + "\n"

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "F:1: empty file"},
		{"\n", "F:1: not a JSON object"},
		{"[]", "F:1: not a JSON object"},
		{"\xff", "F:1: not UTF-8"},
		{`{"format":"kbus-trace/2"}`, `F:1: format is "kbus-trace/2", not "kbus-trace/1"`},
		{`{"format":"kbus-trace/1","name":"x"}`, "F:1: about is missing"},
		{`{"format":"kbus-trace/1","name":"x","about":null}`, "F:1: about is null"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","colour":1}`, "F:1: colour does not belong here"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","name":"z"}`, "F:1: name comes twice"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","config":{"size":1}}`, "F:1: config: max_unsent_unbind_messages is missing"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","config":{"max_unsent_unbind_messages":0}}`, "F:1: config: max_unsent_unbind_messages is 0"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","config":{"max_unsent_unbind_messages":1,"a":2}}`, "F:1: config: a does not"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","config":3}`, "F:1: config: not a JSON object"},
		{`{"format":"kbus-trace/1","name":"x","about":"y","accidents":"all"}`, "F:1: accidents: "},
		{`{"format":"kbus-trace/1"`, "F:1: bad JSON"},
		{header + "\n" + header, "F:2: not a JSON object"},
		{header + `{"op":"open"} {}`, "F:2: more than one JSON object"},
		{header + `{"op":"open",}`, "F:2: bad JSON"},
		{header + `{"op":"open" "k"}`, "F:2: bad JSON"},
		{header + `{"op":`, "F:2: bad JSON"},
		{header + `{"k":"a","want":{}}`, "F:2: op is missing"},
		{header + `{"op":"dance","k":"a","want":{}}`, `F:2: unknown op "dance"`},
		{header + `{"op":"open","mode":"rw","want":{"id":1}}`, "F:2: k is missing"},
		{header + `{"op":"open","k":"","mode":"rw","want":{"id":1}}`, "F:2: k is empty"},
		{header + `{"op":"open","k":"a","want":{"id":1}}`, "F:2: mode is missing"},
		{header + `{"op":"open","k":"a","mode":"w","want":{"id":1}}`, `F:2: mode is "w"`},
		{header + `{"op":"open","k":"a","mode":"rw","bus":-1,"want":{"id":1}}`, "F:2: bus: "},
		{header + `{"op":"open","k":"a","mode":"rw"}`, "F:2: want is missing"},
		{header + `{"op":"open","k":"a","mode":"rw","want":{}}`, "F:2: want: id is missing"},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"id":[0,1]}}`, "F:2: want: id: "},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"id":1,"n":2}}`, "F:2: want: n does not belong here"},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"err":"EFOO"}}`, `F:2: want: err is "EFOO"`},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"err":"EIO","last_sent":[0,1]}}`, "F:2: want: last_sent does not"},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"err":"EIO","id":1}}`, "F:2: want: id does not"},
		{header + `{"op":"open","k":"a","mode":"rw","want":{"err":"ENOENT"}}` + "\n" + `{"op":"next","k":"a","want":{"msg":null}}`, `F:3: ksock "a" is not open`},
		{header + `{"op":"next","k":"a","want":{"msg":null}}`, `F:2: ksock "a" is not open`},
		{opened + `{"op":"open","k":"a","mode":"r","want":{"id":1}}`, `F:3: ksock "a" is open already`},
		{opened + `{"op":"close","k":"a","want":{}}` + "\n" + `{"op":"poll","k":"a","want":{"readable":true,"writable":true}}`, `F:4: ksock "a" is not open`},
		{opened + `{"op":"close","k":"a","crash":1,"want":{}}`, "F:3: crash: "},
		{opened + `{"op":"bind","k":"a","name":"$.A","want":{}}`, "F:3: replier is missing"},
		{opened + `{"op":"bind","k":"a","name":3,"replier":true,"want":{}}`, "F:3: name: "},
		{opened + `{"op":"bind","k":"a","name":"$.A","replier":true,"n":1,"want":{}}`, "F:3: n does not belong here"},
		{opened + `{"op":"max_messages","k":"a","n":4294967296,"want":{"n":1}}`, "F:3: n: "},
		{opened + `{"op":"only_once","k":"a","v":0,"want":{"was":true}}`, "F:3: v is 0"},
		{opened + `{"op":"only_once","k":"a","v":"yes","want":{"was":true}}`, `F:3: v is "yes"`},
		{opened + `{"op":"only_once","k":"a","want":{"was":true}}`, "F:3: v is missing"},
		{opened + `{"op":"poll","k":"a","want":{"readable":true}}`, "F:3: want: writable is missing"},
		{opened + `{"op":"next","k":"a","want":{}}`, "F:3: want: msg is missing"},
		{opened + `{"op":"next","k":"a","want":{"msg":{"name":"$.A"}}}`, "F:3: want: msg: id is missing"},
		{opened + `{"op":"next","k":"a","want":{"msg":{"id":[0,1,2],"name":"$.A"}}}`, "F:3: want: msg: id: [0,1,2] is not two numbers"},
		{opened + `{"op":"next","k":"a","want":{"msg":{"id":[0,-1],"name":"$.A"}}}`, "F:3: want: msg: id: "},
		{opened + `{"op":"next","k":"a","want":{"msg":{"id":[0,1],"name":"$.A","data":"x","data_b64":"eA=="}}}`, "F:3: want: msg: only one of data"},
		{opened + `{"op":"next","k":"a","want":{"msg":{"id":[0,1],"name":"$.A","bind_event":{"is_bind":true}}}}`, "F:3: want: msg: bind_event: binder is missing"},
		{opened + `{"op":"send","k":"a","msg":{"name":"$.A","from":3},"want":{"id":[0,1]}}`, "F:3: msg: from and bind_event are not"},
		{opened + `{"op":"send","k":"a","msg":{"name":"$.A","data_b64":"?"},"want":{"id":[0,1]}}`, "F:3: msg: data_b64: "},
		{opened + `{"op":"send","k":"a","msg":{},"want":{"id":[0,1]}}`, "F:3: msg: name is missing"},
		{opened + `{"op":"send","k":"a","msg":null,"want":{"id":[0,1]}}`, "F:3: msg: not a JSON object"},
		{opened + strings.Repeat(" ", maxLine+1), "F:3: line longer than"},
	} {
		tr, err := Parse(strings.NewReader(c.text), "F")
		if tr != nil || err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.200q gives %v, want %s", c.text, err, c.want)
		}
	}
	if _, err := Parse(failingReader{}, "F"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a file that can't be read: %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestMessages checks that what is read of a message is what the format says, by showing it again.
func TestMessages(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"name":"$.A","id":[1,2],"to":3,"from":4,"flags":5,"in_reply_to":[6,7],"orig_from":[8,9],"final_to":[10,11],"data":"<é>"}`, ""},
		{`{"name":"$.A","id":[0,1],"data_b64":"AP8="}`, ""},
		{`{"name":"$.A","id":[0,1],"data_b64":"eA=="}`, `{"name":"$.A","id":[0,1],"data":"x"}`},
		{`{"name":"$.A","id":[0,0],"to":0,"flags":0,"orig_from":[0,0],"data":""}`, `{"name":"$.A","id":[0,0]}`},
		{`{"name":"$.KBUS.ReplierBindEvent","id":[0,1],"flags":516,"bind_event":{"is_bind":false,"binder":7,"name":"$.ABCDE"}}`, ""},
		{`{"name":"$.KBUS.ReplierBindEvent","id":[0,1],"data":"a user's, which is long enough"}`, ""},
		{`{"name":"$.KBUS.ReplierBindEvent","id":[0,1],"flags":4,"data":"too long a name: \uffff"}`, ""},
		{`{"name":"$.KBUS.ReplierBindEvent","id":[0,1],"flags":4,"data":"short"}`, ""},
	} {
		if c.want == "" {
			c.want = c.text
		}
		f, err := readObject([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		shown := answer(showMessage(readMessage(f))).String()
		if err := f.done(); err != nil {
			t.Error(err)
		}
		var got, want any
		if err := errors.Join(json.Unmarshal([]byte(shown), &got), json.Unmarshal([]byte(c.want), &want)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nis shown as\n%s", c.text, shown)
		}
	}
}

// FuzzParse checks that no text makes Parse or the model fail, that an error says where, and that what is wanted can be read
// again as it is shown.
func FuzzParse(f *testing.F) {
	for _, file := range files(f) {
		if text, err := os.ReadFile(file); err != nil {
			f.Fatal(err)
		} else if len(text) < 4096 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tr, err := Parse(bytes.NewReader(text), "F")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "F:") {
				t.Errorf("%q does not say where", err)
			}
			return
		}
		if _, err := tr.Play(t.Context(), Model); err != nil {
			t.Error(err)
		}
		for _, s := range tr.Steps {
			w, err := readObject([]byte(s.Want.String()))
			if err != nil {
				t.Fatalf("%s: %v", s.Want, err)
			}
			again := readAnswer(w, s.Op, operations[s.Op].answers)
			if err := w.done(); err != nil || again.String() != s.Want.String() {
				t.Errorf("%s is read again as %s, %v", s.Want, again, err)
			}
		}
	})
}
