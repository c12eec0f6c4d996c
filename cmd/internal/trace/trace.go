// Package trace reads recorded traces (format kbus-trace/1) and plays them on a bus, comparing each answer with the
// recorded one.
//
// A trace is a list of operations and of what was answered to each, carried out one at a time on a set of buses on which
// nothing has happened. [Parse] reads one, strictly; [Run] plays files on whatever a [Start] starts: the sequential model of
// the rules ([Model]), or a real bus.
//
// Transcripts of Limpets (format limpet-wire/1) are played too: the transcript is the peer of a Limpet at work on a real bus.
//
// The traces in testdata are those recorded from the original. Where the original made a mistake that the rules put right,
// the copy here has the right answers, and its header names the rules that decide ("corrected"). Those in testdata/own were
// written from the rules, for steps, errors and sizes that the recorded ones do not have.
package trace

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"kbus.internal/ring/model"
)

// Format is the only format that Parse reads.
const Format = "kbus-trace/1"

// maxLine is the longest line that Parse reads, in bytes: enough for a message of several MiB in base64.
const maxLine = 16 << 20

// Trace is a recorded trace.
type Trace struct {
	File      string   // where it was read from, for messages
	Name      string   // its own name
	About     string   // a sentence for the reader
	Config    Config   // what differs from the starting state that the format describes
	Accidents []string // mistakes of the original that show in it; it is not to be reproduced
	Corrected []string // rules by which it differs from what the original answered
	Steps     []Step
}

// Config is a trace's departure from the usual starting state.
type Config struct {
	KeptEvents int // copies of events kept aside for one Ksock (R7.4); 0 for the usual number
}

// Step is one operation and the answer recorded.
type Step struct {
	Line int
	Op   string
	K    string // the trace's name for the Ksock that it is done with

	// Arguments; those that the operation does not have are zero.
	Bus      int
	ReadOnly bool
	Crash    bool
	Name     string
	Replier  bool
	Msg      *model.Message // nil in a bare send
	N        uint32
	V        model.Switch

	Want answer
}

// answer is what an operation answers, in the form of the format. Two are equal if their texts are.
type answer map[string]any

