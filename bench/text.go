package bench

import (
	"fmt"
	"strings"
)

// The results as text for people: a headline, the figures, what each process
// used, and the load.

func (r *RTTResult) String() string {
	return fmt.Sprintf("Request and Reply of %s between two processes, %s, %s\n  round trip  %v\n%v",
		bytesText(float64(r.Size)), place(r.InPlace), r.Wait, &r.Latency, &r.Run)
}

func (f *FloorResult) String() string {
	what := "a cache line"
	if f.Wait == Sleep {
		what = "a futex that each sleeps on"
	}
	return fmt.Sprintf("Floors: what this machine does without a bus\n"+
		"  round trip of %s between two processes\n              %v\n"+
		"  copy of %s to shared memory\n              %v\n"+
		"  bare ring with one producer, 64 B, %d reader(s)\n              %s messages/s to each\n%v",
		what, &f.Latency, bytesText(float64(f.Size)), f.Memcpy, f.Readers, count(f.Ring), &f.Run)
}

func (f *FanResult) String() string {
	return fmt.Sprintf("Announcements of %s to %d Listener(s), %s, %s\n"+
		"  to each     %s messages/s, %s/s, %d sent, %d missed\n%v",
		bytesText(float64(f.Size)), f.Listeners, place(f.InPlace), f.Wait, count(f.PerSecond), bytesText(f.Bytes), f.Sent, f.Missed, &f.Run)
}

func (r *LocalResult) String() string {
	return fmt.Sprintf("Announcements of %s sent and received in one process, %s\n  both        %v\n%v",
		bytesText(float64(r.Size)), place(r.InPlace), &r.Latency, &r.Run)
}

func (r *OpenResult) String() string {
	return fmt.Sprintf("Ksocks opened and closed\n  open        %v\n  close       %v\n%v", &r.Latency, r.Close, &r.Run)
}

func (r *BindResult) String() string {
	return fmt.Sprintf("Bindings made and ended\n  bind        %v\n  unbind      %v\n%v", &r.Latency, r.Unbind, &r.Run)
}

// String is what all results have in common, except the headline.
func (r *Run) String() string {
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
