package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// walDir is the log, whose size changes all the time.
const walDir = "wal"

// storedBytes returns the disk space of a node's data without its log.
func storedBytes(dir string) (int64, error) {
	var all int64
	err := eachFile(dir, func(_ string, info fs.FileInfo) error {
		all += blocksOf(info)
		return nil
	})
	return all, err
}

// blocksOf returns the disk space of a file; holes take none.
func blocksOf(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}

// copyStored copies a node's data without its log, and flushes every file.
func copyStored(dir, to string) error {
	return eachFile(dir, func(name string, _ fs.FileInfo) error {
		return copyFile(filepath.Join(dir, name), filepath.Join(to, name))
	})
}

func copyFile(from, to string) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// Hide the methods of files, so that no file system just notes that both share the same
	// blocks.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
		return err
	}
	return out.Sync()
}

// eachFile visits the files below dir by relative path, except those in walDir and those that
// are removed meanwhile.
func eachFile(dir string, visit func(name string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err, path != dir)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() && name == walDir {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return unlessGone(err, true)
		}
		return visit(name, info)
	})
}

// unlessGone returns err, or nil if it means that a file does not exist and may is true.
func unlessGone(err error, may bool) error {
	if may && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
