//go:build !race

package clustertest

// Race reports whether this was built with the race detector.
const Race = false
