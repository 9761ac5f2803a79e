package faults

import "syscall"

// diesWithTest makes the kernel kill a process when the test that started it
// dies, even of kill -9.
func diesWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
