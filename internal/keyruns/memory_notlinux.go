//go:build unix && !linux

package keyruns

// adviseHuge is for Linux only.
func adviseHuge([]byte) {}
