package ring

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"kbus.internal/ring/model"
)

// An act is an operation of a history as the model knows it: one or more steps,
// with others between them. Each tells a part of its result, and whether there
// are more.
type act func(m *model.Bus, step int) (out string, more bool)

func once(f func(m *model.Bus) string) act {
	return func(m *model.Bus, _ int) (string, bool) { return f(m), false }
}

// A happened is an operation of a history: who did what, with what result, and
// between which moments. ret is 0 for one that did not come to its end: it may
// have happened or not, or in part.
type happened struct {
	who, what string
	act       act
	out       string
	call, ret int
}

func (h happened) String() string {
	return fmt.Sprintf("%3d..%3d %s: %s = %s", h.call, h.ret, h.who, h.what, h.out)
}

// A judge looks for an order of the operations of a history that the model
// explains: one that keeps those apart which did not overlap, and after which the
// queues hold what they hold.
type judge struct {
	h     []happened
	rest  []string // what is left for Ksock ids[i], a line for each message
	ids   []uint32
	at    []int // steps played; -1: complete
	out   []string
	seen  map[[sha256.Size]byte]bool
	most  int    // positions to look at, 0 = all
	why   string // how far the best order comes
	count int
}

// errUndecided: there were too many orders to try them all.
var errUndecided = errors.New("not decided: too many orders")

// explain tells what is wrong with a history that began with the bus m.
func (j *judge) explain(m *model.Bus) error {
	j.at, j.out, j.seen = make([]int, len(j.h)), make([]string, len(j.h)), map[[sha256.Size]byte]bool{}
	if j.search(m.Clone()) {
		return nil
	}
	if j.most > 0 && len(j.seen) >= j.most {
		return errUndecided
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no order explains the history:\n")
	for _, op := range j.h {
		fmt.Fprintf(&b, "  %v\n", op)
	}
	for i, id := range j.ids {
		fmt.Fprintf(&b, "  left for %d:\n%s\n", id, j.rest[i])
	}
	b.WriteString(j.why)
	return fmt.Errorf("%s", strings.TrimRight(b.String(), "\n"))
}

func (j *judge) search(m *model.Bus) bool {
	played := []byte(m.Key())
	for i, n := range j.at {
		played = append(binary.AppendVarint(played, int64(n)), j.out[i]...)
	}
	key := sha256.Sum256(played)
	if j.seen[key] || j.most > 0 && len(j.seen) >= j.most {
		return false
	}
	j.seen[key] = true
	all, count, first := true, 0, 0
	for i, op := range j.h {
		if j.at[i] == -1 {
			count++
			continue
		}
		all = all && op.ret == 0
		if op.ret != 0 && (first == 0 || op.ret < first) {
			first = op.ret
		}
	}
	if all && j.ends(m.Clone(), count) {
		return true
	}
	for i, op := range j.h {
		if j.at[i] == -1 || first != 0 && first < op.call { // another comes first
			continue
		}
		step, before := j.at[i], j.out[i]
		n := m.Clone()
		out, more := op.act(n, step)
		out = before + out
		if more {
			j.at[i]++
			j.out[i] = out
		} else {
			if op.ret != 0 && out != op.out {
				if count >= j.count {
					j.count = count
					j.why = fmt.Sprintf("  after %v the model's %s of %s = %s", j.at, op.what, op.who, out)
				}
				continue
			}
			j.at[i] = -1
			j.out[i] = ""
		}
		if j.search(n) {
			return true
		}
		j.at[i], j.out[i] = step, before
	}
	return false
}

func (j *judge) ends(m *model.Bus, count int) bool {
	for i, id := range j.ids {
		l := []string{}
		for {
			x, ok, err := m.Next(id)
			if err != nil {
				l = append(l, "closed")
				break
			}
			if !ok {
				break
			}
			l = append(l, fmt.Sprint(x))
		}
		if got := strings.Join(l, "\n"); got != j.rest[i] {
			j.count, j.why = count, fmt.Sprintf("  the model leaves for %d:\n%s", id, got)
			return false
		}
	}
	return true
}

// What Ksock id does, as the model knows it.

func sendAct(id uint32, h Header, data string) act {
	return once(func(m *model.Bus) string {
		id, err := m.Send(id, model.Message{
			InReplyTo: model.MessageID(h.InReplyTo), To: h.To, Flags: h.Flags, Name: h.Name, Data: data,
		})
		return sent(MessageID(id), err)
	})
}

// batchAct is SendBatch: one Send after the other, maybe with others' between them.
func batchAct(id uint32, hs []Header, data []string) act {
	return func(m *model.Bus, step int) (string, bool) {
		h := hs[step]
		id, err := m.Send(id, model.Message{
			InReplyTo: model.MessageID(h.InReplyTo), To: h.To, Flags: h.Flags, Name: h.Name, Data: data[step],
		})
		switch {
		case err != nil:
			return fmt.Sprint(step, errno(err)), false
		case step+1 < len(hs):
			return "", true
		}
		return fmt.Sprint(len(hs), MessageID(id)), false
	}
}

// batchSent sends a batch, with its result as batchAct has it.
func batchSent(c *Client, hs []Header, data []string) string {
	n, err := c.SendBatch(len(hs), func(i int) (*Header, []byte) { return &hs[i], []byte(data[i]) })
	if err != nil {
		return fmt.Sprint(n, errno(err))
	}
	return fmt.Sprint(n, c.LastSent())
}

func againAct(id uint32) act {
	return once(func(m *model.Bus) string {
		id, err := m.SendAgain(id)
		return sent(MessageID(id), err)
	})
}

// pollAct is whether it is writable, and then whether it is readable: two moments.
func pollAct(id uint32) act {
	return func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			_, wr, err := m.Poll(id)
			return fmt.Sprintln(wr, err), true
		}
		n, err := m.Unread(id)
		return fmt.Sprintln(n > 0, err), false
	}
}

