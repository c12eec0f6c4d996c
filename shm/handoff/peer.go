package handoff

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Credentials say who connected (for the end that Dial returned: who listens),
// as the kernel noted it at that moment, in this process's namespaces.
type Credentials struct {
	PID    int // 0 if the process is not visible from this pid namespace; only for display, see Process
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary groups
}

// Credentials returns the credentials of the peer.
func (c *Conn) Credentials() (Credentials, error) {
	var cr Credentials
	err := c.w.control(func(fd int) error {
		u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt(SO_PEERCRED)", err)
		}
		cr.PID, cr.UID, cr.GID = int(u.Pid), u.Uid, u.Gid
		cr.Groups, err = peerGroups(fd)
		return os.NewSyscallError("getsockopt(SO_PEERGROUPS)", err)
	})
	if err != nil {
		return Credentials{}, fmt.Errorf("handoff: credentials of the peer: %w", err)
	}
	return cr, nil
}
