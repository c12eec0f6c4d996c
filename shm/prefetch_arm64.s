//go:build !kbuscheck && !race

#include "textflag.h"

// Assembly because no Go code makes the compiler emit PRFM.

// func fetchForWrite(p unsafe.Pointer)
TEXT ·fetchForWrite(SB), NOSPLIT, $0-8
	MOVD p+0(FP), R0
	PRFM (R0), PSTL1KEEP
	RET

// func fetchTwoForWrite(p unsafe.Pointer)
TEXT ·fetchTwoForWrite(SB), NOSPLIT, $0-8
	MOVD p+0(FP), R0
	PRFM (R0), PSTL1KEEP
	PRFM 64(R0), PSTL1KEEP
	RET

// func fetchForRead(p unsafe.Pointer)
TEXT ·fetchForRead(SB), NOSPLIT, $0-8
	MOVD p+0(FP), R0
	PRFM (R0), PLDL1KEEP
	RET
