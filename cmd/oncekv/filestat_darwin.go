package main

import (
	"syscall"
	"time"
)

// changeTime is when anything about a file changed last.
func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctimespec.Unix()) }
