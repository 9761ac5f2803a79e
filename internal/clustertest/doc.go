// Package clustertest runs whole oncekv clusters inside a test: as values in the test's own
// process (Start), or as real processes of the built binary (Processes), which can be killed
// and stopped. Everything listens on loopback, lives in the test's temporary directory, and is
// gone when the test ends.
//
//	c := clustertest.Start(t, 3, 3)   // three database nodes, three caches, ready
//	cl := c.Client(t)
//
//	p := clustertest.NewProcesses(t, 3, 3)
//	p.StartAll()
//	p.DBs[0].Kill9()
//
// Tests poll for conditions (Eventually) and never sleep.
package clustertest
