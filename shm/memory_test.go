//go:build !kbuscheck

package shm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kbus.internal/shm/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, map[string]func() error{
		"store": storeChild,
		"sleep": sleepChild,
	})
}

const pageSize = 4096

// inherited is the region that a child finds as its first extra file.
func inherited() (*Memory, error) { return Map(os.NewFile(3, "inherited")) }

func create(t *testing.T, size int64) *Memory {
	t.Helper()
	m, err := Create("test region", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return m
}

// storeChild tries all that must not be possible with a region, and then
// stores in it.
func storeChild() error {
	m, err := inherited()
	if err != nil {
		return err
	}
	fd := int(m.File().Fd())
	for _, size := range []int64{0, m.Size() - pageSize, m.Size() + pageSize} {
		if err := unix.Ftruncate(fd, size); err != unix.EPERM {
			return fmt.Errorf("truncating to %d: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); err != unix.EPERM {
		return fmt.Errorf("sealing against writing: %v, want EPERM", err)
	}
	if got := m.Words()[1].Load(); got != 4711 {
		return fmt.Errorf("word 1 is %d", got)
	}
	copy(m.Bytes()[pageSize:], "from the child")
	m.Words()[0].Store(42)
	return m.Close()
}

func TestRegionIsShared(t *testing.T) {
	shmtest.CheckFiles(t)
	m := create(t, 3*pageSize)
	m.Words()[1].Store(4711)
	child := shmtest.Command(t, "store")
	child.ExtraFiles = []*os.File{m.File()}
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if got := m.Words()[0].Load(); got != 42 {
		t.Errorf("word 0 is %d after the child stored 42", got)
	}
	if got := m.Bytes()[pageSize:][:14]; string(got) != "from the child" {
		t.Errorf("the child's bytes are %q", got)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(m.File().Fd()), &st); err != nil || st.Size != 3*pageSize {
		t.Errorf("size %d, error %v", st.Size, err)
	}
}

func TestCreate(t *testing.T) {
	shmtest.CheckFiles(t)
	const size = 1<<20 + 8 // not a whole number of pages
	m := create(t, size)
	if m.Size() != size || len(m.Words()) != size/8 || len(m.Bytes()) != size {
		t.Errorf("%d bytes, %d words, size %d", len(m.Bytes()), len(m.Words()), m.Size())
	}
	fd := m.File().Fd()
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o600 {
		t.Errorf("mode %04o, want 0600", st.Mode&0o7777)
	}
	if st.Blocks != 0 {
		t.Errorf("%d blocks are taken before any is used", st.Blocks)
	}
	got, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL; got&^unix.F_SEAL_EXEC != want {
		t.Errorf("seals %#x, want %#x", got, want)
	}
	if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, error %v: want close-on-exec", flags, err)
	}
	if bytes.ContainsFunc(m.Bytes(), func(r rune) bool { return r != 0 }) {
		t.Error("a new region is not all zeros")
	}
	flags := mappingFlags(t, "test region")
	for _, want := range []string{"sh", "dc", "dd"} { // shared, DONTFORK, DONTDUMP
		if !strings.Contains(flags, " "+want) {
			t.Errorf("the mapping's flags %q lack %s", flags, want)
		}
	}
}

// mappingFlags returns the VmFlags of the first mapping of the memory file name.
func mappingFlags(t *testing.T, name string) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(maps), "memfd:"+name+" ")
	_, rest, _ = strings.Cut(rest, "VmFlags:")
	flags, _, _ := strings.Cut(rest, "\n")
	return flags
}

func isMapped(t *testing.T, name string) bool {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(maps), "memfd:"+name+" ")
}

func TestCreateRefusesSizes(t *testing.T) {
	shmtest.CheckFiles(t)
	for _, size := range []int64{math.MinInt64, -8, 0, 4, 4097, 1 << 50, math.MaxInt64, math.MaxInt64 - 7} {
		m, err := Create("bad", size)
		if !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: error %v, want ErrSize", size, err)
		}
		if m != nil {
			t.Errorf("%d bytes: there is a Memory", size)
		}
	}
}

// memoryFile makes a memory file that is not a region.
func memoryFile(t *testing.T, size int64, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("foreign", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "foreign")
}

