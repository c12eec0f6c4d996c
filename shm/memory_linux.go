//go:build amd64 || arm64

package shm

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	mmap "github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// seals is what Create sets before the descriptor leaves the process, and what
// Map insists on:
//
//	SHRINK  nobody can truncate the file under a mapping, which would kill
//	        every process that touches the lost pages (SIGBUS)
//	GROW    the size that was checked before mapping stays the size, so a
//	        region that is handed on is the region that was made
//	SEAL    nobody can add a seal, such as one against writing, which would
//	        keep the next process from joining the bus
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// A Memory is one region: memory that processes share (Create, Map) or, for
// the race detector and the test scheduler, memory of this process (Heap).
//
// All methods may be called from any goroutine. The slices of Words and Bytes
// are valid until Close.
type Memory struct {
	words  []Word
	bytes  []byte
	mapped mmap.MMap // what to unmap; nil for Heap
	file   *os.File  // nil for Heap
	closed atomic.Bool
}

// Create makes a region of size bytes, filled with zeros: a memory file named
// name (seen in /proc/PID/maps, for people only), of mode 0600, sealed against
// every change of its size, and mapped. size is a positive multiple of 8. Pages
// are taken from the system when they are first touched, so a region may be
// larger than what is in use. The caller owns the Memory and closes it.
//
// Errors: ErrSize, and those of the kernel (EMFILE, ENFILE, ENOMEM, ...).
func Create(name string, size int64) (*Memory, error) {
	if err := checkSize(size); err != nil {
		return nil, fmt.Errorf("shm: create %q: %w", name, err)
	}
	f, err := createFile(name, size)
	if err != nil {
		return nil, fmt.Errorf("shm: create %q of %d bytes: %w", name, size, err)
	}
	m, err := mapFile(f, size)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("shm: create %q of %d bytes: %w", name, size, err)
	}
	return m, nil
}

func createFile(name string, size int64) (*os.File, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// Never to be executed (Linux 6.3; older kernels refuse the flag, and a
	// system may insist on it with vm.memfd_noexec=2).
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	// A memory file begins with a mode that lets every user who gets at the
	// descriptor open it again through /proc with more rights.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		f.Close()
		return nil, os.NewSyscallError("ftruncate", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return f, nil
}

// Map maps the region behind f, which may come from anybody: it is refused
// with ErrForeign, and nothing mapped, unless it is a memory file open for
// reading and writing whose seals keep its size for ever. What the region
// holds is for the reader to check. Map keeps a duplicate; f stays the
// caller's. The caller owns the Memory and closes it.
func Map(f *os.File) (*Memory, error) {
	own, err := duplicate(f)
	if err != nil {
		return nil, fmt.Errorf("shm: map: %w", err)
	}
	size, err := checkFile(int(own.Fd()))
	if err != nil {
		own.Close()
		return nil, fmt.Errorf("shm: map %q: %w", f.Name(), err)
	}
	m, err := mapFile(own, size)
	if err != nil {
		own.Close()
		return nil, fmt.Errorf("shm: map %q: %w", f.Name(), err)
	}
	return m, nil
}

// duplicate returns a second descriptor for f. It does not use f.Fd, which f
// may lose to a concurrent Close.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}) != nil {
		return nil, os.ErrClosed // Control fails for nothing else
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", dupErr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// checkFile returns the size of the region behind fd. The seals are read
// before the size: only they make it a fact.
func checkFile(fd int) (int64, error) {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0, fmt.Errorf("%w: it is not a memory file (%w)", ErrForeign, os.NewSyscallError("fcntl(F_GET_SEALS)", err))
	}
	if missing := seals &^ got; missing != 0 {
		return 0, fmt.Errorf("%w: it lacks the seals %s", ErrForeign, sealNames(missing))
	}
	if got&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
		return 0, fmt.Errorf("%w: it is sealed against writing", ErrForeign)
	}
	access, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, os.NewSyscallError("fcntl(F_GETFL)", err)
	}
	if access&unix.O_ACCMODE != unix.O_RDWR {
		return 0, fmt.Errorf("%w: it is not open for reading and writing", ErrForeign)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if err := checkSize(st.Size); errors.Is(err, ErrSize) {
		return 0, fmt.Errorf("%w: %w", ErrForeign, err)
	} else if err != nil {
		return 0, err
	}
	return st.Size, nil
}

func sealNames(s int) string {
	names := ""
	for _, e := range []struct {
		bit  int
		name string
	}{{unix.F_SEAL_SHRINK, "SHRINK"}, {unix.F_SEAL_GROW, "GROW"}, {unix.F_SEAL_SEAL, "SEAL"}} {
		if s&e.bit != 0 {
			if names != "" {
				names += "|"
			}
			names += e.name
		}
	}
	return names
}

// checkSize refuses what can not be a region on this machine. More than memory
// and swap together could be mapped, but never filled: the kernel would begin
// to kill processes instead.
func checkSize(size int64) error {
	if size <= 0 || size%wordSize != 0 {
		return fmt.Errorf("%w: %d bytes (want a positive multiple of %d)", ErrSize, size, wordSize)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	if have := (info.Totalram + info.Totalswap) * uint64(info.Unit); uint64(size) > have {
		return fmt.Errorf("%w: %d bytes, while memory and swap of this machine are %d", ErrSize, size, have)
	}
	return nil
}

// mapFile maps size bytes of f; the Memory takes f over unless there is an error.
func mapFile(f *os.File, size int64) (*Memory, error) {
	// The length is explicit: it is the one that was checked.
	mapped, err := mmap.MapRegion(f, int(size), mmap.RDWR, 0, 0)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// DONTFORK: a child that cgo code forks would hold the region beyond this
	// process's death, and could write as this process's Ksocks.
	// DONTDUMP: a core file would carry everybody's messages, and be as large as
	// the region: the kernel counts memory files as anonymous shared memory,
	// which it dumps by default.
	for _, advice := range []int{unix.MADV_DONTFORK, unix.MADV_DONTDUMP} {
		if err := unix.Madvise(mapped, advice); err != nil {
			mapped.Unmap()
			return nil, os.NewSyscallError("madvise", err)
		}
	}
	return &Memory{words: viewWords(mapped), bytes: mapped, mapped: mapped, file: f}, nil
}

// Heap returns a region of at least size bytes in this process's Go memory,
// where the race detector and the test scheduler see every access. size is
// rounded up to a multiple of 8; the memory begins at a multiple of 64, as a
// page does.
func Heap(size int64) *Memory {
	words := heapWords((size + wordSize - 1) / wordSize)
	return &Memory{words: words, bytes: viewBytes(words)}
}

// Words returns the region as words.
func (m *Memory) Words() []Word { return m.words }

// Bytes returns the region as bytes: the same memory as Words.
func (m *Memory) Bytes() []byte { return m.bytes }

// Size returns the size of the region in bytes.
func (m *Memory) Size() int64 { return int64(len(m.words)) * wordSize }

// File returns the region's descriptor, to be handed to another process; it
// stays the Memory's, valid as long as the memory. Nil for Heap.
func (m *Memory) File() *os.File { return m.file }

// Close unmaps the memory, which nobody may use any more: a touch of what was
// there is a fault at best. A second Close returns os.ErrClosed.
func (m *Memory) Close() error {
	if m.closed.Swap(true) {
		return fmt.Errorf("shm: close: %w", os.ErrClosed)
	}
	if m.file == nil {
		return nil
	}
	return errors.Join(m.mapped.Unmap(), m.file.Close())
}
