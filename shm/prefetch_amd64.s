//go:build !kbuscheck && !race

#include "textflag.h"

// Assembly because no Go code makes the compiler emit PREFETCHW.

// func fetchForWrite(p unsafe.Pointer)
TEXT ·fetchForWrite(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	BYTE $0x0F; BYTE $0x0D; BYTE $0x08 // PREFETCHW (AX)
	RET

// func fetchTwoForWrite(p unsafe.Pointer)
TEXT ·fetchTwoForWrite(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	BYTE $0x0F; BYTE $0x0D; BYTE $0x08             // PREFETCHW (AX)
	BYTE $0x0F; BYTE $0x0D; BYTE $0x48; BYTE $0x40 // PREFETCHW 64(AX)
	RET

// func fetchForRead(p unsafe.Pointer)
TEXT ·fetchForRead(SB), NOSPLIT, $0-8
	MOVQ       p+0(FP), AX
	PREFETCHT0 (AX)
	RET
