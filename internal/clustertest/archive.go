package clustertest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// zeroBlock is the size of zero blocks that Unpack leaves out of a file, so that log segments,
// which are mostly zeros, take no disk space.
const zeroBlock = 64 << 10

// unusedSegment is the suffix of a segment that a log keeps in reserve, all zeros. A node
// makes it again, and 64 MB of zeros take 62 KB in an archive.
const unusedSegment = ".tmp"

// Pack stores the files of a data directory, except an unused log segment, in a new archive, a
// .tar.gz. The same files give the same bytes. It refuses to replace an archive.
func Pack(dir, archive string) (err error) {
	f, err := os.OpenFile(archive, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("pack %s: %w", dir, errors.Join(err, os.Remove(archive)))
		}
	}()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(name) == unusedSegment {
			return err
		}
		return packFile(w, dir, name)
	})
	return errors.Join(err, w.Close(), z.Close())
}

func packFile(w *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Size: st.Size(), Mode: int64(st.Mode().Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// Unpack makes dir and extracts the archive into it.
func Unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = unpackFile(r, h, dir)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", archive, err)
		}
	}
}

func unpackFile(r io.Reader, h *tar.Header, dir string) error {
	if !filepath.IsLocal(h.Name) || h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%q is no file below the directory", h.Name)
	}
	path := filepath.Join(dir, filepath.FromSlash(h.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	err = copySparse(f, r)
	return errors.Join(err, f.Truncate(h.Size), f.Close())
}

// copySparse leaves holes for zero blocks.
func copySparse(f *os.File, r io.Reader) error {
	block, zeros := make([]byte, zeroBlock), make([]byte, zeroBlock)
	for at := int64(0); ; at += zeroBlock {
		n, err := io.ReadFull(r, block)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := f.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
