package server

import (
	"context"
	"runtime/debug"
	"time"
)

// What a cache node's process may take besides its records.
const (
	memoryConstant      = 64 << 20 // the program, loads, requests, and room for garbage
	memoryConnection    = 32 << 10 // each open connection: buffers, stacks, a request
	memoryGarbageShare  = 4        // one part in so many of the records' memory: room for garbage
	memoryLimitInterval = time.Second
)

// memoryLimit is what the Go runtime is told to keep below. By itself it lets
// garbage grow to as much as is in use, and a full cache of 1 GiB would take
// 2 GiB.
func memoryLimit(cacheBytes int64, connections int) int64 {
	return cacheBytes + cacheBytes/memoryGarbageShare + memoryConstant + int64(connections)*memoryConnection
}

// limitMemory keeps the process's memory limit where it belongs for as many
// connections as there are, until ctx ends; then it is what it was before. Without
// the connections, many of them would leave no room for garbage, and the
// collector would run without end.
func (c *Cache) limitMemory(ctx context.Context) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	cacheBytes := c.node.Stats().LimitBytes
	tick := time.NewTicker(memoryLimitInterval)
	defer tick.Stop()
	for at := int64(0); ; {
		if limit := memoryLimit(cacheBytes, c.public.ln.figures().Open); limit != at {
			debug.SetMemoryLimit(limit)
			at = limit
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
