package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what figures depend on beside the program.
type Machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"` // that this process may use
	Arch        string `json:"arch"`
	Hypervisor  bool   `json:"hypervisor"`
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	Governor    string `json:"governor"`     // of the first CPU; empty: none, as on most virtual machines
	ClockSource string `json:"clock_source"` // other than tsc and arch_sys_counter are slow
	Revision    string `json:"revision"`     // of this program, as far as it knows
}

// ThisMachine looks; what can not be found out stays empty.
func ThisMachine() Machine {
	m := Machine{
		Arch: runtime.GOARCH, Go: runtime.Version(),
		Governor:    line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
		ClockSource: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		Kernel:      line("/proc/sys/kernel/osrelease"),
	}
	if cpus, err := AllowedCPUs(); err == nil {
		m.CPUs = len(cpus)
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuinfo(info, "model name")
		for _, flag := range strings.Fields(cpuinfo(info, "flags")) {
			m.Hypervisor = m.Hypervisor || flag == "hypervisor"
		}
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Revision = s.Value + m.Revision
			case s.Key == "vcs.modified" && s.Value == "true":
				m.Revision += "+changes"
			}
		}
	}
	return m
}

func (m Machine) String() string {
	name := m.CPU
	if name == "" {
		name = "a CPU of unknown name"
	}
	if m.Hypervisor {
		name += " (virtual)"
	}
	governor := "no governor"
	if m.Governor != "" {
		governor = "governor " + m.Governor
	}
	return fmt.Sprintf("%d × %s, %s, Linux %s, %s, %s, clock %s", m.CPUs, name, m.Arch, m.Kernel, m.Go, governor, m.ClockSource)
}

func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func cpuinfo(info []byte, key string) string {
	lines := bufio.NewScanner(bytes.NewReader(info))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if k, v, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Load is what else the machine did during a run.
type Load struct {
	Average   string  `json:"load_average"` // of 1, 5 and 15 minutes, at the end
	Steal     float64 `json:"steal"`        // part of the CPU time that the hypervisor kept
	Others    float64 `json:"others"`       // part that other programs and interrupts used
	Disturbed bool    `json:"disturbed"`    // too much of these for the figures to be trusted
}

// From these parts of the CPU time on a run is disturbed.
const (
	muchSteal  = 0.01
	muchOthers = 0.05
)

func (l Load) String() string {
	text := fmt.Sprintf("load %s, steal %.1f %%, other programs %.1f %%", l.Average, 100*l.Steal, 100*l.Others)
	if l.Disturbed {
		text += ": DISTURBED"
	}
	return text
}

// cpuTime is what the CPUs have done so far.
type cpuTime struct{ busy, steal, own time.Duration }

// readCPUTime counts as own what this process did, and those of its children
// that it has waited for.
func readCPUTime() (cpuTime, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTime{}, err
	}
	t, err := parseStat(stat)
	if err != nil {
		return t, err
	}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			return t, fmt.Errorf("getrusage: %w", err)
		}
		t.own += cpuOf(&u)
	}
	return t, nil
}

func cpuOf(u *unix.Rusage) time.Duration {
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// parseStat reads the sum over all CPUs in /proc/stat. Its unit is a hundredth
// of a second on every Linux that Go runs on.
func parseStat(stat []byte) (t cpuTime, err error) {
	first, _, _ := strings.Cut(string(stat), "\n")
	f := strings.Fields(first)
	if len(f) < 9 || f[0] != "cpu" {
		return t, fmt.Errorf("/proc/stat begins with %q", first)
	}
	var n [8]int64 // user nice system idle iowait irq softirq steal
	for i := range n {
		if n[i], err = strconv.ParseInt(f[i+1], 10, 64); err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
	}
	const unit = 10 * time.Millisecond
	t.busy = time.Duration(n[0]+n[1]+n[2]+n[5]+n[6]) * unit
	t.steal = time.Duration(n[7]) * unit
	return t, nil
}

// meter measures the load of a run, from its beginning until all of its
// processes have ended.
type meter struct {
	begin time.Time
	cpu   cpuTime
}

func startMeter() (*meter, error) {
	cpu, err := readCPUTime()
	return &meter{time.Now(), cpu}, err
}

func (m *meter) stop() (Load, error) {
	cpu, err := readCPUTime()
	if err != nil {
		return Load{}, err
	}
	average := strings.Fields(line("/proc/loadavg"))
	return loadOf(time.Duration(runtime.NumCPU())*time.Since(m.begin), m.cpu, cpu, strings.Join(average[:min(3, len(average))], " ")), nil
}

// loadOf compares two readings; all is the CPU time that there was.
func loadOf(all time.Duration, before, after cpuTime, average string) Load {
	part := func(d time.Duration) float64 {
		// The counters are coarse: a difference of two ticks is none.
		if d <= 20*time.Millisecond || all <= 0 {
			return 0
		}
		return min(1, float64(d)/float64(all))
	}
	l := Load{
		Average: average,
		Steal:   part(after.steal - before.steal),
		Others:  part(after.busy - before.busy - (after.own - before.own)),
	}
	l.Disturbed = l.Steal > muchSteal || l.Others > muchOthers
	return l
}
