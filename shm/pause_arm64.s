//go:build !kbuscheck

#include "textflag.h"

// Assembly because no Go code makes the compiler emit YIELD.

// func Pause(n int)
TEXT ·Pause(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R0
again:
	SUBS $1, R0, R0
	BLT  done
	YIELD
	B    again
done:
	RET
