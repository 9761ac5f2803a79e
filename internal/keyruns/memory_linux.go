package keyruns

import "golang.org/x/sys/unix"

// adviseHuge asks for large pages: of small ones the processor would have to look up one
// for each line of a filter.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
