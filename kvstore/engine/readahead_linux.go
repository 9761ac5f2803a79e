package engine

import "syscall"

// Bounds of a read ahead.
const (
	readAheadBytes = 4 << 20
	readAheadPiece = 128 << 10 // the kernel may cut a larger request short
)

// readAhead asks the kernel to bring mapped memory in from its file, without
// waiting for that. It may do nothing.
func readAhead(mapped []byte) {
	for len(mapped) > 0 {
		n := min(len(mapped), readAheadPiece)
		if syscall.Madvise(mapped[:n], syscall.MADV_WILLNEED) != nil {
			return
		}
		mapped = mapped[n:]
	}
}
