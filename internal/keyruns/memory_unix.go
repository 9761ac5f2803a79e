//go:build unix

package keyruns

import "golang.org/x/sys/unix"

// allocate returns n zero bytes and a function that frees them. Large allocations bypass the
// collector, which would let garbage grow to the size of the live heap: a large index would
// take twice its memory.
func allocate(n uint64) (b []byte, free func()) {
	if n >= mappedBytes {
		if b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err == nil {
			adviseHuge(b)
			return b, func() { _ = unix.Munmap(b) }
		}
	}
	return make([]byte, n), func() {}
}
