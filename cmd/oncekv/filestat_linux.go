package main

import (
	"syscall"
	"time"
)

// changeTime returns the inode's change time.
func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
