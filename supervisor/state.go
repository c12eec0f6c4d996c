package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// state is what a supervisor that is killed leaves to the next: which buses
// there are, how to know their regions again, and who holds them. It is
// written before the first descriptor of a region goes to a process, so
// whoever holds a region is in it. (Some who are in it may hold it no more.)
//
// The file is a stateFile, and after it, a line each, the holders that came since.
// To add a line costs a hundredth of what it costs to replace a file on a disk.
type state struct {
	path string

	mu    sync.Mutex
	buses map[int]*busState
	file  *os.File // to add to; nil: the next change replaces the file
	lines int      // added since it was written
}

type busState struct {
	Bus     int      `json:"bus"`
	Region  regionID `json:"region"`
	Secret  []byte   `json:"secret"` // makes the tokens
	New     bool     `json:"new_secret,omitempty"`
	Holders []holder `json:"holders"`

	ksocks map[holder]int // Ksocks of each
}

type stateFile struct {
	Version int         `json:"version"`
	Boot    string      `json:"boot"`
	Buses   []*busState `json:"buses"`
}

const stateVersion = 1

// addition is a line of the file.
type addition struct {
	Bus int `json:"bus"`
	holder
}

// leastAdditions are as many lines as the file may have at any rate, before it is
// written anew without those who have ended; else as many as there are holders.
const leastAdditions = 64

// bootID names the time since the machine started. Without it nobody knows what
// a state file is worth.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// load reads what the predecessor left; nothing if there is nothing, or if it
// is from before the last boot.
func (s *state) load() ([]*busState, error) {
	path := s.path
	data, err := readOwn(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	damaged := func(why string) error {
		return fmt.Errorf("state file %s is damaged (%s); remove it if no Ksock is left", path, why)
	}
	var f stateFile
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&f); err != nil {
		return nil, damaged(err.Error())
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("state file %s has version %d, this supervisor knows %d; start the one that wrote it, or remove it if no Ksock is left",
			path, f.Version, stateVersion)
	}
	boot, err := bootID()
	if err != nil || f.Boot != boot {
		return nil, err
	}
	for _, b := range f.Buses {
		if b == nil || b.Bus < 0 || b.Bus >= MaxBuses || s.buses[b.Bus] != nil || len(b.Secret) != secretSize {
			return nil, damaged("an impossible bus")
		}
		s.enter(b)
	}
	// A line without an end was being written when its supervisor was killed:
	// the process that it is about got nothing.
	for line := range bytes.Lines(data[d.InputOffset():]) {
		if line[len(line)-1] != '\n' || len(line) == 1 {
			continue
		}
		var a addition
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, damaged(err.Error())
		}
		b := s.buses[a.Bus]
		if b == nil {
			return nil, damaged("a process of an unknown bus")
		}
		if _, known := b.ksocks[a.holder]; !known {
			b.ksocks[a.holder] = 0
			b.Holders = append(b.Holders, a.holder)
		}
	}
	return f.Buses, nil
}

// readOwn reads a file that must be this user's: the directory may be one where
// everybody can make files.
func readOwn(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("state file %s belongs to user %d", path, uid)
	}
	return io.ReadAll(f)
}

// enter puts b in the table. It holds all that b names as holders.
func (s *state) enter(b *busState) {
	b.ksocks = map[holder]int{}
	for _, h := range b.Holders {
		b.ksocks[h] = 0
	}
	s.buses[b.Bus] = b
}

// add notes a bus, in place of one that had its number.
func (s *state) add(b *busState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enter(b)
	return s.write()
}

// hold notes one more Ksock of h on the bus; when it returns without an error
// the file says so.
func (s *state) hold(bus int, h holder) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buses[bus]
	_, known := b.ksocks[h]
	b.ksocks[h]++
	if known {
		return nil
	}
	if err := s.append(addition{bus, h}); err != nil {
		b.drop(h)
		return err
	}
	return nil
}

// append adds a line to the file, or writes it anew.
func (s *state) append(a addition) error {
	if s.file == nil || s.lines >= s.holders() && s.lines >= leastAdditions || s.removed() {
		return s.write()
	}
	line, err := json.Marshal(a)
	if err == nil {
		_, err = s.file.Write(append(line, '\n'))
	}
	if err != nil {
		s.close() // a part of the line may be there
		return s.write()
	}
	s.lines++
	return nil
}

// holders counts all that the buses have.
func (s *state) holders() (n int) {
	for _, b := range s.buses {
		n += len(b.ksocks)
	}
	return n
}

// removed tells whether the file is not at its path any more: there are programs
// that clean directories.
func (s *state) removed() bool {
	info, err := s.file.Stat()
	return err != nil || info.Sys().(*syscall.Stat_t).Nlink == 0
}

// close makes the next change replace the file.
func (s *state) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// drop notes one Ksock of h less. The file may go on naming h until it is
// written the next time.
func (s *state) drop(bus int, h holder) {
	s.mu.Lock()
	s.buses[bus].drop(h)
	s.mu.Unlock()
}

// prune forgets those who were known to hold the bus and have no Ksock on it.
func (s *state) prune(bus int) {
	s.mu.Lock()
	maps.DeleteFunc(s.buses[bus].ksocks, func(_ holder, n int) bool { return n == 0 })
	s.mu.Unlock()
}

func (b *busState) drop(h holder) {
	if b.ksocks[h]--; b.ksocks[h] <= 0 {
		delete(b.ksocks, h)
	}
}

// write replaces the file at once: whoever reads it gets the old or the new
// one whole.
func (s *state) write() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	f := stateFile{Version: stateVersion, Boot: boot, Buses: []*busState{}}
	for _, n := range slices.Sorted(maps.Keys(s.buses)) {
		b := s.buses[n]
		b.Holders = slices.Collect(maps.Keys(b.ksocks))
		f.Buses = append(f.Buses, b)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	tmp := s.path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = out.Write(append(data, '\n')); err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err != nil {
		out.Close()
		os.Remove(tmp) // it is in nobody's way, should it stay
		return err
	}
	s.close()
	s.file, s.lines = out, 0
	return nil
}
