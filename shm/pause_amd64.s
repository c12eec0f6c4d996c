//go:build !kbuscheck

#include "textflag.h"

// Assembly because no Go code makes the compiler emit PAUSE.

// func Pause(n int)
TEXT ·Pause(SB), NOSPLIT, $0-8
	MOVQ n+0(FP), AX
again:
	SUBQ $1, AX
	JLT  done
	PAUSE
	JMP  again
done:
	RET
