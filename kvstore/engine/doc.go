// Package engine keeps ordered buckets of keys and values in transactions: in a bbolt file,
// or in memory. It knows what buckets a store has, not what is in them.
//
//	bbolt.go boltcheck.go                      an engine on one bbolt file
//	readahead_linux.go readahead_other.go      hints to the kernel
//	memengine.go                               an engine in memory, which can crash and fail
//	engine.go errors.go                        what engines have in common
package engine
