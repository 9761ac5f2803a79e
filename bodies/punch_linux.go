package bodies

import (
	"os"
	"syscall"
)

const punchMode = 0x1 | 0x2 // FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

// punchHole gives bytes of a file back to the file system.
func punchHole(f *os.File, off, n int64) error {
	return control(f, "punch", func(fd int) error { return syscall.Fallocate(fd, punchMode, off, n) })
}

// occupied returns how many bytes of the file system a file takes.
func occupied(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512, nil
}
