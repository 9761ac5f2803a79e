package clustertest

import "syscall"

// diesWithTest makes the kernel kill a process when its test dies, even by kill -9.
func diesWithTest() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
