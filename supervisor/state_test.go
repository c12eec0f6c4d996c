package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
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
		next := &state{path: path, buses: map[int]*busState{}}
		if again, err := next.load(); err != nil || len(again) != len(s.buses) {
			t.Errorf("%d buses are %d, %v", len(s.buses), len(again), err)
		}
	})
}
