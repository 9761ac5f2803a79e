//go:build race

package clustertest

// Race is whether this is built with the race detector.
const Race = true
