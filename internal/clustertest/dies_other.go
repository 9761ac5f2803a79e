//go:build !linux

package clustertest

import "syscall"

// diesWithTest does nothing here: only Linux kills children with their parent. A test that
// ends normally kills its processes.
func diesWithTest() *syscall.SysProcAttr { return nil }
