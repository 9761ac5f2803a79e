// Package raftnode replicates opaque commands: every member applies the same
// commands in the same order to its StateMachine. It is etcd's raft with a
// durable log (etcd's WAL and .snap files), a transport (rafthttp), a member
// table, group commit, and snapshots that are pulled.
//
//	n, err := raftnode.Open(cfg, stateMachine)  // reads the directory, no network
//	go http.Serve(peerListener, n.Handler())    // others can introduce themselves
//	err = n.Run(ctx)                            // forms or joins, recovers, takes part
//
// While Run runs:
//
//	n.ProposeMany(ctx, commands, each)  // tells each what Apply answered, on this node
//	err = n.Distribute(ctx, bodies)     // before a command that refers to them
//	err = n.ReadIndex(ctx)              // everything acknowledged before is applied here
//	st := n.Status()                    // role, leader, term, members
//
// # Goroutines
//
// The core is the consensus itself: a struct around raft.RawNode without goroutine,
// clock or randomness. Events go in, work comes out. Node.loop drives it: it takes
// what gathered in the inbox, asks the core for work, and carries it out: send early,
// save, send late, hand committed entries to the applier. The applier feeds the state
// machine and answers the calls that wait. A third goroutine pulls a snapshot's data.
//
//	ProposeMany ─► inbox ─► loop: core.next ─► send ─► WAL fsync ─► core.done ─► applier ─► answer
//	rafthttp ────►                              └────────► rafthttp
//
// Large values are bodies (package bodies), to which commands refer: the log and raft's
// messages stay small. Distribute stores bodies here and pushes them to all members
// beside raft. A message that refers to a body which is not here waits outside of the
// loop until the body was pushed or fetched.
//
//	Distribute ─► bodies.Store, pushes ─► POST ─► bodies.Store of the members ─► answers
//	rafthttp ─► arrivals ─► inbox          └─ GET ◄─ arrivals, Stage
//
// # Rooms
//
// A file uses only files further down, but that the core shares itself with its checks,
// members.go and its table with forcing.go and founder.go, and a new Node names what
// peerbodies.go does:
//
//	run.go recover.go                        a node's life
//	peerhttp.go levels.go puller.go          answers to peers, levels, a snapshot's data
//	force.go ended.go distribute.go          a forced cluster, one that has ended; bodies to all members
//	history.go peerbodies.go bootstrap.go    asking peers: digests, bodies, who is there
//	membership.go peerask.go node.go         changes of members; one question; the Node
//	pushes.go applier.go arrivals.go         on their way: bodies, entries, messages
//	identity.go config.go inbox.go status.go
//	transport.go core.go messagecheck.go     rafthttp; the consensus, and what it believes
//	gate.go memlog.go disk.go snapshot.go    what may be proposed; the log and its files
//	forcing.go founder.go members.go         the member table
//	waiters.go wait.go statemachine.go       who waits, and for what
//	peerclients.go paced.go logging.go       ground
//	guardstream.go errors.go envelope.go
//	invariants.go
//
// What the package guarantees, and what it does not, is in invariants.go.
package raftnode
