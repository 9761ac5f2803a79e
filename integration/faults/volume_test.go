package faults

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// volume is where a node keeps its data: a plain directory, or a file system in a file, which
// can be small, be unplugged, and be mounted again.
type volume struct {
	t     testing.TB
	image string // empty for a plain directory
	point string
}

// plainVolume is a directory.
func plainVolume(t testing.TB) *volume { return &volume{t: t, point: t.TempDir()} }

// imageVolume is an ext4 of so many bytes. Its file is sparse.
func imageVolume(t testing.TB, bytes int64) *volume {
	t.Helper()
	dir := t.TempDir()
	v := &volume{t: t, image: filepath.Join(dir, "image"), point: filepath.Join(dir, "mounted")}
	f, err := os.Create(v.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(v.point, 0o700); err != nil {
		t.Fatal(err)
	}
	do(t, "mkfs.ext4", "-q", "-m", "0", v.image)
	undo := []string{"umount", v.point}
	run.janitor.owe(undo...)
	t.Cleanup(func() {
		v.unmount()
		run.janitor.paid(undo...)
	})
	v.mount()
	return v
}

// mount mounts the image. The loop device frees itself at the unmount.
func (v *volume) mount() {
	v.t.Helper()
	do(v.t, "mount", "-o", "loop", v.image, v.point)
}

func (v *volume) unmount() {
	v.t.Helper()
	clustertest.Eventually(v.t, "unmount "+v.point, func() error { return command("", "umount", v.point) })
}

// From linux/fs.h: ext4, XFS and others shut a mounted file system down at once.
const (
	fsIocShutdown    = 0x8004587d
	shutdownNoLog    = 2 // what is not flushed is lost, the journal's tail too
	shutdownFailedAs = "shut down the file system"
)

// unplug loses everything that was not flushed. From now on every access fails, until the
// volume is mounted again.
func (v *volume) unplug() {
	v.t.Helper()
	f, err := os.Open(v.point)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(shutdownNoLog)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fsIocShutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		v.t.Fatalf("%s: %v", shutdownFailedAs, errno)
	}
}

// replug mounts an unplugged volume again, which replays its journal. If somebody on the
// machine is just creating a mount namespace, that still has the old mount, and the new one
// would be as dead: then replug tries again.
func (v *volume) replug() {
	v.t.Helper()
	clustertest.Eventually(v.t, "a mount of "+v.point+" that works", func() error {
		v.unmount()
		v.mount()
		probe := filepath.Join(v.point, "probe")
		return errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe))
	})
}

// freeBytes returns what unprivileged processes may still write to a file system.
func freeBytes(t testing.TB, path string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
