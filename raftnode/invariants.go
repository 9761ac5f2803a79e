package raftnode

// # Invariants
//
//  1. At most one Ready is outstanding. raft 3.5 counts a leader's entries as stored
//     before they are; this order makes that true by the time a follower's
//     acknowledgement can be stepped.
//  2. Messages leave before the save only from a leader whose term is on disk and whose
//     commit index counts no entry that its own disk lacks. So a single voter saves
//     before it sends.
//  3. A membership change is applied before Advance and before the messages of the same
//     Ready leave. Every member validates it against its table when it applies it. One
//     change at a time.
//  4. An entry is applied after this node's fsync of it. The state machine stores member
//     table and applied index in one transaction, and RawNode starts from them.
//  5. A received snapshot is stepped only when everything it needs is staged and
//     verified. Then state and snapshot record go to the WAL (fsync), the state machine
//     installs, and the log starts after it. The next start finishes what a crash
//     interrupted. There is one staging area: nothing is pulled before what was staged
//     is installed.
//  6. The log before a local snapshot may go. A local snapshot is only taken of a state
//     that the state machine has made durable.
//  7. After a failed write or fsync nothing more is written, sent or answered: Run
//     returns writefault.Err, and the next start must not go on from there.
//     A system that is short of files or memory is no such failure (internal/shortage).
//  8. A raft ID belongs to one data directory. A cluster forms when all founders have
//     told their IDs; a directory that was lost comes back as a stranger and is refused
//     by name (ErrLostData).
//  9. The caller of ProposeMany learns the truth: an answer, an error that means that nothing
//     happened, or ErrOutcomeUnknown. Commands may be applied twice, so the state machine
//     must give a repeated command the same answer.
//  10. A removed member stops only when most of the other voters have its removal on
//     disk. Until then they may need its vote.
//  11. Names and URLs are checked where they come in. What is in the log, in a table or
//     on the disk is applied by the rules that all versions share.
//  12. Nothing that a peer sends stops a node, or is written although the check of the
//     log would refuse it at the next start. What no member sends is dropped before the
//     core sees it.
//  13. A forwarded command is in the leader's queue and in the uncommitted entries of its
//     term once, however often it comes. A new leader may propose it once more. Its
//     sender repeats it more and more rarely until it is answered.
//  14. A membership change has the number after the last one of the table it is for, and
//     is refused for any other table. Only the forcing of a new cluster has none.
//  15. A node stops because of its history only when a majority of the voters, at least
//     two beside itself, has the same other one, and it has asked each of them itself.
//     It pulls from nobody whose history contradicts its own.
//  16. One entry forces a new cluster, once for each word. The cluster has an ID and a
//     history of its own. The log leads and the identity follows, so the next start
//     finishes what a crash interrupted. A node that hears that its cluster has ended
//     writes that down and never takes part again (ErrEnded).
//  17. What a founder brings to a new cluster (a random number, the level of its program,
//     what its state was restored from) is in its identity before it tells anybody, and
//     never changes. So all founders derive the same history ID; the cluster's ID is its
//     first half. Founders that begin with different states form nothing.
//  18. The store has a level (internal/level), in the member table. It begins as the
//     lowest that a founder knows, and never falls. A leader logs nothing that it cannot
//     read or that needs a higher level: its own callers get ErrLevel, what others
//     forward is dropped. Nobody carries out an entry above the level.
//  19. The leader raises the level when every member, learners too, has said at its peer
//     URL that it knows a higher one. The change is numbered, so it is refused when a
//     member has joined meanwhile that was not asked. A node that joins tells its level,
//     and is refused below the store's.
//  20. What is committed and needs more than this program knows stops the node with a
//     *level.LaterError before any of it is carried out. The log keeps it for a later
//     version. A snapshot of a higher level stops the node only if another member
//     confirms the level.
//  21. An entry is saved, and so acknowledged, only when every body that it refers to is
//     durable in this node's store of bodies. The core holds the body before raft sees
//     the entry, or drops the message; the log in memory holds it as long as it has the
//     entry. Entries that have held bodies for 150 ticks, and that the state has durably,
//     leave the log in memory; a snapshot is taken for that at most once in 150 ticks.
//     Members that are farther behind pull.
//  22. Bodies count as part of their entries: when a snapshot is due, what of the log is
//     kept, what is sent at once, and what waits to be applied.
//  23. A start reclaims nothing before the log holds what it needs
//     (StateMachine.Recovered). Above the durable applied index a body that is missing is
//     damage. Up to it the state may not need the body any more: then the log goes on
//     from a snapshot behind that entry.
//  24. Bodies that members push are checked, and refused while the disk is nearly full or
//     too much is here that nothing refers to. Those that nothing refers to soon are
//     forgotten. Only a write or an fsync that failed stops the node.
//
// # Limits
//
//   - A message that a member could have sent is believed, whoever sent it: a forged
//     vote can undo what raft promises. Peer traffic is neither encrypted nor
//     authenticated. Anybody who reaches the peer port can push up to 1 GiB of bodies
//     more than are alive, and then members cannot push either.
//   - rafthttp trusts its peers: it panics on an entry that does not decode, and takes
//     memory for what is announced. guardstream.go reads its streams first; paced.go
//     bounds the bodies of its pipeline.
//   - rafthttp's clients use the environment's proxy, and their time-outs do not work;
//     peerclients.go replaces them. A stream is given up when nothing arrives for five
//     seconds, or nothing can be written for three.
//   - rafthttp connects to where unknown senders say they are reached, which a member
//     that has fallen behind needs. It may do so for 64 of them.
//   - A member of a cluster that has ended believes what answers at a member's peer URL;
//     if no member of the new cluster answers, it goes on.
//   - A slow member may receive a body twice: pushed, and fetched meanwhile.
//   - What is pulled from a member whose history went wrong after this node's ended is
//     taken over, unless a majority has found that member out before.
//   - raft draws its election time-outs from a random source of its own.
