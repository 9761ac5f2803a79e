package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// introduction is what a node tells others about itself before and after it
// belongs to a cluster.
type introduction struct {
	Name      string    `json:"name"`
	ID        ID        `json:"id"`
	ClientURL string    `json:"client_url"`
	ClusterID ID        `json:"cluster_id,omitempty"`
	Birth     birth     `json:"birth,omitzero"`     // as long as it belongs to no cluster
	Initial   []Peer    `json:"initial,omitempty"`  // the list it would form a cluster of
	Founders  []founder `json:"founders,omitempty"` // if it helped to form its cluster
	Members   []Member  `json:"members,omitempty"`  // whom it knows now
	Gone      bool      `json:"gone,omitempty"`     // it has stored that the member named by ?gone= was removed
	// Forced is how its cluster came to be, when that was with --force-new-cluster.
	Forced []Forcing `json:"forced,omitempty"`
	// Level is the highest level that its program knows, StoreLevel that of its store
	// (0 until it takes part).
	Level      uint64 `json:"level"`
	StoreLevel uint64 `json:"store_level,omitempty"`

	err error // why there is none
}

// bootstrap makes sure that the node belongs to a cluster.
func (n *Node) bootstrap(ctx context.Context) error {
	if n.self.ClusterID != 0 {
		return nil
	}
	if n.cfg.ForceNewCluster != "" {
		return notForced("it needs the data of a cluster, and %s is new", n.cfg.Dir)
	}
	if n.cfg.Join != nil {
		return n.join(ctx)
	}
	return n.form(ctx)
}

// adopt stores the cluster the node belongs to from now on.
func (n *Node) adopt(cluster ID, founders []founder, peers []Member) error {
	n.self.ClusterID, n.self.Founders, n.self.Peers = cluster, founders, peers
	return n.keepSelf()
}

// keepSelf makes what has changed of the identity durable, then known.
func (n *Node) keepSelf() error {
	if err := n.saveSelf(n.self); err != nil {
		return err
	}
	id := n.self
	n.identity.Store(&id)
	return nil
}

// join asks a running cluster to add this node, and a member for the
// cluster's ID.
func (n *Node) join(ctx context.Context) error {
	if is := n.self.Birth.Restored; is != (origin{}) {
		return fmt.Errorf("%w: the state in %s was %s, and a node that joins a cluster gets its state from there: empty the directory, or start a new cluster on it, without --join", errMixedUp, n.cfg.Dir, is.says())
	}
	self := Member{ID: n.self.ID, Name: n.self.Name, PeerURL: n.cfg.PeerURL, ClientURL: n.cfg.ClientURL, Level: n.cfg.Level}
	members, err := n.cfg.Join(ctx, self)
	if err != nil {
		return err
	}
	for _, m := range members {
		// Written down, and handed to rafthttp at every start: a member that is
		// listed wrongly would be there for ever.
		if err := m.wellFormed(); err != nil {
			return fmt.Errorf("the members of the cluster to join: %w", err)
		}
	}
	tell := teller{node: n, message: "no member answers at its peer_url; this node needs to reach them there"}
	for {
		var silent []string
		for _, m := range n.others(members) {
			a, err := n.introductionOf(ctx, m.PeerURL, "")
			switch {
			case err != nil:
				silent = append(silent, n.whyMissing(ctx, m.Name, m.PeerURL, err))
			case a.ID != m.ID:
				silent = append(silent, fmt.Sprintf("%s (%s: another node is there)", m.Name, m.PeerURL))
			case a.ClusterID != 0:
				n.logger.Info("joined a cluster", "cluster", a.ClusterID.String(), "id", n.self.ID.String())
				return n.adopt(a.ClusterID, nil, members)
			}
		}
		tell.missing(silent)
		if err := n.pause(ctx); err != nil {
			return err
		}
	}
}

