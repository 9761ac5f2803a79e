// Package hostile attacks clusters of real processes, as a client or a stranger on the peer
// port can, and shows that the other clients do not notice.
//
// It is a package of its own beside integration because every attack proves the same:
// docs/faults.md has the list.
//
// # An attack
//
// Each attack has its own world: three database nodes, two cache nodes and an admin, each a
// process.
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
// A bystander may be told 429 or 503, with a sentence and Retry-After, and tries again; its
// request must still succeed within the bound. Only attacks that fill up all connections of a
// node may also cut it off. A bystander's time passes only as far as other programs leave the
// processors to the test (clock).
//
// # Running
//
//	go test ./integration/hostile                                   # the quick ones
//	ONCEKV_TEST_FULL=1 go test ./integration/hostile                # all of them
//	ONCEKV_TEST_FULL=1 go test ./integration/hostile -v -attack '^raft'
//
// With the race detector only the quick ones run: it makes nodes slower and larger than the
// verdict allows. .ci/run runs all of them without it.
//
// # Invariants
//
//  1. Attackers and bystanders reach only loopback addresses, and all their
//     connections end with the test.
//  2. An attack says how it went wrong in one sentence; it does not judge what the
//     bystanders judge.
//  3. Nothing sleeps. An attack holds until the bystanders have been served so many
//     times more (attacker.hold), which takes longer on a slow machine.
package hostile
