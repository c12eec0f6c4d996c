package bench

import (
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
	return text(r) + "\n" + r.around()
}

// texts are the headlines and the figures of each workload.
var texts = map[string]func(*Result) string{
	"rtt": func(r *Result) string {
		return fmt.Sprintf("Request and Reply of %s between two processes, %s, %s\n  round trip  %v",
			bytesText(float64(r.Size)), place(r.InPlace), r.Wait, r.Latency)
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
		return fmt.Sprintf("Announcements of %s to %d Listener(s), %s, %s\n"+
			"  to each     %s messages/s, %s/s, %d sent, %d missed",
			bytesText(float64(r.Size)), r.Listeners, place(r.InPlace), r.Wait, count(r.PerSecond), bytesText(r.Bytes), r.Sent, r.Missed)
	},
	"local": func(r *Result) string {
		return fmt.Sprintf("Announcements of %s sent and received in one process, %s\n  both        %v",
			bytesText(float64(r.Size)), place(r.InPlace), r.Latency)
	},
	"open": func(r *Result) string {
		return fmt.Sprintf("Ksocks opened and closed\n  open        %v\n  close       %v", r.Latency, r.Close)
	},
	"bind": func(r *Result) string {
		return fmt.Sprintf("Bindings made and ended\n  bind        %v\n  unbind      %v", r.Latency, r.Unbind)
	},
}

// around is what all results have in common.
func (r *Result) around() string {
	var b strings.Builder
	for _, p := range r.Processes {
		where := ""
		if p.CPU != nil {
			where = fmt.Sprintf(" on CPU %d", *p.CPU)
		}
		fmt.Fprintf(&b, "  %-11s %s of CPU for each of %d, %d context switches%s\n",
			p.Role, nanos(p.CPUTime), p.Messages, p.Voluntary+p.Forced, where)
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