// form agrees with the other founders on a new cluster, and waits for them as long as it
// takes. A cluster forms only when every founder has told its ID and the same list: a node
// whose data was lost has a new ID, so it never votes twice as its old self.
func (n *Node) form(ctx context.Context) error {
	wait := time.NewTicker(250 * time.Millisecond)
	defer wait.Stop()
	tell := teller{node: n, message: "waiting for the other members of the initial cluster"}
	for {
		answers, missing := n.ask(ctx)
		founders, cluster, err := n.consider(answers, len(missing) == 0)
		if err != nil {
			return err
		}
		if founders != nil {
			n.logger.Info("formed a cluster", "cluster", cluster.String(), "members", len(founders))
			return n.adopt(cluster, founders, nil)
		}
		tell.missing(missing)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// ask collects the introductions of the other founders, and why some gave none.
func (n *Node) ask(ctx context.Context) (answers []introduction, missing []string) {
	others := slices.DeleteFunc(slices.Clone(n.cfg.InitialCluster), func(p Peer) bool { return p.Name == n.cfg.Name })
	said := atOnce(others, func(p Peer) introduction {
		a, err := n.introductionOf(ctx, p.URL, "")
		if err != nil {
			a.err = errors.New(n.whyMissing(ctx, p.Name, p.URL, err))
		} else if a.Name != p.Name {
			a.err = fmt.Errorf("%s (%s is %.64q)", p.Name, p.URL, a.Name)
		} else if err := a.check(p.URL); err != nil {
			a.err = fmt.Errorf("%s (%s: %w)", p.Name, p.URL, err)
		}
		return a
	})
	for _, a := range said {
		if a.err != nil {
			missing = append(missing, a.err.Error())
		} else {
			answers = append(answers, a)
		}
	}
	return answers, missing
}

// check verifies what of an introduction is written down.
func (a *introduction) check(peerURL string) error {
	m, err := Member{ID: a.ID, Name: a.Name, PeerURL: peerURL, ClientURL: a.ClientURL}.Checked()
	a.ClientURL = m.ClientURL
	for _, m := range a.Members {
		err = cmp.Or(err, m.wellFormed())
	}
	if a.ClusterID == 0 {
		return cmp.Or(err, a.Birth.check())
	}
	err = cmp.Or(err, checkFounders(a.Founders))
	if err == nil && len(a.Founders) > 0 && historyOf(a.Founders).cluster() != a.ClusterID {
		err = fmt.Errorf("it says that it founded cluster %v, with founders of another one", a.ClusterID)
	}
	return err
}

// whyMissing says in the words of a log line why a member gave no introduction.
func (n *Node) whyMissing(ctx context.Context, name, url string, err error) string {
	reason := nodehttp.Reason(err)
	var status *nodehttp.StatusError
	if errors.As(err, &status) || errors.Is(err, nodehttp.ErrAnswer) {
		if who := nodehttp.Identify(ctx, n.client, url); who.Kind != nodehttp.Nobody && who.Kind != nodehttp.PeerPort {
			reason = "that is " + who.String() + "; give the URL at which --peer-listen of a database node is reached"
		}
	}
	return fmt.Sprintf("%s (%s: %s)", name, url, reason)
}

// teller logs who is missing and why, when that has changed, but not all the
// time.
type teller struct {
	node    *Node
	message string
	told    string
	at      time.Time
}

// tellEvery is the shortest time between two lines.
const tellEvery = 2 * time.Second

func (t *teller) missing(who []string) {
	now := strings.Join(who, ", ")
	if now == t.told || !t.at.IsZero() && time.Since(t.at) < tellEvery {
		return
	}
	t.told, t.at = now, time.Now()
	t.node.logger.Info(t.message, "missing", now)
}

const (
	introductionTime     = 2 * time.Second
	introductionBytesMax = 1 << 20
)

// introductionOf asks what answers at a peer URL who it is.
func (n *Node) introductionOf(ctx context.Context, url, query string) (introduction, error) {
	ctx, cancel := context.WithTimeout(ctx, introductionTime)
	defer cancel()
	if query != "" {
		query = "?" + query
	}
	var a introduction
	err := nodehttp.GetJSON(ctx, n.client, url+nodehttp.IdentityPath+query, introductionBytesMax, &a)
	if err == nil && (a.ID == 0 || nodeurl.CheckName(a.Name) != nil) {
		err = nodehttp.ErrAnswer // it is JSON, such as {}, and no introduction
	}
	return a, err
}

// introductions asks others what is at their peer URLs, all at once. Where there is no
// introduction, the answer has err and nothing else.
func (n *Node) introductions(ctx context.Context, others []Member, query string) []introduction {
	return atOnce(others, func(m Member) introduction {
		a, err := n.introductionOf(ctx, m.PeerURL, query)
		if err != nil {
			return introduction{err: err}
		}
		return a
	})
}

// others returns the members but this node.
func (n *Node) others(members []Member) []Member {
	return slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.ID == n.self.ID })
}

