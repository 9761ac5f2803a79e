package raftnode

// Status is what a node knows about itself and its cluster.
type Status struct {
	ID        ID
	Name      string
	ClusterID ID
	Role      Role
	Leader    ID // zero while none is known
	// Lacks is set while the leader says that this node has acknowledged entries that its
	// log does not have: its data directory is an older copy. Until it has them again it
	// neither forwards commands nor confirms reads.
	Lacks   bool
	Term    uint64
	Commit  uint64
	Applied uint64
	Members []Member // ordered by ID; not to be modified
	// Level is that of the store as far as this node knows, 0 until it takes part: nothing
	// above it is proposed. Known is the highest that the node understands.
	Level uint64
	Known uint64

	changed uint64 // number of the last change of Members
}

// Role is what a member does in raft.
type Role string

// The roles. A candidate counts as a follower without a leader.
const (
	RoleLeader   Role = "leader"
	RoleFollower Role = "follower"
	RoleLearner  Role = "learner"
)

// Member returns a member of the status by ID.
func (s Status) Member(id ID) (Member, bool) {
	for _, m := range s.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// LeaderName returns the leader's name, or "" while none is known.
func (s Status) LeaderName() string {
	m, _ := s.Member(s.Leader)
	return m.Name
}

// Figures are counts of a node, for metrics.
type Figures struct {
	LeaderChanges    uint64 // how often a leader became known that was not before
	PendingProposals int    // commands that wait for their answer
	ApplyQueueBytes  int    // committed, handed to the state machine, not applied
	DroppedMessages  uint64 // from the peer port, because no member sends them
}
