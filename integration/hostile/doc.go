// Package hostile attacks clusters of real processes as a client or a stranger on
// the peer port can, and shows that the others do not notice.
//
// It is a package of its own beside integration because what it proves is always
// the same, whatever the attack was: docs/faults.md has the list.
//
// # An attack
//
// Each attack has a world of its own: three database nodes, two cache nodes and an
// admin, each a process.
//
//	world       is started; memory, goroutines and descriptors of every node are noted
//	bystanders  put, read, list, and look at heartbeats, through every node, all the time
//	attack      runs, from another loopback address than theirs, or from the same one
//	verdict     bystanders were served all the while, each within the bound, and go on
//	            after the attack; goroutines, descriptors and memory come back to where
//	            they were; nobody stopped, wrote a line of level ERROR, or one past
//	            its log; all nodes end in order, start again, and have the same
//	            history
//
// A bystander may be told 429 or 503, with a sentence and Retry-After, and tries
// again; what it asked for must be done within the bound in any case. Only attacks
// that fill up all connections of a node may also cut it off. A bystander's time passes
// only as far as other programs leave the processors to the test (clock).
//
// # Running
//
//	go test ./integration/hostile                                   # the quick ones
//	ONCEKV_TEST_FULL=1 go test ./integration/hostile                # all of them
//	ONCEKV_TEST_FULL=1 go test ./integration/hostile -v -attack '^raft'
//
// With the race detector the quick ones are all: it makes nodes slower and larger
// than the verdict allows, and the rest has a run of its own in .ci/run.
//
// # Invariants
//
//  1. Attackers and bystanders reach loopback addresses only, and every connection
//     of theirs ends with the test.
//  2. An attack says how it went wrong in one sentence; it does not judge what the
//     bystanders judge.
//  3. Nothing is slept for. An attack holds until the bystanders have been served
//     so many times more (attacker.hold), which takes longer on a slow machine.
package hostile