func (a answer) String() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(map[string]any(a)); err != nil {
		return err.Error() // none of what is put into an answer can fail
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// operation is what an operation is called with and answers, besides k.
type operation struct {
	needs, may string // arguments, separated by spaces
	answers    string // keys of its answer on success
}

var operations = map[string]operation{
	"open":                 {needs: "mode", may: "bus", answers: "ksock"},
	"close":                {may: "crash"},
	"bind":                 {needs: "name replier"},
	"unbind":               {needs: "name replier"},
	"replier":              {needs: "name", answers: "ksock"},
	"send":                 {may: "msg", answers: "id"},
	"discard":              {},
	"next":                 {answers: "msg"},
	"num_messages":         {answers: "n"},
	"unreplied_to":         {answers: "n"},
	"last_sent":            {answers: "id"},
	"max_messages":         {needs: "n", answers: "n"},
	"max_message_size":     {needs: "n", answers: "n"},
	"only_once":            {needs: "v", answers: "was"},
	"report_replier_binds": {needs: "v", answers: "was"},
	"poll":                 {answers: "poll"},
	"new_device":           {answers: "n"},
}

// Parse reads a trace. An error names the file and the line.
func Parse(r io.Reader, file string) (*Trace, error) {
	t := &Trace{File: file}
	if err := parseLines(r, file, t.line); err != nil {
		return nil, err
	}
	return t, nil
}

// ParseWire reads a transcript. An error names the file and the line.
func ParseWire(r io.Reader, file string) (*Wire, error) {
	w := &Wire{File: file}
	if err := parseLines(r, file, w.line); err != nil {
		return nil, err
	}
	return w, nil
}

// parseLines calls read with each line, its number, and the names of the Ksocks that are open by then, for read to keep.
func parseLines(r io.Reader, file string, read func(line []byte, n int, open map[string]bool) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	open := map[string]bool{}
	n := 0
	for lines.Scan() {
		n++
		if !utf8.Valid(lines.Bytes()) {
			return fmt.Errorf("%s:%d: not UTF-8", file, n)
		}
		if err := read(lines.Bytes(), n, open); err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s:%d: line longer than %d bytes", file, n+1, maxLine)
	} else if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if n == 0 {
		return fmt.Errorf("%s:1: empty file, a trace begins with a header", file)
	}
	return nil
}

// line reads line n. The keys of open are the names of the Ksocks that are open by now.
func (t *Trace) line(line []byte, n int, open map[string]bool) error {
	f, err := readObject(line)
	if err != nil {
		return err
	}
	if n == 1 {
		t.header(f)
		return f.done()
	}
	s := Step{Line: n}
	s.read(f)
	if err := f.done(); err != nil {
		return err
	}
	t.Steps = append(t.Steps, s)
	return s.track(open)
}

// line reads line n of a transcript.
func (w *Wire) line(line []byte, n int, open map[string]bool) error {
	f, err := readObject(line)
	if err != nil {
		return err
	}
	if n == 1 {
		w.header(f)
		return f.done()
	}
	s := WireStep{Line: n}
	s.read(f)
	if err := f.done(); err != nil {
		return err
	}
	w.Steps = append(w.Steps, s)
	if s.Bus == nil {
		return nil
	}
	return s.Bus.track(open)
}

// track keeps account of the Ksocks that are open, and complains of steps with others.
func (s *Step) track(open map[string]bool) error {
	failed := s.Want["err"] != nil
	switch {
	case s.Op == "open" && open[s.K]:
		return fmt.Errorf("ksock %q is open already", s.K)
	case s.Op == "open":
		open[s.K] = !failed
	case !open[s.K]:
		return fmt.Errorf("ksock %q is not open", s.K)
	case s.Op == "close":
		open[s.K] = failed
	}
	return nil
}

func (t *Trace) header(f *fields) {
	if format := get[string](f, "format"); format != Format {
		f.fail("format is %q, not %q", format, Format)
		return
	}
	t.Name = get[string](f, "name")
	t.About = get[string](f, "about")
	if f.has("config") {
		c := f.object("config")
		limit := get[uint32](c, "max_unsent_unbind_messages")
		if limit == 0 {
			c.fail("max_unsent_unbind_messages is 0")
		}
		t.Config.KeptEvents = int(limit)
		f.adopt("config", c)
	}
	if f.has("accidents") {
		t.Accidents = get[[]string](f, "accidents")
	}
	if f.has("corrected") {
		t.Corrected = get[[]string](f, "corrected")
	}
}

// read reads a step from f.
func (s *Step) read(f *fields) {
	s.Op = get[string](f, "op")
	op, known := operations[s.Op]
	if !known {
		f.fail("unknown op %q", s.Op)
		return
	}
	if s.K = get[string](f, "k"); s.K == "" {
		f.fail("k is empty")
	}
	for _, arg := range words(op.needs) {
		s.argument(f, arg)
	}
	for _, arg := range words(op.may) {
		if f.has(arg) {
			s.argument(f, arg)
		}
	}
	w := f.object("want")
	s.Want = readAnswer(w, s.Op, op.answers)
	f.adopt("want", w)
}

func words(s string) (list []string) {
	for w := range bytes.FieldsSeq([]byte(s)) {
		list = append(list, string(w))
	}
	return list
}

// argument reads one argument of a step.
func (s *Step) argument(f *fields, arg string) {
	switch arg {
	case "bus":
		s.Bus = int(get[uint32](f, arg))
	case "mode":
		switch mode := get[string](f, arg); mode {
		case "r":
			s.ReadOnly = true
		case "rw":
		default:
			f.fail("mode is %q, not \"r\" or \"rw\"", mode)
		}
	case "crash":
		s.Crash = get[bool](f, arg)
	case "name":
		s.Name = get[string](f, arg)
	case "replier":
		s.Replier = get[bool](f, arg)
	case "n":
		s.N = get[uint32](f, arg)
	case "v":
		s.V = readSwitch(f)
	case "msg":
		m := f.object(arg)
		s.Msg = readMessage(m)
		if m.has("from") || m.has("bind_event") {
			m.fail("from and bind_event are not for a message to send")
		}
		f.adopt(arg, m)
	}
}

// readSwitch reads v: true, false, null to ask, or a number that is none of them.
func readSwitch(f *fields) model.Switch {
	switch raw := string(f.take("v")); raw {
	case "true":
		return model.On
	case "false":
		return model.Off
	case "null":
		return model.Ask
	default:
		var n uint32
		if err := json.Unmarshal([]byte(raw), &n); err != nil || n < 2 || n == uint32(model.Ask) {
			f.fail("v is %s, not true, false, null or an invalid number", raw)
		}
		return model.Switch(n)
	}
}

// readAnswer reads what is wanted of op.
func readAnswer(f *fields, op, answers string) answer {
	if f.has("err") {
		a := answer{"err": get[string](f, "err")}
		if !isErrno(a["err"].(string)) {
			f.fail("err is %q, not the name of an errno", a["err"])
		}
		if op == "send" && f.has("last_sent") {
			a["last_sent"] = get[pair](f, "last_sent")
		}
		return a
	}
	switch answers {
	case "ksock":
		return answer{"id": get[uint32](f, "id")}
	case "id":
		return answer{"id": get[pair](f, "id")}
	case "n":
		return answer{"n": get[uint32](f, "n")}
	case "was":
		return answer{"was": get[bool](f, "was")}
	case "poll":
		return answer{"readable": get[bool](f, "readable"), "writable": get[bool](f, "writable")}
	case "msg":
		if f.has("msg") && string(f.raw["msg"]) == "null" {
			f.take("msg")
			return answer{"msg": nil}
		}
		m := f.object("msg")
		if !m.has("id") {
			m.fail("id is missing")
		}
		a := answer{"msg": showMessage(readMessage(m))}
		f.adopt("msg", m)
		return a
	}
	return answer{}
}

// isErrno says whether some errno of this machine has that name.
func isErrno(name string) bool {
	for e := range unix.Errno(200) {
		if e != 0 && unix.ErrnoName(e) == name {
			return true
		}
	}
	return false
}

// pair is an id or an end point: two numbers.
type pair [2]uint32

// UnmarshalJSON takes exactly two numbers: an array in Go would take any.
func (p *pair) UnmarshalJSON(b []byte) error {
	var n []uint32
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if len(n) != 2 {
		return fmt.Errorf("%s is not two numbers", b)
	}
	*p = pair(n)
	return nil
}

// readMessage reads a message, to send or as read.
func readMessage(f *fields) *model.Message {
	m := &model.Message{Name: get[string](f, "name")}
	opt := func(key string, to *uint32) {
		if f.has(key) {
			*to = get[uint32](f, key)
		}
	}
	opts := func(key string, a, b *uint32) {
		if f.has(key) {
			p := get[pair](f, key)
			*a, *b = p[0], p[1]
		}
	}
	opt("flags", &m.Flags)
	opt("to", &m.To)
	opts("id", &m.ID.Network, &m.ID.Serial)
	opts("in_reply_to", &m.InReplyTo.Network, &m.InReplyTo.Serial)
	opts("orig_from", &m.OrigFrom.Network, &m.OrigFrom.Ksock)
	opts("final_to", &m.FinalTo.Network, &m.FinalTo.Ksock)
	opt("from", &m.From)

	kinds := 0
	if f.has("data") {
		m.Data, kinds = get[string](f, "data"), kinds+1
	}
	if f.has("data_b64") {
		m.Data, kinds = string(get[[]byte](f, "data_b64")), kinds+1
	}
	if f.has("bind_event") {
		e := f.object("bind_event")
		m.Data, kinds = bindEvent{get[bool](e, "is_bind"), get[uint32](e, "binder"), get[string](e, "name")}.data(), kinds+1
		f.adopt("bind_event", e)
	}
	if kinds > 1 {
		f.fail("only one of data, data_b64 and bind_event can be given")
	}
	return m
}

// showMessage is a message as read, in the form of the format.
func showMessage(m *model.Message) map[string]any {
	a := map[string]any{"id": pair{m.ID.Network, m.ID.Serial}, "name": m.Name}
	number := func(key string, n uint32) {
		if n != 0 {
			a[key] = n
		}
	}
	numbers := func(key string, p pair) {
		if p != (pair{}) {
			a[key] = p
		}
	}
	number("flags", m.Flags)
	number("to", m.To)
	number("from", m.From)
	numbers("in_reply_to", pair{m.InReplyTo.Network, m.InReplyTo.Serial})
	numbers("orig_from", pair{m.OrigFrom.Network, m.OrigFrom.Ksock})
	numbers("final_to", pair{m.FinalTo.Network, m.FinalTo.Ksock})
	event, isEvent := readBindEvent(m)
	switch {
	case isEvent:
		a["bind_event"] = map[string]any{"is_bind": event.isBind, "binder": event.binder, "name": event.name}
	case m.Data == "":
	case utf8.ValidString(m.Data):
		a["data"] = m.Data
	default:
		a["data_b64"] = base64.StdEncoding.EncodeToString([]byte(m.Data))
	}
	return a
}

// fields are the members of a JSON object. What is wrong with them is collected; done tells.
type fields struct {
	raw  map[string]json.RawMessage
	used map[string]bool
	err  error // the first thing wrong
}

// readObject reads text as one JSON object, in which no key comes twice.
func readObject(text []byte) (*fields, error) {
	f := &fields{raw: map[string]json.RawMessage{}, used: map[string]bool{}}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		name := key.(string) // the decoder lets nothing else be a key
		if f.raw[name] != nil {
			return nil, fmt.Errorf("%s comes twice", name)
		}
		f.raw[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("bad JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON object on the line")
	}
	return f, nil
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func (f *fields) has(key string) bool { return f.raw[key] != nil }

// take returns a member as it stands; it is an error if there is none.
func (f *fields) take(key string) json.RawMessage {
	if !f.has(key) {
		f.fail("%s is missing", key)
	}
	f.used[key] = true
	return f.raw[key]
}

// get returns a member as a value of type T, which null is not.
func get[T any](f *fields, key string) (v T) {
	raw := f.take(key)
	if raw == nil {
		return v
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		f.fail("%s: %w", key, err)
	} else if string(raw) == "null" {
		f.fail("%s is null", key)
	}
	return v
}

// object returns a member that is an object. What is wrong with it is told by adopt.
func (f *fields) object(key string) *fields {
	raw := f.take(key)
	o, err := readObject(raw)
	if err != nil {
		o = &fields{raw: map[string]json.RawMessage{}, used: map[string]bool{}}
		if raw != nil {
			f.fail("%s: %w", key, err)
		}
	}
	return o
}

// adopt takes over what was wrong with an object.
func (f *fields) adopt(key string, o *fields) {
	if err := o.done(); err != nil {
		f.fail("%s: %w", key, err)
	}
}

// done tells what was wrong, for instance a member that nobody asked for.
func (f *fields) done() error {
	var extra []string
	for key := range f.raw {
		if !f.used[key] {
			extra = append(extra, key)
		}
	}
	if len(extra) > 0 {
		slices.Sort(extra)
		f.fail("%s does not belong here", extra[0])
	}
	return f.err
}
