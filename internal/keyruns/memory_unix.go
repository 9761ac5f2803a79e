//go:build unix

package keyruns

import "golang.org/x/sys/unix"

// allocate returns n zero bytes, and what gives them back. Many are not the collector's:
// it lets garbage grow to as much as what is in use, and a large index would take twice its
// memory.
func allocate(n uint64) (b []byte, free func()) {
	if n >= mappedBytes {
		if b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err == nil {
			adviseHuge(b)
			return b, func() { _ = unix.Munmap(b) }
		}
	}
	return make([]byte, n), func() {}
}
