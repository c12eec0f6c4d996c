package bench

import (
	"fmt"
	"io"
	"strings"
)

// WriteBenchstat writes results as go test -bench does, for benchstat to compare:
// the rounds of one workload are lines of the same name.
func WriteBenchstat(w io.Writer, results ...*Result) error {
	if len(results) == 0 {
		return nil
	}
	m := results[0].Machine
	b := &strings.Builder{}
	fmt.Fprintf(b, "goos: linux\ngoarch: %s\npkg: kbus.internal/bench\ncpu: %s\nkernel: %s\nrevision: %s\n", m.Arch, m.CPU, m.Kernel, m.Revision)
	fmt.Fprintf(b, "Unit msgs/s better=higher\nUnit ring-msgs/s better=higher\n")
	for _, r := range results {
		r.benchstat(b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Result) benchstat(b *strings.Builder) {
	n := r.Sent
	if r.Latency != nil {
		n = r.Count
	}
	fmt.Fprintf(b, "Benchmark%s%s\t%d", strings.ToUpper(r.Name[:1]), r.Name[1:], max(n, 1))
	value := func(v float64, unit string) { fmt.Fprintf(b, "\t%.6g %s", v, unit) }
	for _, x := range []struct {
		prefix string
		l      *Latency
	}{
		{"", r.Latency}, {"copy-", r.Memcpy}, {"receive-", r.Receive}, {"close-", r.Close}, {"unbind-", r.Unbind},
		{"uncorrected-", r.Uncorrected}, {"alone-", r.Alone},
	} {
		if l := x.l; l != nil {
			for _, p := range []struct {
				name string
				ns   int64
			}{{"p50", l.P50}, {"p99", l.P99}, {"p99.9", l.P999}, {"max", l.Max}} {
				value(float64(p.ns), x.prefix+p.name+"-ns")
			}
		}
	}
	if r.PerSecond > 0 {
		value(r.PerSecond, "msgs/s")
	}
	if r.Ring > 0 {
		value(r.Ring, "ring-msgs/s")
	}
	if cpu := r.cpu(); cpu > 0 {
		value(cpu, "cpu-ns/msg")
	}
	if m := r.Memory; m != nil {
		value(float64(m.Bus), "bus-B")
		value(float64(m.Private), "private-B")
		value(m.CPUTime, "cpu-ns/s")
	}
	b.WriteByte('\n')
}

// cpu is the CPU time of all processes together for a message of the first of them.
func (r *Result) cpu() (ns float64) {
	for _, p := range r.Processes {
		ns += p.CPUTime * float64(p.Messages)
	}
	if len(r.Processes) == 0 || r.Processes[0].Messages == 0 {
		return 0
	}
	return ns / float64(r.Processes[0].Messages)
}
