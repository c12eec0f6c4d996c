package bench

import (
	"fmt"
	"strings"
	"time"
)

// Result is the outcome of one run of a workload, whatever it is, and of whatever
// it is a run: fields that say nothing of it stay zero.
type Result struct {
	// Name tells apart the results of one report, and is the same in the next one: the
	// workload with those of its parameters that matter, such as rtt/size=64/wait=spin.
	Name     string `json:"name"`
	Workload string `json:"workload"`
	// System is what was measured: "kbus"; "machine" for floors; or the name of
	// something else that does the same work, such as "pipe".
	System string `json:"system"`
	Round  int    `json:"round,omitempty"` // of its report, from 1

	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // that were asked for
	Wait    Wait      `json:"wait,omitempty"`
	Pin     []int     `json:"pin,omitempty"`

	Size      int     `json:"size"` // bytes of data in a message
	InPlace   bool    `json:"in_place,omitempty"`
	Copied    bool    `json:"copied,omitempty"` // in and out
	Listeners int     `json:"listeners,omitempty"`
	BatchSize int     `json:"batch_size,omitempty"` // messages sent and taken in one go, if more than 1
	Senders   int     `json:"senders,omitempty"`    // or askers
	Stages    int     `json:"stages,omitempty"`     // between sender and Listener
	Rate      float64 `json:"rate,omitempty"`       // messages a second that were to be sent
	Ksocks    int     `json:"ksocks,omitempty"`     // that were open and idle
	Bindings  int     `json:"bindings,omitempty"`
	Depth     int     `json:"depth,omitempty"`   // parts of the name that a wildcard stood for
	Busy      int     `json:"busy,omitempty"`    // processes that did nothing but use a CPU
	Slow      int     `json:"slow,omitempty"`    // Listeners that could not keep up
	Stopped   int     `json:"stopped,omitempty"` // Listeners stopped by SIGSTOP
	Traced    bool    `json:"traced,omitempty"`  // strace counted system calls: times mean nothing

	// Latency is what the workload is about, if it measures times: of rtt and floor
	// the round trip, of oneway the way there, of open and bind these.
	*Latency
	Memcpy      *Latency `json:"memcpy,omitempty"`      // floor: a copy of Size bytes into shared memory
	Receive     *Latency `json:"receive,omitempty"`     // send: taking the message
	Close       *Latency `json:"close,omitempty"`       // open
	Unbind      *Latency `json:"unbind,omitempty"`      // bind
	Uncorrected *Latency `json:"uncorrected,omitempty"` // oneway: from when it was sent, not from when it was to be
	Alone       *Latency `json:"alone,omitempty"`       // mix: the same without slow and stopped Listeners

	PerSecond float64 `json:"per_second"`       // messages, or round trips, or operations; fan: to every Listener, the rate of the slowest
	Bytes     float64 `json:"bytes_per_second"` // of data, likewise
	Sent      int64   `json:"sent,omitempty"`
	Missed    int64   `json:"missed"` // by all Listeners together that were to keep up

	// ToFloor is how many times the Floor, a result of the same round, this is:
	// longer, or less often. A floor has a round trip, a copy and a ring: a round trip, and open
	// and bind, are compared with the first, each step of oneway with half of it,
	// what one process does with the second, and rates with the third.
	Floor   string  `json:"floor,omitempty"`
	ToFloor float64 `json:"to_floor,omitempty"`

	// Skew is by how many nanoseconds the clocks of the two ends of oneway may
	// have been apart.
	Skew int64 `json:"skew_ns,omitempty"`

	MaxMessages int     `json:"max_messages,omitempty"`    // of each Listener's queue
	Ring        float64 `json:"ring_per_second,omitempty"` // floor: messages of 64 bytes from a bare ring to each of Readers
	Readers     int     `json:"readers,omitempty"`

	*Pair // limpet; the latency is the round trip, PerSecond that of the stream

	// Memory is what a bus takes: rest.
	Memory *Memory `json:"memory,omitempty"`

	Processes []Process `json:"processes"`
	Load      Load      `json:"load"`
	Machine   Machine   `json:"machine"`
}

// Process is what one process of a run did.
type Process struct {
	Role      string  `json:"role"`
	CPU       *int    `json:"pinned_to,omitempty"`
	Messages  int64   `json:"messages"` // or round trips, or operations; with the warm-up
	CPUTime   float64 `json:"cpu_ns_per_message"`
	Voluntary int64   `json:"voluntary_switches"`
	Forced    int64   `json:"forced_switches"`
	Resident  int64   `json:"resident_bytes,omitempty"` // at the end, with the shared
	Shared    int64   `json:"shared_bytes,omitempty"`   // of these, in memory that processes share
	// SystemCalls is for each message; only a run that strace watches has it.
	SystemCalls *float64 `json:"system_calls_per_message,omitempty"`
}

// Memory is what a bus takes while nobody uses it.
type Memory struct {
	Bus     int64   `json:"bus_bytes"`                   // of the region, that it really has
	Private int64   `json:"private_bytes"`               // of the supervisor, that nobody else has
	Program int64   `json:"program_bytes"`               // of the supervisor, that the program's file gives back at any time
	CPUTime float64 `json:"cpu_ns_per_second"`           // of the supervisor
	Wakes   float64 `json:"context_switches_per_second"` // of the supervisor
}

// Systems that are measured, beside those that others provide.
const (
	KBUS      = "kbus"
	Machinery = "machine"
)

// ofMessages takes over what the messages are like.
func (r *Result) ofMessages(o Options) { r.Size, r.InPlace, r.Copied = o.Size, !o.Copy, o.Copy }

// conclude fills in what follows from the rest.
func (r *Result) conclude() {
	r.Name = r.name()
	r.Bytes = r.PerSecond * float64(r.Size)
}

// name makes the Name of the parameters.
func (r *Result) name() string {
	var b strings.Builder
	if r.System != KBUS && r.System != Machinery {
		b.WriteString(r.System + "/")
	}
	b.WriteString(r.Workload)
	add := func(is bool, key string, value any) {
		if is {
			fmt.Fprintf(&b, "/%s=%v", key, value)
		}
	}
	add(r.Size > 0 || r.InPlace, "size", r.Size)
	add(r.Copied, "copied", true)
	add(r.Wait != "", "wait", r.Wait)
	add(r.Senders > 1, "senders", r.Senders)
	add(r.Listeners > 0, "listeners", r.Listeners)
	add(r.BatchSize > 0, "batch", r.BatchSize)
	add(r.Readers > 0, "readers", r.Readers)
	add(r.Stages > 0, "stages", r.Stages)
	add(r.Rate > 0, "rate", r.Rate)
	add(r.Ksocks > 0, "ksocks", r.Ksocks)
	add(r.Bindings > 0, "bindings", r.Bindings)
	add(r.Depth > 0, "depth", r.Depth)
	add(r.Busy > 0, "busy", r.Busy)
	add(r.Slow > 0, "slow", r.Slow)
	add(r.Stopped > 0, "stopped", r.Stopped)
	return b.String()
}
