//go:build !linux

package faults

import "syscall"

// diesWithTest is for Linux; elsewhere no episode runs.
func diesWithTest() *syscall.SysProcAttr { return nil }
