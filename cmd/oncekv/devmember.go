package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server"
)

// How often a keeper looks at its member, and how long a request about it may take.
const (
	devLookEvery  = time.Second
	devAskTimeout = 10 * time.Second
)

// devMember is a database node of the local cluster. If the cluster has removed it, or its
// directory is gone, its keeper starts it again as a new member, as soon as the others can do
// without its data.
type devMember struct {
	name   string
	config server.DatabaseConfig
	url    string // for clients
	peers  string // for the other database nodes

	mu        sync.Mutex
	db        *server.Database // from the last start; nil: that failed
	reason    string           // why it failed, or what it waits for; "": no problem
	rejoining bool             // no longer a member, and waiting to become one
}

// running returns the node, nil if it does not run.
func (m *devMember) running() *server.Database {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.db == nil {
		return nil
	}
	select {
	case <-m.db.Done():
		return nil
	default:
		return m.db
	}
}

func (m *devMember) trouble() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reason
}

// note remembers the problem, "" for none, and reports whether it is new.
func (m *devMember) note(reason string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := m.reason != reason
	m.reason = reason
	return changed
}

// setRejoining remembers whether the node's directory has become useless.
func (m *devMember) setRejoining(rejoining bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rejoining = rejoining
}

// start starts the node: as a founder, or with the client URLs of nodes to join.
func (m *devMember) start(ctx context.Context, join []string) error {
	cfg := m.config
	if len(join) > 0 {
		cfg.InitialCluster, cfg.Join = nil, join
	}
	db, err := server.StartDatabase(ctx, cfg)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.db = db
	return nil
}

// stop stops the node if it runs.
func (m *devMember) stop() {
	db := m.running()
	if db == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = db.Close(ctx) // its data has become useless
}

// lost reports whether the node's directory was deleted or emptied.
func (m *devMember) lost() bool { return !raftnode.HasIdentity(m.config.DataDir) }

// empty reports whether the node has no data of its cluster: its directory is lost, or is a
// new one that a start made in its place.
func (m *devMember) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rejoining || m.lost()
}

// errDirLost is why a running member has to start over.
var errDirLost = errors.New("its data directory was deleted")

// keep looks after a member until ctx ends.
func (s *devSystem) keep(ctx context.Context, m *devMember) {
	for ctx.Err() == nil {
		err := m.untilStopped(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case beginsAnew(err):
			s.rejoin(ctx, m, err)
		default:
			s.giveUp(m, err)
			m.untilLost(ctx)
			s.rejoin(ctx, m, errDirLost)
		}
	}
}

// beginsAnew reports whether a node that stopped with err is no longer a member of its cluster
// and can join again. If its cluster has ended, it may hold data that only its majority had
// acknowledged: a person must decide.
func beginsAnew(err error) bool {
	return errors.Is(err, server.ErrRemoved) || errors.Is(err, server.ErrLostData) || errors.Is(err, server.ErrRefused) || errors.Is(err, errDirLost)
}

