package keyruns

import "golang.org/x/sys/unix"

// adviseHuge asks for large pages: with small ones, each line of a filter would cost the
// processor a page lookup.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
