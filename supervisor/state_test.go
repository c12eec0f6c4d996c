package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzState: a state file may hold anything. BOOT stands for the time since the
// last boot, without which all else is passed by.
func FuzzState(f *testing.F) {
	boot, err := bootID()
	if err != nil {
		f.Fatal(err)
	}
	secret := strings.Repeat("A", 43) + "="
	f.Add([]byte(`{"version":1,"boot":"BOOT","buses":[]}`))
	f.Add([]byte(`{"version":1,"boot":"BOOT","buses":[{"bus":3,"region":{"dev":1,"ino":2},"secret":"` + secret + `","new_secret":true,"holders":[{"pid":7,"start":9}]}]}`))
	f.Add([]byte(`{"version":1,"boot":"BOOT","buses":[null]}`))
	f.Add([]byte(`{"version":2,"boot":"BOOT","buses":[{"bus":300}]}`))
	f.Add([]byte(`{"version":1,"boot":"before","buses":[{"bus":-1}]}`))
	bus := `{"version":1,"boot":"BOOT","buses":[{"bus":3,"region":{"dev":1,"ino":2},"secret":"` + secret + `","holders":[]}]}`
	f.Add([]byte(bus + "\n" + `{"bus":3,"pid":7,"start":9}` + "\n" + `{"bus":3,"pid":8,"start":9}` + "\n" + `{"bus":3,"pi`))
	f.Add([]byte(bus + `{"bus":4,"pid":7,"start":9}` + "\n"))
	path := filepath.Join(f.TempDir(), "state")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte("BOOT"), []byte(boot)), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &state{path: path, buses: map[int]*busState{}}
		old, err := s.load()
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%v does not say which file", err)
			}
			return
		}
		for _, b := range old {
			if b.Bus < 0 || b.Bus >= MaxBuses || len(b.Secret) != secretSize {
				t.Errorf("taken for a bus: %+v", b)
			}
			for _, h := range b.Holders { // as takeOver does
				s.drop(b.Bus, h)
			}
		}
		if err := s.write(); err != nil {
			t.Fatal(err)
		}
		defer s.close()
		for _, b := range old {
			for n := range 2 {
				if err := s.hold(b.Bus, holder{n, 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		next := &state{path: path, buses: map[int]*busState{}}
		again, err := next.load()
		if err != nil || len(again) != len(s.buses) {
			t.Errorf("%d buses are %d, %v", len(s.buses), len(again), err)
		}
		for _, b := range again {
			if len(b.Holders) != 2 {
				t.Errorf("bus %d has %v", b.Bus, b.Holders)
			}
		}
	})
}

// R9.4: at each moment the file names all who hold a region, wherever its writer
// is killed, and it does not grow for ever.
func TestState(t *testing.T) {
	s := &state{path: filepath.Join(t.TempDir(), "state"), buses: map[int]*busState{}}
	defer s.close()
	if err := s.add(&busState{Bus: 3, Secret: newSecret()}); err != nil {
		t.Fatal(err)
	}
	// check loads the file, and again as if its writer had been killed in the middle
	// of the line of last.
	check := func(last holder, want ...holder) {
		t.Helper()
		data, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
		for _, cut := range []int{len(data), len(data) - 1, len(data) - 5, end + 1, end} {
			if cut < len(data) && (end == 0 || last == holder{}) {
				continue // the file is written anew at once, not line by line
			}
			path := s.path + ".cut"
			if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			old, err := (&state{path: path, buses: map[int]*busState{}}).load()
			if err != nil || len(old) != 1 || old[0].Bus != 3 {
				t.Fatalf("%d bytes of %d: %v, %v", cut, len(data), old, err)
			}
			for _, h := range want {
				if !slices.Contains(old[0].Holders, h) && (cut == len(data) || h != last) {
					t.Errorf("%d bytes of %d do not name %v", cut, len(data), h)
				}
			}
		}
	}
	stay, most := holder{1, 1}, 0
	for n := range 1000 {
		h := holder{n + 2, 7}
		if n == 0 {
			h = stay
		}
		if err := s.hold(3, h); err != nil {
			t.Fatal(err)
		}
		if n < 3 || n%50 == 0 {
			check(h, stay, h)
		}
		if h != stay {
			s.drop(3, h)
		}
		info, err := os.Stat(s.path)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, int(info.Size()))
	}
	if most > 5000 {
		t.Errorf("the file grew to %d bytes", most)
	}
	// Somebody has cleaned the directory.
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	if err := s.hold(3, holder{5, 5}); err != nil {
		t.Fatal(err)
	}
	check(holder{}, stay, holder{5, 5})
	// What could not be written whole is not added to.
	s.file.Close()
	if err := s.hold(3, holder{6, 6}); err != nil {
		t.Fatal(err)
	}
	check(holder{}, stay, holder{6, 6})
}
