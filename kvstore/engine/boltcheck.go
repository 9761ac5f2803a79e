package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"strconv"
)

// The parts of a bbolt meta page that a check before opening needs; bbolt
// writes them in the machine's own byte order.
const (
	boltPageHeaderBytes = 16
	boltMagic           = 0xED0CDAED
	boltMetaBytes       = 64
	boltMetaSummed      = 56 // bytes before the checksum
	boltPageBytesMax    = 16 << 20
)

// boltMeta is what a valid meta page says.
type boltMeta struct {
	pageBytes, pages, txid uint64
}

// verifyBoltFile returns a *DamageError unless the file at path is as long as its newest
// meta page says. bbolt does not check that, and reading past the end would kill the
// process later.
func verifyBoltFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check store file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("check store file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return &DamageError{File: path, Offset: -1, Detail: "it is not a regular file"}
	}
	meta, ok, err := newestMeta(f, info.Size())
	if err != nil {
		return fmt.Errorf("check store file %s: %w", path, err)
	}
	if !ok {
		return &DamageError{File: path, Offset: 0, Detail: fmt.Sprintf("neither of its two meta pages is valid (the file has %d bytes)", info.Size())}
	}
	if want := meta.pages * meta.pageBytes; uint64(info.Size()) < want {
		return &DamageError{File: path, Offset: info.Size(), Detail: fmt.Sprintf("it has %d bytes, its meta page says at least %d: the file was truncated", info.Size(), want)}
	}
	return nil
}

// newestMeta returns the valid meta page of the later transaction. The place of the second
// depends on the page size: if the first is damaged every possible size is tried, as bbolt
// does.
func newestMeta(f io.ReaderAt, size int64) (boltMeta, bool, error) {
	first, ok, err := metaAt(f, 0)
	if err != nil {
		return boltMeta{}, false, err
	}
	if ok {
		second, ok2, err := metaAt(f, int64(first.pageBytes))
		if err != nil {
			return boltMeta{}, false, err
		}
		if ok2 && second.pageBytes == first.pageBytes && second.txid > first.txid {
			return second, true, nil
		}
		return first, true, nil
	}
	for pageBytes := int64(1024); pageBytes <= boltPageBytesMax && pageBytes < size; pageBytes *= 2 {
		second, ok, err := metaAt(f, pageBytes)
		if err != nil {
			return boltMeta{}, false, err
		}
		if ok && int64(second.pageBytes) == pageBytes {
			return second, true, nil
		}
	}
	return boltMeta{}, false, nil
}

// metaAt reads the meta page at off; false means that there is no valid one.
func metaAt(f io.ReaderAt, off int64) (boltMeta, bool, error) {
	var page [boltPageHeaderBytes + boltMetaBytes]byte
	if _, err := f.ReadAt(page[:], off); errors.Is(err, io.EOF) {
		return boltMeta{}, false, nil
	} else if err != nil {
		return boltMeta{}, false, err
	}
	b := page[boltPageHeaderBytes:]
	sum := fnv.New64a()
	sum.Write(b[:boltMetaSummed])
	order := binary.NativeEndian
	m := boltMeta{
		pageBytes: uint64(order.Uint32(b[8:])),
		pages:     order.Uint64(b[40:]),
		txid:      order.Uint64(b[48:]),
	}
	ok := order.Uint32(b) == boltMagic && order.Uint64(b[boltMetaSummed:]) == sum.Sum64() &&
		m.pageBytes >= 1024 && m.pageBytes <= boltPageBytesMax
	return m, ok, nil
}

// reservableBytes is how much address space this machine can give to a file:
// none ahead of need where addresses are scarce, or where a map grows the file.
func reservableBytes(want int64) int {
	if strconv.IntSize < 64 || runtime.GOOS == "windows" || want <= 0 {
		return 0
	}
	return int(want)
}
