package integration

import (
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// mountSmall mounts a file system of 200 MiB at dir until the test ends.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=400m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		clustertest.Eventually(t, "unmount", func() error { return syscall.Unmount(dir, 0) })
	})
}

// ownGroup gives a process its own process group, and ends it with the test.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