func takeAct(id uint32) act {
	return once(func(m *model.Bus) string {
		x, ok, err := m.Next(id)
		if err != nil {
			return errno(err)
		}
		if !ok {
			return "none"
		}
		return fmt.Sprint(x)
	})
}

func bindAct(id uint32, name string, replier bool) act {
	return func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			if err := m.BindBegin(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		}
		return errno(m.BindEnd(id, name, replier)), false
	}
}

func unbindAct(id uint32, name string, replier bool) act {
	return func(m *model.Bus, step int) (string, bool) {
		switch step {
		case 0:
			if err := m.UnbindBegin(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		case 1:
			if err := m.UnbindEdit(id, name, replier); err != nil {
				return errno(err), false
			}
			return "", true
		}
		if m.UnbindStep(id) {
			return "", true
		}
		return "ok", false
	}
}

func maxAct(id, n uint32) act {
	return once(func(m *model.Bus) string {
		n, err := m.MaxMessages(id, n)
		return fmt.Sprint(n, errno(err))
	})
}

// closeAct is the close of a Ksock, or of one that was closed in part the rest.
func closeAct(id uint32) act {
	return func(m *model.Bus, step int) (string, bool) {
		if step == 0 {
			_ = m.CloseBegin(id)
			return "", true
		}
		if m.CloseStep(id) {
			return "", true
		}
		m.CloseEnd(id)
		return "ok", false
	}
}

func sent(id MessageID, err error) string {
	if err != nil {
		return errno(err)
	}
	return fmt.Sprint(id)
}

// polled is Poll's result as pollAct has it.
func polled(c *Client) string {
	rd, wr, err := c.Poll()
	return fmt.Sprintln(wr, err) + fmt.Sprintln(rd, err)
}

// taken takes a message and describes it as takeAct does.
func taken(c *Client, m *Message) string {
	ok, err := c.Take(m)
	if err != nil {
		return errno(err)
	}
	if !ok {
		return "none"
	}
	return describe(m)
}

// left takes all messages, one after the other.
func left(c *Client) (string, error) {
	l := []string{}
	for {
		x := drain(c)
		if x == "none" {
			return strings.Join(l, "\n"), nil
		}
		if l = append(l, x); len(l) > 1000 {
			return "", fmt.Errorf("the queue of %d never ends", c.id)
		}
	}
}

// drain takes a message and lets it go.
func drain(c *Client) string {
	var m Message
	x := taken(c, &m)
	if m.c != nil {
		m.Release()
	}
	return x
}

func describe(m *Message) string { return fmt.Sprint(m.forModel()) }

// forModel is the message as the model has it.
func (m *Message) forModel() model.Message {
	return model.Message{
		ID: model.MessageID(m.ID), InReplyTo: model.MessageID(m.InReplyTo), To: m.To, From: m.From,
		OrigFrom: model.EndPoint(m.OrigFrom), FinalTo: model.EndPoint(m.FinalTo), Flags: m.Flags, Name: m.Name, Data: string(m.Data()),
	}
}
