package main

import "syscall"

// diesWithUs makes the kernel kill a server when this program dies, even by kill -9.
func diesWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
