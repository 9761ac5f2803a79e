//go:build !race

package raftnode

// simWorlds is how many worlds go test simulates.
const simWorlds = 200
