package bench

import (
	"cmp"
	"fmt"
	"strings"
)

// The results as text for people: a headline, the figures, what each process
// used, and the load.

// String is the result for people.
func (r *Result) String() string {
	text, ok := texts[r.Workload]
	if !ok {
		return fmt.Sprintf("%s\n  %v\n%s", r.Name, r.Latency, r.around())
	}
	return text(r) + "\n" + r.besides() + r.around()
}

// texts are the headlines and the figures of each workload.
var texts = map[string]func(*Result) string{
	"rtt": func(r *Result) string {
		who := "between two processes"
		if r.Senders > 1 {
			who = fmt.Sprintf("of %d askers and one Replier", r.Senders)
		}
		return fmt.Sprintf("Request and Reply of %s %s, %s, %s\n  round trip  %v\n  in all      %s/s",
			bytesText(float64(r.Size)), who, place(r.InPlace), r.Wait, r.Latency, count(r.PerSecond))
	},
	"floor": func(r *Result) string {
		what := "a cache line"
		if r.Wait == Sleep {
			what = "a futex that each sleeps on"
		}
		return fmt.Sprintf("Floors: what this machine does without a bus\n"+
			"  round trip of %s between two processes\n              %v\n"+
			"  copy of %s to shared memory\n              %v\n"+
			"  bare ring with one producer, 64 B, %d reader(s)\n              %s messages/s to each",
			what, r.Latency, bytesText(float64(r.Size)), r.Memcpy, r.Readers, count(r.Ring))
	},
	"limpet": func(r *Result) string {
		return fmt.Sprintf("Messages of %s through a pair of Limpets over TCP loopback, %s\n"+
			"  round trip  %v\n  one bus     %v\n  plain TCP   %v\n"+
			"              %.2f × (TCP + 2 buses), of the medians\n"+
			"  stream      %s messages/s, %s/s, %d sent, %d missed\n  plain TCP   %s messages/s\n"+
			"              %.2f × the time of TCP",
			bytesText(float64(r.Size)), r.Wait, r.Latency, r.Bus, r.TCP, r.LatencyRatio,
			count(r.PerSecond), bytesText(r.Bytes), r.Sent, r.Missed, count(r.TCPPerSecond), r.StreamRatio)
	},
	"fan": func(r *Result) string {
		from := ""
		if r.Senders > 1 {
			from = fmt.Sprintf("%d senders to ", r.Senders)
		}
		return fmt.Sprintf("Announcements of %s from %s%d Listener(s), %s, %s\n"+
			"  to each     %s messages/s, %s/s, %d sent, %d missed",
			bytesText(float64(r.Size)), cmp.Or(from, "one process to "), r.Listeners, place(r.InPlace), r.Wait,
			count(r.PerSecond), bytesText(r.Bytes), r.Sent, r.Missed)
	},
	"oneway": func(r *Result) string {
		through := ""
		if r.Stages > 0 {
			through = fmt.Sprintf(" through %d stage(s)", r.Stages)
		}
		return fmt.Sprintf("Announcements of %s from one process to another%s, %s, %s", bytesText(float64(r.Size)), through, place(r.InPlace), r.Wait) + way(r)
	},
	"mix": func(r *Result) string {
		return fmt.Sprintf("Announcements of %s from one process to another, beside %d slow and %d stopped Listener(s), %s, %s",
			bytesText(float64(r.Size)), r.Slow, r.Stopped, place(r.InPlace), r.Wait) + way(r) +
			fmt.Sprintf("\n  alone       %v\n  p99         %.2f times that of alone", r.Alone, ratio(r.P99, r.Alone.P99))
	},
	"local": func(r *Result) string {
		return fmt.Sprintf("Announcements of %s sent and received in one process, %s\n  both        %v",
			bytesText(float64(r.Size)), place(r.InPlace), r.Latency)
	},
	"send": func(r *Result) string {
		return fmt.Sprintf("Announcements of %s in one process, %s: sending alone, receiving alone\n  send        %v\n  receive     %v",
			bytesText(float64(r.Size)), place(r.InPlace), r.Latency, r.Receive)
	},
	"open": func(r *Result) string {
		return fmt.Sprintf("Ksocks opened and closed\n  open        %v\n  close       %v", r.Latency, r.Close)
	},
	"bind": func(r *Result) string {
		return fmt.Sprintf("Bindings made and ended\n  bind        %v\n  unbind      %v", r.Latency, r.Unbind)
	},
	"rest": func(r *Result) string {
		m := r.Memory
		return fmt.Sprintf("A bus that nobody uses, though one Listener waits\n"+
			"  memory      %s for the bus, %s for the supervisor's own data, %s of the program's file\n"+
			"  supervisor  %s of CPU a second, %s context switches a second",
			bytesText(float64(m.Bus)), bytesText(float64(m.Private)), bytesText(float64(m.Program)), nanos(m.CPUTime), count(m.Wakes))
	},
}

// way is the figures of the way there.
func way(r *Result) string {
	text := fmt.Sprintf("\n  one way     %v", r.Latency)
	if r.Uncorrected != nil {
		text += fmt.Sprintf("\n  since sent  %v\n  rate        %s of %s messages/s", r.Uncorrected, count(r.PerSecond), count(r.Rate))
	} else {
		text += fmt.Sprintf("\n  rate        %s messages/s", count(r.PerSecond))
	}
	return text + fmt.Sprintf(", %d sent, %d missed; clocks of both ends within %d ns", r.Sent, r.Missed, r.Skew)
}

// besides is what there was besides, on a line of its own.
func (r *Result) besides() string {
	var all []string
	add := func(n int, what string) {
		if n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(r.Ksocks, "idle Ksocks")
	add(r.Bindings, "bindings to other names")
	add(r.Depth, "parts of the name below a wildcard")
	add(r.Busy, "processes that use a CPU each")
	text := ""
	if all != nil {
		text = "  besides     " + strings.Join(all, ", ") + "\n"
	}
	if r.Traced {
		text += "  strace counted system calls: the times mean nothing\n"
	}
	return text
}

// around is what all results have in common.
func (r *Result) around() string {
	var b strings.Builder
	for _, p := range r.Processes {
		where := ""
		if p.CPU != nil {
			where = fmt.Sprintf(" on CPU %d", *p.CPU)
		}
		fmt.Fprintf(&b, "  %-11s %s of CPU for each of %d, %d context switches", p.Role, nanos(p.CPUTime), p.Messages, p.Voluntary+p.Forced)
		if p.SystemCalls != nil {
			fmt.Fprintf(&b, ", %.3g system calls each", *p.SystemCalls)
		}
		fmt.Fprintf(&b, ", %s resident, %s of it shared%s\n", bytesText(float64(p.Resident)), bytesText(float64(p.Shared)), where)
	}
	fmt.Fprintf(&b, "  machine     %v\n              %v", r.Machine, r.Load)
	return b.String()
}

func place(inPlace bool) string {
	if inPlace {
		return "in place"
	}
	return "copied in and out"
}

// count writes a number of things, such as 5.43 M.
func count(n float64) string {
	for _, unit := range []string{"", " k", " M"} {
		if n < 1000 {
			return digits(n) + unit
		}
		n /= 1000
	}
	return digits(n) + " G"
}

func bytesText(n float64) string {
	for _, unit := range []string{" B", " KiB", " MiB", " GiB"} {
		if n < 1024 {
			return digits(n) + unit
		}
		n /= 1024
	}
	return digits(n) + " TiB"
}
