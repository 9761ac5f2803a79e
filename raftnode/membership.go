package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// changeTimeout bounds a membership change whose caller set no deadline.
const changeTimeout = 8 * time.Second

// AddMember adds a member as a learner. With Promote set the leader makes it a voter as
// soon as it has caught up. Adding the same ID and name again updates the URLs; created is
// false then. Errors: ErrBadMember, ErrRefused with the reason, ErrUnavailable,
// ErrOutcomeUnknown.
func (n *Node) AddMember(ctx context.Context, m Member) (added Member, created bool, err error) {
	m, err = m.Checked()
	if err != nil {
		return Member{}, false, err
	}
	a, err := n.change(ctx, changeRequest{Op: "add", Member: m})
	return a.Member, a.Created, err
}

// RemoveMember removes a member; its ID is never accepted again. It is refused when the
// remaining voters would have no active majority, unless force is set, and always for the
// last voter. A leader hands over first.
func (n *Node) RemoveMember(ctx context.Context, name string, force bool) error {
	_, err := n.change(ctx, changeRequest{Op: "remove", Name: name, Force: force})
	return err
}

// PromoteMember makes a learner a voter. It is refused while the learner is
// behind or not heard of.
func (n *Node) PromoteMember(ctx context.Context, name string) error {
	_, err := n.change(ctx, changeRequest{Op: "promote", Name: name})
	return err
}

// TransferLeader makes the named voter the leader and returns when it is. It
// is refused for a learner or a member that is not heard of.
func (n *Node) TransferLeader(ctx context.Context, to string) error {
	_, err := n.change(ctx, changeRequest{Op: "transfer", Name: to})
	return err
}

// HandOver gives leadership to the voter that is nearest to it, if this node
// leads and there is one, and returns when another node leads or ctx ends.
func (n *Node) HandOver(ctx context.Context) {
	var to ID
	if n.call(ctx, func(c *core) {
		if c.isLeader() {
			to, _ = c.successor()
		}
	}) != nil || to == 0 {
		return
	}
	if err := n.transfer(ctx, to); err != nil {
		n.logger.Info("leadership was not handed over", "err", err)
	}
}

// change carries a request out where the leader is.
func (n *Node) change(ctx context.Context, req changeRequest) (changeAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	for {
		st := n.status.Load()
		if st.Leader == st.ID && st.Leader != 0 {
			a, err := n.changeHere(ctx, req)
			if !errors.Is(err, errNotLeader) {
				return a, err
			}
		} else if leader, ok := st.Member(st.Leader); ok {
			a, err := n.askLeader(ctx, leader.PeerURL, req)
			if !errors.Is(err, errNotLeader) && !errors.Is(err, ErrUnavailable) {
				return a, err
			}
		}
		if err := n.pause(ctx); err != nil {
			return changeAnswer{}, err
		}
	}
}

// pause waits a little for a leader to appear, or for its attention.
func (n *Node) pause(ctx context.Context) error {
	t := time.NewTimer(n.cfg.Tick)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-n.stopped:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("%w: the cluster could not be asked in time", ErrUnavailable)
	}
}

// errNotLeader: leadership moved, or has only just come: a new leader does not know yet
// which members are reachable, and would refuse what is fine a moment later.
var errNotLeader = fmt.Errorf("%w: this node does not lead, or has only just begun to", ErrUnavailable)

// call runs f in the loop and waits for it. An error other than
// ErrOutcomeUnknown means that f did not run and never will.
func (n *Node) call(ctx context.Context, f func(*core)) error {
	var taken atomic.Bool // by the loop or by this call giving up, whoever is first
	done := make(chan struct{})
	if !n.inbox.addCall(func(c *core) {
		if !taken.Swap(true) {
			f(c)
			close(done)
		}
	}) {
		return ErrStopped
	}
	err := ErrStopped
	select {
	case <-done:
		return nil
	case <-n.stopped:
	case <-ctx.Done():
		err = fmt.Errorf("%w (%w)", ErrUnavailable, context.Cause(ctx))
	}
	if !taken.Swap(true) {
		return err
	}
	select {
	case <-done: // soon: f does not block
		return nil
	case <-n.stopped: // the loop may have ended in the middle of it
		return ErrOutcomeUnknown
	}
}

// decision is what a leader makes of a request: a change to propose, or a voter to hand
// over to, or neither when there is nothing to do.
type decision struct {
	op     changeOp
	member Member
	to     ID
}

// errBusy: one change at a time.
var errBusy = refuse("another membership change is in progress; try again when it is done")

