package raftnode

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// introduction is what a node tells others about itself before and after it
// belongs to a cluster.
type introduction struct {
	Name      string   `json:"name"`
	ID        ID       `json:"id"`
	ClientURL string   `json:"client_url"`
	ClusterID ID       `json:"cluster_id,omitempty"`
	Initial   []Peer   `json:"initial,omitempty"`  // the list it would form a cluster of
	Founders  []Member `json:"founders,omitempty"` // if it helped to form its cluster
	Members   []Member `json:"members,omitempty"`  // whom it knows now
	Gone      bool     `json:"gone,omitempty"`     // it has stored that the member named by ?gone= was removed
}

// settle makes sure that the node belongs to a cluster.
func (n *Node) settle(ctx context.Context) error {
	if n.self.ClusterID != 0 {
		return nil
	}
	if n.cfg.ForceNewCluster {
		return fmt.Errorf("%w: --force-new-cluster needs a data directory that belongs to a cluster; %s is new", ErrRefused, n.cfg.Dir)
	}
	if n.cfg.Join != nil {
		return n.join(ctx)
	}
	return n.form(ctx)
}

// adopt stores the cluster the node belongs to from now on.
func (n *Node) adopt(cluster ID, founders, peers []Member) error {
	n.self.ClusterID, n.self.Founders, n.self.Peers = cluster, founders, peers
	if err := n.self.save(n.cfg.Dir); err != nil {
		return err
	}
	id := n.self
	n.identity.Store(&id)
	return nil
}

// join asks a running cluster to add this node, and a member for the
// cluster's ID.
func (n *Node) join(ctx context.Context) error {
	self := Member{ID: n.self.ID, Name: n.self.Name, PeerURL: n.cfg.PeerURL, ClientURL: n.cfg.ClientURL}
	members, err := n.cfg.Join(ctx, self)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		for _, m := range members {
			a, err := introductionOf(ctx, client, m.PeerURL, "")
			if err != nil || a.ClusterID == 0 || a.ID != m.ID || a.ID == n.self.ID {
				continue // not there, or a stranger at that address
			}
			n.logger.Info("joined a cluster", "cluster", a.ClusterID.String(), "id", n.self.ID.String())
			return n.adopt(a.ClusterID, nil, members)
		}
		if i == 0 {
			n.logger.Warn("no member answers at its peer_url; this node needs to reach them there", "members", len(members))
		}
		if err := n.pause(ctx); err != nil {
			return err
		}
	}
}

// form agrees with the other founders on a new cluster. A cluster comes to be
// only when every founder has told its ID and the same list: a node whose
// data was lost has a new ID, so it can never be taken for its old self and
// vote twice. Nodes wait for one another as long as it takes.
func (n *Node) form(ctx context.Context) error {
	wait := time.NewTicker(250 * time.Millisecond)
	defer wait.Stop()
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	var told string
	for {
		answers, missing := n.ask(ctx, client)
		founders, cluster, err := n.consider(answers, len(missing) == 0)
		if err != nil {
			return err
		}
		if founders != nil {
			n.logger.Info("formed a cluster", "cluster", cluster.String(), "members", len(founders))
			return n.adopt(cluster, founders, nil)
		}
		if now := strings.Join(missing, ", "); now != told {
			told = now
			n.logger.Info("waiting for the other members of the initial cluster", "missing", now)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// ask collects the introductions of the other founders.
func (n *Node) ask(ctx context.Context, client *http.Client) (answers []introduction, missing []string) {
	for _, p := range n.cfg.InitialCluster {
		if p.Name == n.cfg.Name {
			continue
		}
		a, err := introductionOf(ctx, client, p.URL, "")
		switch {
		case err != nil:
			missing = append(missing, p.Name)
		case a.Name != p.Name:
			missing = append(missing, fmt.Sprintf("%s (%s is %s)", p.Name, p.URL, a.Name))
		default:
			answers = append(answers, a)
		}
	}
	return answers, missing
}

func introductionOf(ctx context.Context, client *http.Client, url, query string) (introduction, error) {
	var a introduction
	if query != "" {
		query = "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+identityPathHTTP+query, nil)
	if err != nil {
		return a, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return a, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&a)
}

// consider decides what the answers mean: the founders of this node's
// cluster, nothing yet, or that it must not take part.
func (n *Node) consider(answers []introduction, complete bool) ([]Member, ID, error) {
	for _, a := range answers {
		if a.ClusterID == 0 {
			continue
		}
		for _, m := range slices.Concat(a.Founders, a.Members) {
			if m.Name == n.self.Name && m.ID != n.self.ID {
				return nil, 0, fmt.Errorf("%w: %s already knows %s under the id %v, but the data directory %s is new (id %v). It will not vote under that name again. Replace it: "+
					"curl -XDELETE %s/members/%s; then start it with this empty directory and --join %s", ErrLostData, a.Name, n.self.Name, m.ID, n.cfg.Dir, n.self.ID, a.ClientURL, n.self.Name, a.ClientURL)
			}
		}
		for _, m := range a.Founders {
			if m.ID == n.self.ID {
				return a.Founders, a.ClusterID, nil
			}
		}
		return nil, 0, fmt.Errorf("%w: %s belongs to a cluster that was formed without %s; start this node with --join %s", ErrRefused, a.Name, n.self.Name, a.ClientURL)
	}
	if !complete {
		return nil, 0, nil
	}
	founders := []Member{{ID: n.self.ID, Name: n.self.Name, PeerURL: n.cfg.PeerURL, ClientURL: n.cfg.ClientURL}}
	mine := sortedPeers(n.cfg.InitialCluster)
	for _, a := range answers {
		if theirs := sortedPeers(a.Initial); !slices.Equal(mine, theirs) {
			return nil, 0, fmt.Errorf("%w: %s was started with --initial-cluster %s, this node with %s; all must be the same", ErrRefused, a.Name, peersText(theirs), peersText(mine))
		}
		at := slices.IndexFunc(mine, func(p Peer) bool { return p.Name == a.Name })
		founders = append(founders, Member{ID: a.ID, Name: a.Name, PeerURL: mine[at].URL, ClientURL: a.ClientURL})
	}
	slices.SortFunc(founders, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return founders, clusterID(founders), nil
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

// clusterID derives a cluster's ID from its founders: nobody has to hand it
// out, and a founder with a new ID makes another cluster.
func clusterID(founders []Member) ID {
	h := sha256.New()
	for _, m := range founders {
		fmt.Fprintf(h, "%s %v %s\n", m.Name, m.ID, m.PeerURL)
	}
	return ID(binary.BigEndian.Uint64(h.Sum(nil)) | 1) // never zero
}
