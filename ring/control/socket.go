package control

import (
	"fmt"
	"os"
	"path/filepath"
)

// DefaultSocket is the path of the socket that a supervisor listens on if it is
// not told another: $XDG_RUNTIME_DIR/kbus/socket, else /run/kbus/socket for
// root, else /tmp/kbus-UID/socket.
func DefaultSocket() string {
	switch dir := os.Getenv("XDG_RUNTIME_DIR"); {
	case filepath.IsAbs(dir):
		return filepath.Join(dir, "kbus", "socket")
	case os.Geteuid() == 0:
		return "/run/kbus/socket"
	}
	return fmt.Sprintf("/tmp/kbus-%d/socket", os.Geteuid())
}
