package failing

import "golang.org/x/sys/unix"

func init() { calls[unix.SYS_NEWFSTATAT] = "fstatat" }
