package server

import (
	"context"
	"runtime/debug"
	"time"
)

// What a cache node's process may use besides its records.
const (
	memoryConstant      = 64 << 20 // the program, loads, requests, and room for garbage
	memoryConnection    = 32 << 10 // each open connection: buffers, stacks, a request
	memoryGarbageShare  = 4        // room for garbage: a quarter of the records' memory
	memoryLimitInterval = time.Second
)

// memoryLimit returns the limit for the Go runtime. Without one, garbage may grow to the
// size of the live heap, and a full cache of 1 GiB would take 2 GiB.
func memoryLimit(cacheBytes int64, connections int) int64 {
	return cacheBytes + cacheBytes/memoryGarbageShare + memoryConstant + int64(connections)*memoryConnection
}

// limitMemory adjusts the process's memory limit to the number of open connections until
// ctx ends, then restores the old limit. If connections did not count, many of them would
// leave no room for garbage, and the collector would never rest.
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
