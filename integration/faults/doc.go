// Package faults injects faults into clusters of real processes, and proves afterwards that no
// client saw anything that a set-once store must not show.
//
// It is a package of its own beside integration, because it is a tier of its own: its cases
// need root and a machine's network and file systems, they take flags (how many, which, for
// how long), and they all prove the same. The cases in integration assert one behaviour each.
//
// # An episode
//
// One episode is one world, one row of the fault matrix (docs/faults.md), and one seed:
//
//	world    database nodes and caches, each a process in a network namespace of
//	         its own, on one bridge; data on the file system the row needs
//	load     clients of every node put, put rivals, read and list; every request
//	         is tried once and recorded as a checker.Op
//	row      injects, holds, heals, and says what must hold meanwhile
//	verdict  load ends, everybody catches up, every key is read from every node
//	         and cache, and checker.Check judges all of it; histories are equal
//
// The seed decides the choices of the test (which node, how long, which byte). It cannot
// decide what the kernel's scheduler does, so the same seed gives the same attack, not the
// same run.
//
// # Running
//
//	ONCEKV_TEST_FULL=1 go test ./integration/faults                      # each row once
//	ONCEKV_TEST_FULL=1 go test ./integration/faults -row oneway -seed 7  # rows by name
//	ONCEKV_TEST_FULL=1 go test ./integration/faults -timeout 0 -for 2h -hold 30s -keep DIR
//
// A failed episode prints its row and seed, the command that runs it again, and the directory
// with the logs of its nodes and its history.
//
// # What it leaves behind
//
// Nothing. Namespaces, links and mounts have names that no other run has, and are removed by
// those names when an episode ends. If the test dies, a second process, the janitor, does it.
package faults