// untilStopped waits until the node has stopped or its directory is gone, and returns why.
func (m *devMember) untilStopped(ctx context.Context) error {
	m.mu.Lock()
	db, reason := m.db, m.reason
	m.mu.Unlock()
	if db == nil {
		return errors.New(reason)
	}
	tick := time.NewTicker(devLookEvery)
	defer tick.Stop()
	for {
		select {
		case <-db.Done():
			return db.Err()
		case <-tick.C:
			if m.lost() {
				return errDirLost
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// untilLost waits until somebody has deleted the node's directory.
func (m *devMember) untilLost(ctx context.Context) {
	tick := time.NewTicker(devLookEvery)
	defer tick.Stop()
	for !m.lost() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// giveUp says that a member stays down, why, and what to do.
func (s *devSystem) giveUp(m *devMember, err error) {
	m.note(err.Error())
	s.say("Database node %s is not running: %s.\nThe others continue. To replace it, delete %s: it then joins again by itself and copies what the others have.\nTo start over without data, stop this and run: %s",
		m.name, trimmed(err), m.config.DataDir, s.resetLine())
	s.endIfNoneRuns(fmt.Errorf("%s: %w", m.name, err))
}

// trimmed returns an error's text without its full stop.
func trimmed(err error) string { return strings.TrimRight(err.Error(), ".") }

// rejoin makes a former member one again, with an empty directory. It tries until it works or
// ctx ends.
func (s *devSystem) rejoin(ctx context.Context, m *devMember, why error) {
	m.setRejoining(true)
	tick := time.NewTicker(devLookEvery)
	defer tick.Stop()
	for {
		err := s.rejoinNow(ctx, m, why)
		if err == nil || ctx.Err() != nil {
			return
		}
		if m.note(err.Error()) {
			s.say("Database node %s: %s, and it cannot join again yet: %s.", m.name, inShort(why), trimmed(err))
			s.endIfNoneRuns(fmt.Errorf("%s: %w", m.name, err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// rejoinNow removes the old member from the cluster, empties its directory, and starts it to
// join, but only once the others certainly have everything that was ever acknowledged. Only
// one member at a time may rejoin: the next one relies on this one's data.
func (s *devSystem) rejoinNow(ctx context.Context, m *devMember, why error) error {
	s.healing.Lock()
	defer s.healing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, devAskTimeout)
	defer cancel()
	others, err := s.others(ctx, m)
	if err != nil {
		return err
	}
	if others.listed != nil {
		if err := others.client.RemoveMember(ctx, m.name, false); err != nil && !errors.Is(err, api.ErrNotFound) {
			return fmt.Errorf("its old entry in the cluster has to be removed first: %w", err)
		}
	}
	m.stop()
	if err := server.EmptyDataDir(m.config.DataDir); err != nil {
		return err
	}
	if err := m.start(ctx, others.urls); err != nil {
		return err
	}
	m.setRejoining(false)
	m.note("")
	s.say("Database node %s: %s. It joins again as a new member with an empty directory and copies what the others have.", m.name, inShort(why))
	return nil
}

func inShort(why error) string {
	switch {
	case errors.Is(why, server.ErrRemoved):
		return "it was removed from the cluster"
	case errors.Is(why, server.ErrLostData), errors.Is(why, errDirLost):
		return "its data directory was deleted or emptied"
	}
	return "it was not a member of the cluster"
}

// otherMembers are the members except one.
type otherMembers struct {
	client *client.Client
	urls   []string    // for clients, of members that hold everything
	listed *api.Member // the excluded member as the cluster knows it; nil: it does not
}

// others returns the other members if a majority of the voters answers, with everything that
// was acknowledged and its directory in place. Otherwise the error says what is missing.
func (s *devSystem) others(ctx context.Context, m *devMember) (*otherMembers, error) {
	members, err := s.membersWithout(ctx, m)
	if err != nil {
		return nil, err
	}
	o := &otherMembers{}
	var voters, without []string
	for _, x := range members {
		switch {
		case x.Name == m.name && x.PeerURL != m.peers:
			return nil, fmt.Errorf("another node, at %s, is a member under its name; remove that node first: oncekv members remove %s", x.PeerURL, x.Name)
		case x.Name == m.name:
			o.listed = &x
		case x.Role != api.RoleLearner:
			voters = append(voters, x.Name)
			if why := s.missing(ctx, x); why != "" {
				without = append(without, x.Name+" "+why)
			} else {
				o.urls = append(o.urls, x.ClientURL)
			}
		}
	}
	if len(voters) == 0 { // the node has not found its cluster yet
		return nil, fmt.Errorf("the others do not know who the members are; %s", s.wayOut(ctx))
	}
	if len(o.urls) < len(voters)/2+1 {
		return nil, fmt.Errorf("a majority of the others must hold everything first, but %s; %s", strings.Join(without, ", "), s.wayOut(ctx))
	}
	o.client, err = client.New(client.Config{Endpoints: o.urls, RetryTimeout: devAskTimeout})
	return o, err
}

// membersWithout asks the other nodes for the members.
func (s *devSystem) membersWithout(ctx context.Context, m *devMember) ([]api.Member, error) {
	var urls []string
	for _, other := range s.members {
		if other != m && other.running() != nil {
			urls = append(urls, other.url)
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("no other database node is running; %s", s.wayOut(ctx))
	}
	cl, err := client.New(client.Config{Endpoints: urls, RetryTimeout: devLookEvery})
	if err != nil {
		return nil, err
	}
	list, err := cl.Members(ctx)
	if err != nil {
		return nil, fmt.Errorf("the others did not list the members: %w", err)
	}
	return list.Members, nil
}

// missing returns why a member does not count as holding everything, "" if it does: it
// answers, has caught up with its leader, and has its directory.
func (s *devSystem) missing(ctx context.Context, x api.Member) string {
	at := slices.IndexFunc(s.members, func(m *devMember) bool { return m.name == x.Name })
	if at >= 0 && s.members[at].empty() {
		return "has lost its data directory"
	}
	if at >= 0 && s.members[at].running() == nil {
		return "is not running"
	}
	if why := notReady(ctx, s.asks, x.ClientURL); why != "" {
		return "is not ready"
	}
	return ""
}

// wayOut returns what to do if the remaining members cannot help themselves.
func (s *devSystem) wayOut(ctx context.Context) string {
	m, sure := s.survivor(ctx)
	switch {
	case !sure:
		return "it is not known yet what data is left"
	case m == nil:
		return "start over without data: " + s.resetLine()
	}
	return fmt.Sprintf("if they never will, %s still has its data: stop this, run `oncekv serve --name %s --data-dir %s --listen %s --peer-listen %s --force-new-cluster` until it leads, stop it, and start this again; or start over without data: %s",
		m.name, m.name, m.config.DataDir, m.config.Listen, m.config.PeerListen, s.resetLine())
}

// survivor returns the member with the most of the cluster's data: the running member with the
// highest revision, else one that does not run and has a directory, else nil. It is not sure
// while a running node may belong to the cluster but does not say so.
func (s *devSystem) survivor(ctx context.Context) (best *devMember, sure bool) {
	var most uint64
	var stopped *devMember
	sure = true
	for _, m := range s.members {
		if m.empty() {
			continue
		}
		if m.running() == nil {
			if stopped == nil {
				stopped = m
			}
			continue
		}
		revision, ok := m.revision(ctx)
		if !ok {
			sure = false
		} else if best == nil || revision > most {
			best, most = m, revision
		}
	}
	if best != nil {
		return best, true
	}
	return stopped, sure
}

// revision asks the node how far it has its cluster's history; false if it belongs to no
// cluster yet, or does not answer.
func (m *devMember) revision(ctx context.Context) (uint64, bool) {
	cl, err := client.New(client.Config{Endpoints: []string{m.url}, RetryTimeout: devLookEvery})
	if err != nil {
		return 0, false
	}
	list, err := cl.Members(ctx)
	if err != nil {
		return 0, false
	}
	at := slices.IndexFunc(list.Members, func(x api.Member) bool { return x.Name == m.name })
	if at < 0 {
		return 0, false
	}
	return list.Members[at].Revision, true
}