// consider decides what the answers mean: the founders of this node's
// cluster, nothing yet, or that it must not take part.
func (n *Node) consider(answers []introduction, complete bool) ([]founder, ID, error) {
	for _, a := range answers {
		if a.ClusterID == 0 {
			continue
		}
		for _, m := range slices.Concat(membersOf(a.Founders), a.Members) {
			if m.Name == n.self.Name && m.ID != n.self.ID {
				return nil, 0, fmt.Errorf("%w: %s already knows %s under the id %v, but the data directory %s is new (id %v). It will not vote under that name again. Replace it: "+
					"curl -XDELETE %s/members/%s; then start it with this empty directory and --join %s", ErrLostData, a.Name, n.self.Name, m.ID, n.cfg.Dir, n.self.ID, a.ClientURL, n.self.Name, a.ClientURL)
			}
		}
		for _, f := range a.Founders {
			switch {
			case f.ID != n.self.ID:
			case f.Name != n.self.Name || f.Birth != n.self.Birth:
				return nil, 0, fmt.Errorf("%w: %s formed its cluster with a founder %s of the same id as this node that brought something else; empty the data directory %s, and start this node with --join %s", errMixedUp, a.Name, f.Name, n.cfg.Dir, a.ClientURL)
			default:
				return a.Founders, a.ClusterID, nil
			}
		}
		if k := len(a.Forced); k > 0 { // without this node, which may be a founder that never began: its ID is used up
			return nil, 0, fmt.Errorf("%w: %s belongs to a cluster that was forced on %s, without %s; empty the data directory %s, which belongs to no cluster, and start this node with --join %s", ErrRefused, a.Name, a.Forced[k-1].when(), n.self.Name, n.cfg.Dir, a.ClientURL)
		}
		return nil, 0, fmt.Errorf("%w: %s belongs to a cluster that was formed without %s; start this node with --join %s", ErrRefused, a.Name, n.self.Name, a.ClientURL)
	}
	self := Member{ID: n.self.ID, Name: n.self.Name, PeerURL: n.cfg.PeerURL, ClientURL: n.cfg.ClientURL}
	founders := []founder{{self, n.self.Birth}}
	mine := sortedPeers(n.cfg.InitialCluster)
	for _, a := range answers {
		if theirs := sortedPeers(a.Initial); !slices.Equal(mine, theirs) {
			return nil, 0, fmt.Errorf("%w: %s was started with --initial-cluster %s, this node with %s; all must be the same", ErrRefused, a.Name, peersText(theirs), peersText(mine))
		}
		at := slices.IndexFunc(mine, func(p Peer) bool { return p.Name == a.Name })
		founders = append(founders, founder{Member{ID: a.ID, Name: a.Name, PeerURL: mine[at].URL, ClientURL: a.ClientURL}, a.Birth})
	}
	slices.SortFunc(founders, func(a, b founder) int { return strings.Compare(a.Name, b.Name) })
	if err := checkFounders(founders); err != nil || !complete {
		return nil, 0, err
	}
	return founders, historyOf(founders).cluster(), nil
}

func sortedPeers(ps []Peer) []Peer {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return ps
}

func peersText(ps []Peer) string {
	var parts []string
	for _, p := range ps {
		parts = append(parts, p.Name+"="+p.URL)
	}
	return strings.Join(parts, ",")
}

// sources lists the members to ask for what this node lacks, one of them before the
// others.
func (n *Node) sources(members []Member, first ID) []Member {
	sources := n.others(members)
	if i := slices.IndexFunc(sources, func(m Member) bool { return m.ID == first }); i > 0 {
		m := sources[i]
		sources = slices.Insert(slices.Delete(sources, i, i+1), 0, m)
	}
	return sources
}
