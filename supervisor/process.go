package supervisor

import (
	"cmp"
	"maps"
	"slices"

	"kbus.internal/shm/handoff"
)

// process is a process with connections, Ksocks or regions. All its fields but p
// and h are guarded by Supervisor.mu.
type process struct {
	p *handoff.Process
	h holder // zero: it is in a namespace where its number is not seen

	refs   int
	dead   bool
	ksocks map[*ksock]struct{}
}

// meet takes p over and returns the one process that stands for it, with a
// reference. Ksocks of one process share one pidfd.
func (s *Supervisor) meet(p *handoff.Process) *process {
	h := holder{p.PID(), p.StartTime()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.processes[h]; known != nil && h.PID != 0 && h.Start != 0 {
		known.refs++
		p.Close()
		return known
	}
	pr := &process{p: p, h: h, refs: 1, ksocks: map[*ksock]struct{}{}}
	if h.PID != 0 && h.Start != 0 {
		s.processes[h] = pr
	}
	s.work.Go(func() {
		if p.Wait(s.ctx) == nil {
			s.died(pr)
		}
	})
	return pr
}

// leave gives a reference back.
func (s *Supervisor) leave(pr *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pr.refs--; pr.refs == 0 {
		if s.processes[pr.h] == pr {
			delete(s.processes, pr.h)
		}
		pr.p.Close()
	}
}

// died closes all that the process had (R4.8).
func (s *Supervisor) died(pr *process) {
	s.mu.Lock()
	pr.dead = true
	ksocks := slices.SortedFunc(maps.Keys(pr.ksocks), func(a, b *ksock) int {
		return cmp.Or(cmp.Compare(a.bus.number, b.bus.number), cmp.Compare(a.id, b.id))
	})
	s.mu.Unlock()
	for _, k := range ksocks {
		k.bus.end(k, "its process ended")
	}
	for _, b := range s.all() {
		b.holderDied(pr)
	}
}

// own notes that k is the process's; false if that has ended already.
func (s *Supervisor) own(pr *process, k *ksock) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pr.ksocks[k] = struct{}{}
	pr.refs++
	return !pr.dead
}

func (s *Supervisor) disown(pr *process, k *ksock) {
	s.mu.Lock()
	delete(pr.ksocks, k)
	s.mu.Unlock()
	s.leave(pr)
}
