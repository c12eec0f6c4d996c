//go:build !(linux && (amd64 || arm64))

package shm

// Regions need Linux (memfd, seals, futexes, pidfds) and a CPU on which an
// aligned 64-bit word is never torn. Elsewhere the build stops here, with the
// reason as the undefined name.
var _ = requires_linux_on_amd64_or_arm64
