//go:build !linux

package kvstore

const readAheadBytes = 0

func readAhead([]byte) {}