func open(t *testing.T, name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMapRefusesForeignFiles(t *testing.T) {
	shmtest.CheckFiles(t)
	region := create(t, pageSize)
	for _, c := range []struct {
		name string
		file func(t *testing.T) *os.File
		says string
	}{
		{"not sealed", func(t *testing.T) *os.File { return memoryFile(t, pageSize, 0) }, "SHRINK|GROW|SEAL"},
		{"can shrink", func(t *testing.T) *os.File { return memoryFile(t, pageSize, unix.F_SEAL_GROW|unix.F_SEAL_SEAL) }, "lacks the seals SHRINK"},
		{"can grow", func(t *testing.T) *os.File { return memoryFile(t, pageSize, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL) }, "lacks the seals GROW"},
		{"can be sealed", func(t *testing.T) *os.File {
			return memoryFile(t, pageSize, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
		}, "lacks the seals SEAL"},
		{"sealed against writing", func(t *testing.T) *os.File { return memoryFile(t, pageSize, seals|unix.F_SEAL_WRITE) }, "sealed against writing"},
		{"sealed against later writing", func(t *testing.T) *os.File { return memoryFile(t, pageSize, seals|unix.F_SEAL_FUTURE_WRITE) }, "sealed against writing"},
		{"empty", func(t *testing.T) *os.File { return memoryFile(t, 0, seals) }, "0 bytes"},
		{"truncated in a word", func(t *testing.T) *os.File { return memoryFile(t, pageSize-1, seals) }, "4095 bytes"},
		{"absurd size", func(t *testing.T) *os.File { return memoryFile(t, 1<<50, seals) }, "memory and swap"},
		{"read only", func(t *testing.T) *os.File {
			return open(t, fmt.Sprintf("/proc/self/fd/%d", region.File().Fd()), os.O_RDONLY)
		}, "not open for reading and writing"},
		{"regular file", func(t *testing.T) *os.File {
			f := open(t, t.TempDir()+"/file", os.O_RDWR|os.O_CREATE)
			if err := f.Truncate(pageSize); err != nil {
				t.Fatal(err)
			}
			return f
		}, ""}, // a file in a tmpfs has seals, but not ours
		{"device", func(t *testing.T) *os.File { return open(t, "/dev/zero", os.O_RDWR) }, "not a memory file"},
		{"pipe", func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return r
		}, "not a memory file"},
		{"only a path", func(t *testing.T) *os.File { return open(t, "/dev/zero", unix.O_PATH) }, "not a memory file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := c.file(t)
			defer f.Close()
			before := len(shmtest.OpenFiles(t))
			m, err := Map(f)
			if !errors.Is(err, ErrForeign) {
				t.Errorf("error %v, want ErrForeign", err)
			} else if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if m != nil {
				t.Error("there is a Memory")
			}
			if now := len(shmtest.OpenFiles(t)); now != before {
				t.Errorf("%d descriptors are open, before it were %d", now, before)
			}
			if isMapped(t, "foreign") {
				t.Error("it is mapped")
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		f := memoryFile(t, pageSize, seals)
		f.Close()
		if _, err := Map(f); !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v, want os.ErrClosed", err)
		}
	})
}

func TestMapKeepsADuplicate(t *testing.T) {
	shmtest.CheckFiles(t)
	first := create(t, pageSize)
	f := open(t, fmt.Sprintf("/proc/self/fd/%d", first.File().Fd()), os.O_RDWR)
	m, err := Map(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	m.Words()[5].Store(99)
	again, err := Map(m.File())
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Words()[5].Load(); got != 99 {
		t.Errorf("word 5 is %d, want 99", got)
	}
	if err := errors.Join(again.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestClose(t *testing.T) {
	shmtest.CheckFiles(t)
	m, err := Create("closing", pageSize)
	if err != nil {
		t.Fatal(err)
	}
	if !isMapped(t, "closing") {
		t.Fatal("not mapped")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if isMapped(t, "closing") {
		t.Error("mapped after Close")
	}
	if err := m.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v, want os.ErrClosed", err)
	}
}

func TestHeap(t *testing.T) {
	shmtest.CheckFiles(t)
	for size, want := range map[int64]int64{0: 0, 1: 8, 8: 8, 9: 16, 1000: 1000, 1 << 20: 1 << 20} {
		m := Heap(size)
		if m.Size() != want || len(m.Bytes()) != int(want) || len(m.Words()) != int(want/8) {
			t.Errorf("Heap(%d): size %d, %d bytes, %d words, want %d", size, m.Size(), len(m.Bytes()), len(m.Words()), want)
		}
		if want > 0 {
			if p := reflect.ValueOf(&m.Words()[0]).Pointer(); p%64 != 0 {
				t.Errorf("Heap(%d) begins at %#x, not at a multiple of 64", size, p)
			}
			m.Words()[want/8-1].Store(0x0807060504030201)
			if got := m.Bytes()[want-8:]; !bytes.Equal(got, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
				t.Errorf("Heap(%d): the last word's bytes are %v", size, got)
			}
		}
		if m.File() != nil {
			t.Error("Heap has a file")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
