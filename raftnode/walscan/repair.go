package walscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/Focinfi/oncekv/internal/fsync"
)

// Repair removes the torn tail that Check reported, and nothing before it. What is not zero
// of the tail is first copied to a file of the same name with .broken appended, in place of
// an earlier copy. Everything is flushed when Repair returns nil. It does nothing without a
// torn tail, and fails when the segment is in use; it may then be called again.
func Repair(report Report) (err error) {
	if !report.Torn {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cut off the torn end of %s: %w", report.TornFile, err)
		}
	}()
	f, err := fileutil.TryLockFile(report.TornFile, os.O_RDWR, fileutil.PrivateFileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < report.TornOffset {
		return fmt.Errorf("the file changed since it was checked: it has %d bytes, and the torn end began at %d", st.Size(), report.TornOffset)
	}
	if err := keepTail(f.File, report.TornOffset, report.TornFile+".broken"); err != nil {
		return err
	}
	// Back to its size, because etcd appends faster to what is preallocated;
	// to a multiple of 8, because it fails on half a header at the end.
	if err := f.Truncate(report.TornOffset); err != nil {
		return err
	}
	if err := f.Truncate(st.Size() &^ 7); err != nil {
		return err
	}
	return f.Sync()
}

// keepTail writes what f holds from offset on to path, without the zeros at the
// end, and flushes it, the name included.
func keepTail(f *os.File, offset int64, path string) (err error) {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileutil.PrivateFileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	block := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(io.NewSectionReader(f, offset+at, int64(len(block))), block)
		if b := bytes.TrimRight(block[:n], "\x00"); len(b) > 0 { // else it stays a hole, or beyond the end
			if _, err := to.WriteAt(b, at); err != nil {
				return err
			}
		}
		if at += int64(n); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			break
		}
	}
	if err := to.Sync(); err != nil {
		return err
	}
	return fsync.Sync(filepath.Dir(path))
}
