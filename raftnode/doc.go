// Package raftnode replicates opaque commands: every member applies the same
// commands in the same order to its StateMachine. It is etcd's raft with a
// durable log (etcd's WAL and .snap files), a transport (rafthttp), a member
// table, group commit, and snapshots that are pulled.
//
// # A node's life
//
//	n, err := raftnode.Open(cfg, stateMachine)  // reads the directory, no network
//	go http.Serve(peerListener, n.Handler())    // others can introduce themselves
//	err = n.Run(ctx)                            // forms or joins, recovers, takes part
//
// While Run runs:
//
//	result, err := n.Propose(ctx, command)  // what Apply answered, on this node
//	n.ProposeMany(ctx, commands, each)      // the same for many, with one waiter
//	err = n.Distribute(ctx, bodies)         // before a command that refers to them
//	err = n.ReadIndex(ctx)                  // everything acknowledged before is applied here
//	st := n.Status()                        // role, leader, term, members
//
// # Who does what
//
// The core (core.go) is the consensus itself: a struct around raft.RawNode
// without goroutine, clock or randomness. Events go in, work comes out. One
// goroutine, Node.loop, drives it: it takes everything that gathered in the
// inbox, asks the core for work, and carries it out: send early, save, send
// late, hand committed entries to the applier. The applier is the second
// goroutine; it feeds the state machine and answers the calls that wait. A
// snapshot's data is pulled by a third, which lives as long as the pull.
//
//	Propose ─► inbox ─► loop: core.next ─► send ─► WAL fsync ─► core.done ─► applier ─► answer
//	rafthttp ─►                             └────────► rafthttp
//
// Large values are bodies (package bodies), and commands refer to them: the log and
// raft's messages stay small. Distribute keeps bodies here and sends them to all members
// beside raft (pushes.go, peerbodies.go), by goroutines of each member. A message that
// refers to a body which is not here waits outside of the loop, until it was pushed or
// fetched (arrivals.go), by one goroutine for each sender that has such a message.
//
//	Distribute ─► bodies.Store, pushes ─► POST ─► bodies.Store of the members ─► answers
//	rafthttp ─► arrivals ─► inbox          └─ GET ◄─ arrivals, Stage
//
// # Invariants
//
//  1. At most one Ready is outstanding. raft 3.5 counts a leader's entries as
//     stored before they are; this order makes that true by the time a
//     follower's acknowledgement can be stepped.
//  2. Messages leave before the save only from a leader whose term is on disk
//     and whose commit index counts no entry its own disk lacks. So a single
//     voter saves before it sends.
//  3. A membership change is applied before Advance and before the messages of
//     the same Ready leave. It is validated against the member table when it
//     is applied, on every member alike; one at a time.
//  4. An entry is applied after this node's fsync of it, and the state machine
//     stores member table and applied index in one transaction. RawNode starts
//     from that table and that index.
//  5. A received snapshot is stepped only when everything it needs is staged
//     and verified; then: state and snapshot record to the WAL (fsync), the
//     state machine installs, the log starts after it. A crash in between is
//     finished at the next start. There is one staging area: nothing is pulled
//     into it before what was staged is installed.
//  6. The log before a local snapshot may go, and a local snapshot is only
//     ever taken of a state the state machine has made durable.
//  7. After a failed write or fsync nothing more is written, sent or answered:
//     Run returns ErrDisk, and internal/writefault's Err, which whoever owns the
//     directory remembers: the next start must not go on from there. A system that is short of files or memory is not
//     such a failure (internal/shortage): what can wait does, else Run returns
//     a sentence about the limit.
//  8. A raft ID belongs to one data directory for ever. A cluster forms when
//     all founders have told their IDs; a directory that was lost comes back
//     as a stranger and is refused by name (ErrLostData).
//  9. Whoever calls Propose learns the truth: an answer, an error that means
//     nothing happened, or ErrOutcomeUnknown. Commands may be applied twice
//     (forwarded ones can vanish and are proposed again), so the state machine
//     must give a repeated command the same answer.
//  10. A removed member stops only when most of the other voters have its removal
//     on their disks. Until then they may need its vote.
//  11. Names and URLs are checked where they come in, before a change is
//     proposed or an introduction is stored. What is in the log, in a table or
//     on the disk is applied by the rules that all versions share.
//  12. Nothing that a peer sends stops a node, or is written although the check
//     of the log would refuse it at the next start. What no honest member sends is
//     dropped before anything of the core sees it (honest.go, guardstream.go).
//  13. A command that was forwarded is in the leader's queue and the uncommitted
//     entries of its term once, however often it comes. A new leader may propose
//     it once more. Whoever forwarded it repeats it ever more rarely, until it is
//     answered: a message may be lost without a word.
//  14. A membership change has the number that follows the last one of the table it
//     is for, and is refused for any other table. Only the forcing of a new cluster has none.
//  15. A node stops for its history only when a majority of the voters, two at least
//     beside itself, has the same other one, and it has asked each of them itself
//     (history.go). It pulls from nobody whose history contradicts its own.
//  16. A new cluster is forced by one entry, once for each word, and has an ID of its
//     own, and a history of its own. The log leads and the identity follows, so a
//     crash between them is finished at the next start. A node that hears that its
//     cluster has ended so writes that down and never takes part again (ErrEnded).
//  17. What a founder brings to a new cluster (a random number, the level of its
//     program, what its state was restored from) is in its identity before it tells
//     anybody, and never changes. So all founders derive the same history ID, however
//     often they start again meanwhile; the cluster's ID is its first half. Founders
//     that do not begin with the same state form nothing (ErrFounders), and a restored
//     state counts only where it was told of.
//  18. The store has a level (internal/level), in the member table. It begins as the
//     lowest that a founder knows, and never falls. A leader puts nothing into its log
//     that it cannot read, or that needs a higher level: its own callers hear ErrLevel,
//     what others forward is dropped. An entry that is above the level all the same is
//     carried out by nobody.
//  19. The leader raises the level when each member, learners too, has told at its peer
//     URL that it knows a higher one. The change has a number, as others have, so it is
//     refused when somebody has joined meanwhile who was not asked. Whoever joins tells
//     its level, and is refused below the store's.
//  20. What is committed and needs more than this program knows (an entry, an operation,
//     a higher level of the store) stops the node with a *level.LaterError, at the start
//     or later, before anything of it is carried out. The log keeps it, and a later
//     version goes on from there. A snapshot of a higher level does so only if another
//     member says at its peer URL that the store has it.
//  21. An entry is saved, and so acknowledged, only when every body that it refers to is
//     durable in this node's own store of bodies. The core holds the body before raft sees
//     the entry, or drops the message; the log in memory holds it as long as it has the
//     entry. So whoever sends an entry can send its bodies. Entries that have held bodies
//     for 150 ticks, and that the state has durably, leave the log in memory, with what is
//     before them; a snapshot is taken for that at most once in 150 ticks. Ticks are
//     counted, so this needs no clock. Whoever is farther behind pulls.
//  22. What bodies take counts as part of their entries: when a snapshot is due, what of
//     the log is kept, what is sent at once, and what waits to be applied.
//  23. At a start nothing is reclaimed before the log holds what it needs
//     (StateMachine.Recovered). Above the durable applied index a body that is missing is
//     damage. Up to it a body may be gone, because nothing in the state refers to it any
//     more: then the log goes on from a snapshot behind that entry.
//  24. Bodies that members push are checked, and refused while the disk is nearly full or
//     too much is here that nothing refers to. Whoever does not refer to them soon loses
//     them. Only a write or an fsync that failed stops the node.
//
// # Disk
//
//	identity   who this node is, what it brings to a new cluster, and to which one
//	           it belongs (JSON); replaced, never edited. One of another format is
//	           refused before anything is written
//	wal/       etcd's WAL, checked frame by frame before it is opened (walscan);
//	           its metadata says whose it is
//	values/    the bodies; its owner is the state machine's (Config.Bodies)
//	snap/      etcd's .snap files; each holds member table and the state
//	           machine's description of itself, some 2 KB as a rule
//
// All that a start finds it syncs before it builds on it: a process that was killed in
// its fsync may have left it in memory only.
//
// A new cluster's log begins with a snapshot at index 1, term 1, that holds
// the founders. Members that come later have no entry before it and so always
// begin with a snapshot.
//
// # Caveats
//
//   - rafthttp trusts its peers: it panics on an entry of a stream that does not
//     decode, and takes memory for what is announced. guardstream.go reads streams
//     first; bodies of its pipeline are capped and paced (pacedbody.go).
//   - A message that a member could have sent is believed, whoever sent it: a forged
//     vote can undo what raft promises, and a forged append that a later version could
//     have sent stops who commits it.
//   - rafthttp's own clients use the environment's proxy, and their time-outs do
//     not work; peerclients.go reaches into it to put this node's in their place.
//     A stream is given up when nothing arrives for five seconds, or nothing can
//     be written for three.
//   - rafthttp connects to where a sender that it does not know says it is reached:
//     a member that has fallen behind needs that. It is let do so for 64 of them.
//   - A member of a cluster that has ended believes what answers at a member's peer
//     URL; if nobody of the new cluster does, it goes on.
//   - Whoever reaches the peer port can push bodies: up to 1 GiB, and as much again as is
//     alive, until they are forgotten. While there is more, members cannot push either.
//   - A member that is slow may be sent a body twice: pushed, and fetched meanwhile.
//   - Peer traffic is neither encrypted nor authenticated yet.
//   - What is pulled from a member whose history went wrong after this node's ended
//     is taken over, unless a majority has found that member out before.
//   - raft draws its election time-outs from a random source of its own.
package raftnode
