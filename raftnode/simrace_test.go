//go:build race

package raftnode

// simWorlds is how many worlds go test simulates: the race detector makes each
// some times slower.
const simWorlds = 15