// decide is what this leader makes of a request.
func (c *core) decide(req changeRequest) (decision, error) {
	if req.Op == "add" {
		m := req.Member
		old, known := c.members.members[m.ID]
		if !known || old.Name != m.Name {
			return decision{op: opAdd, member: m}, nil
		}
		if old.PeerURL == m.PeerURL && old.ClientURL == m.ClientURL {
			return decision{member: old}, nil
		}
		old.PeerURL, old.ClientURL = m.PeerURL, m.ClientURL
		return decision{op: opUpdate, member: old}, nil
	}
	m, known := c.members.byName(req.Name)
	if !known {
		return decision{}, fmt.Errorf("%w: %q", ErrUnknownMember, req.Name)
	}
	switch req.Op {
	case "remove":
		alone := c.members.voters() == 1
		if ok, active, voters := c.quorumAfter(0, m.ID); !ok && !m.Learner && !alone && !req.Force {
			return decision{}, refuse("removing %s would leave %d voters of which %d can be reached: no quorum. Bring the others back first, or use ?force=true if they are permanently lost", m.Name, voters, active)
		}
		// A removed leader would go on leading a cluster it does not belong to: it
		// hands over, and the next one removes it.
		if to, ok := c.successor(); ok && m.ID == c.id && !alone {
			return decision{to: to}, nil
		}
		return decision{op: opRemove, member: m}, nil
	case "promote":
		if !m.Learner {
			return decision{}, refuse("%s votes already", m.Name)
		}
		if !c.caughtUp(m.ID) {
			match, _ := c.match(m.ID)
			return decision{}, refuse("%s is behind or not reachable: it has entry %d of %d; try again when it has caught up", m.Name, match, c.commit)
		}
		if ok, active, voters := c.quorumAfter(m.ID, 0); !ok {
			return decision{}, refuse("with %s there would be %d voters of which %d can be reached: no quorum", m.Name, voters, active)
		}
		return decision{op: opPromote, member: m}, nil
	}
	switch { // a transfer
	case m.Learner:
		return decision{}, refuse("%s is a learner and cannot lead; promote it first", m.Name)
	case m.ID == c.id:
		return decision{}, nil
	case !c.active(m.ID):
		return decision{}, refuse("%s has not been heard of lately and cannot lead", m.Name)
	}
	return decision{to: m.ID}, nil
}

// decide lets the loop look at a request and propose what it wants in the same
// instant; then it waits until the change is applied here.
func (n *Node) decide(ctx context.Context, req changeRequest) (d decision, err error) {
	done := make(chan error, 1)
	var seq uint64
	if err := n.call(ctx, func(c *core) {
		if !c.knowsReachable() {
			err = errNotLeader // asked again, here or elsewhere
			return
		}
		if d, err = c.decide(req); err != nil || d.op == "" {
			return
		}
		if len(c.changes) > 0 {
			err = errBusy
			return
		}
		if err = c.members.check(change{Op: d.op, Member: d.member, Number: c.members.changed + 1}); err == nil {
			seq = c.proposeChange(d.op, d.member, done)
		}
	}); err != nil {
		return decision{}, err
	}
	if err != nil || seq == 0 {
		return d, err
	}
	select {
	case err := <-done:
		return d, err
	case <-n.stopped:
		return d, ErrOutcomeUnknown
	case <-ctx.Done():
		// The entry may still come; stop proposing it again.
		n.inbox.addCall(func(c *core) { delete(c.changes, seq) })
		return d, fmt.Errorf("%w: the change was proposed but not committed in time; look at the members", ErrOutcomeUnknown)
	}
}

// changeHere carries a request out on the leader, which this node should be. Another
// member may have asked, so what it wants is checked here as well.
func (n *Node) changeHere(ctx context.Context, req changeRequest) (a changeAnswer, err error) {
	add := req.Op == "add"
	switch req.Op {
	case "add":
		if req.Member, err = req.Member.Checked(); err != nil {
			return a, err
		}
	case "remove", "promote", "transfer":
	default:
		return a, fmt.Errorf("%w: no operation %q", ErrBadMember, req.Op)
	}
	d, err := n.decide(ctx, req)
	// A node that joins takes a refusal as final, and several nodes may join at once,
	// or one while the last one is being promoted.
	for add && (errors.Is(err, errBusy) || errors.Is(err, errChanged)) {
		if end := n.pause(ctx); end != nil {
			return a, fmt.Errorf("%w (%v)", end, err)
		}
		d, err = n.decide(ctx, req)
	}
	if add {
		d.member.Learner = d.member.Learner || d.op == opAdd
		return changeAnswer{Member: d.member, Created: d.op == opAdd}, err
	}
	if err != nil || d.to == 0 {
		return a, err
	}
	if err := n.transfer(ctx, d.to); err != nil || req.Op != "remove" {
		return a, err
	}
	leader, ok := n.status.Load().Member(d.to)
	if !ok {
		return a, errNotLeader
	}
	for {
		_, err := n.askLeader(ctx, leader.PeerURL, req)
		if errors.Is(err, ErrUnavailable) {
			if err = n.pause(ctx); err == nil {
				continue
			}
		}
		return a, err
	}
}

// transfer asks raft to move leadership and waits until it has moved.
func (n *Node) transfer(ctx context.Context, to ID) error {
	ticker := time.NewTicker(n.cfg.Tick)
	defer ticker.Stop()
	for asked := 0; ; asked++ {
		if asked%20 == 0 { // raft gives a transfer up after an election timeout
			if err := n.call(ctx, func(c *core) { c.transfer(to) }); err != nil {
				return err
			}
		}
		if n.status.Load().Leader == to {
			return nil
		}
		select {
		case <-ticker.C:
		case <-n.stopped:
			return ErrStopped
		case <-ctx.Done():
			return fmt.Errorf("%w: leadership did not move in time", ErrUnavailable)
		}
	}
}
