//go:build !linux

package integration

import (
	"syscall"
	"testing"
)

func mountSmall(t *testing.T, _ string) {
	t.Helper()
	t.Skip("mounts a small file system in the way of Linux")
}

// ownGroup gives a process its own process group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
