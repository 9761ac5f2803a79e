package bodies

import (
	"os"
	"syscall"
)

const punchMode = 0x1 | 0x2 // FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

// punchHole gives bytes of a file back to the file system.
func punchHole(f *os.File, off, n int64) error {
	return syscall.Fallocate(int(f.Fd()), punchMode, off, n)
}
