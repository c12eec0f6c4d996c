package trace

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"kbus.internal/ring/model"
)

var (
	seed      = flag.Uint64("seed", 0, "seed of the random histories; 0 takes another each time")
	histories = flag.Int("histories", 12, "number of random histories")
)

// TestReal plays every trace on a bus: a supervisor of its own for each, and the API that applications use.
func TestReal(t *testing.T) {
	playAll(t, Real)
}

// TestRealFails checks that what can't be started leaves nothing behind.
func TestRealFails(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	if p, err := Real(Config{KeptEvents: -1}); err == nil {
		t.Errorf("a bus that keeps -1 events was started, ending it gives %v", p.Close())
	}
	p, err := Real(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(0, false); err != nil { // left for Close to close
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	t.Setenv("TMPDIR", dir+"/none")
	if _, err := Real(Config{}); err == nil {
		t.Error("started in a directory that is not there")
	}
}

// TestRealAgainstModel does random operations on a bus and on the model of the rules, and compares each answer.
func TestRealAgainstModel(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("replay with -seed %d -histories %d", *seed, *histories)
	for i := range *histories {
		if err := compare(rand.New(rand.NewPCG(*seed, uint64(i))), Model, Real); err != nil {
			t.Fatal(err)
		}
	}
}

// TestComparisonCatches shows that a fault of a bus is found by random operations.
func TestComparisonCatches(t *testing.T) {
	err := compare(rand.New(rand.NewPCG(1, 1)), Model, startCalm)
	if err == nil || !strings.Contains(err.Error(), "the bus answers") {
		t.Errorf("that no message is urgent was not found: %v", err)
	}
}

// compare does one random history; if the two differ the error says what was done until then.
func compare(r *rand.Rand, starts ...Start) (err error) {
	c := Config{KeptEvents: 1 + r.IntN(4)}
	var players []Player
	for _, start := range starts {
		p, failed := start(c)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		players = append(players, p)
	}
	var done []string
	ksocks := [2]map[string]Ksock{{}, {}}
	g := &generator{Rand: r, requests: map[string][]*model.Message{}}
	for range 600 {
		s := g.step(ksocks[0])
		want, got := s.do(players[0], ksocks[0]), s.do(players[1], ksocks[1])
		done = append(done, fmt.Sprintf("%s -> %s", show(&s), want))
		if want.String() != got.String() {
			return fmt.Errorf("%+v\n%s\nthe bus answers %s", c, strings.Join(done, "\n"), got)
		}
		g.learn(&s, want)
	}
	return nil
}

// generator makes random steps: few Ksocks, few names and low limits, so that they get in each other's way.
type generator struct {
	*rand.Rand
	opened   int
	requests map[string][]*model.Message // read by each Ksock and marked for it, perhaps answered since
}

var (
	genNames    = []string{"$.A", "$.A", "$.A", "$.B", "$.B", "$.A.B", "$.A.B", "$.A.C", "$.A.C", "$.*", ""}
	genBindings = []string{"$.A", "$.A", "$.B", "$.A.B", "$.A.*", "$.A.%", "$.*", "$.%", model.BindEventName, model.BindEventName, "$.KBUS.*", "bad"}
	genOps      = strings.Fields(`open open close bind bind bind bind unbind replier send send send send send send send send
		reply reply reply again discard next next next next next next num_messages unreplied_to last_sent max_messages
		max_message_size only_once report_replier_binds poll poll poll`)
)

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// step makes a step that suits the Ksocks that are open.
func (g *generator) step(open map[string]Ksock) Step {
	var names []string
	for i := range g.opened {
		if name := fmt.Sprintf("k%d", i); open[name] != nil {
			names = append(names, name)
		}
	}
	op := pick(g, genOps...)
	if len(names) < 3 || op == "open" && len(names) < 7 {
		g.opened++
		return Step{Op: "open", K: fmt.Sprintf("k%d", g.opened-1), ReadOnly: g.IntN(8) == 0}
	}
	s := Step{Op: op, K: pick(g, names...)}
	switch op {
	case "open":
		s.Op = "num_messages"
	case "bind", "unbind", "replier":
		s.Name, s.Replier = pick(g, genBindings...), g.IntN(2) == 0
	case "max_messages":
		s.N = pick[uint32](g, 0, 1, 1, 2, 3, 5, 100)
	case "max_message_size":
		s.N = pick[uint32](g, 0, 1, 99, 100, 2000, 2000, model.DefaultSize, model.DefaultSize+1)
	case "only_once":
		s.V = pick(g, model.On, model.Off, model.Ask, 2)
	case "report_replier_binds":
		s.V = pick(g, model.On, model.On, model.On, model.Off, model.Ask, 2)
	case "again":
		s.Op = "send"
	case "reply":
		s.Op = "send"
		s.Msg = &model.Message{Name: pick(g, genNames...), To: 1, InReplyTo: model.MessageID{Serial: 1}, Data: "answer"}
		if owed := g.requests[s.K]; len(owed) > 0 {
			r := pick(g, owed...)
			s.Msg.To, s.Msg.InReplyTo = r.From, r.ID
		}
		s.Msg.Flags = pick[uint32](g, 0, 0, model.Urgent, model.AllOrWait, model.AllOrFail)
	case "send":
		s.Msg = &model.Message{Name: pick(g, genNames...), Data: pick(g, "", "x", "\x00\xff", strings.Repeat("y", 1500))}
		s.Msg.Flags = pick[uint32](g, 0, 0, model.AllOrWait, model.AllOrFail) | pick(g, 0, 0, 0, model.Urgent, 1<<20) |
			pick(g, 0, model.WantReply)
		if g.IntN(6) == 0 {
			s.Msg.To = 1 + g.Uint32N(uint32(g.opened))
		}
		if g.IntN(5) == 0 {
			s.Msg.ID = model.MessageID{Network: 7, Serial: pick[uint32](g, 1, 2)}
		}
	}
	return s
}

// learn takes note of the Requests that somebody is to answer.
func (g *generator) learn(s *Step, a answer) {
	m, ok := a["msg"].(map[string]any)
	if flags, _ := m["flags"].(uint32); !ok || flags&model.MustReply == 0 {
		return
	}
	id := m["id"].(pair)
	g.requests[s.K] = append(g.requests[s.K], &model.Message{
		ID: model.MessageID{Network: id[0], Serial: id[1]}, From: m["from"].(uint32),
	})
}

// show is a step as a line of a log.
func show(s *Step) string {
	text := fmt.Sprintf("%s %s", s.Op, s.K)
	switch {
	case s.Msg != nil:
		text += fmt.Sprintf(" %+v", *s.Msg)
	case s.Name != "":
		text += fmt.Sprintf(" %s replier %v", s.Name, s.Replier)
	case s.Op == "open":
		text += fmt.Sprintf(" read-only %v", s.ReadOnly)
	default:
		text += fmt.Sprintf(" %d %d", s.N, s.V)
	}
	return text
}
