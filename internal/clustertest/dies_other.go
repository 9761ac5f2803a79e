//go:build !linux

package clustertest

import "syscall"

// diesWithTest does nothing here: only Linux kills children with their parent.
// Processes are killed when a test ends in order.
func diesWithTest() *syscall.SysProcAttr { return nil }
