package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

func role(cl *client.Client, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	ms, err := cl.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range ms.Members {
		if m.Name == name {
			return m.Role, nil
		}
	}
	return "", nil
}

// becomesVoter waits until the given nodes see name as a voter.
func becomesVoter(t *testing.T, name string, urls ...string) {
	t.Helper()
	cl := clustertest.Client(t, urls...)
	clustertest.Eventually(t, name+" votes", func() error {
		r, err := role(cl, name)
		if err == nil && r != api.RoleFollower && r != api.RoleLeader {
			err = fmt.Errorf("its role is %q", r)
		}
		return err
	})
}

func TestMembers_GrowAndShrinkUnderLoad(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 1)
	p.StartAll()
	w := startWriter(t, "grow", 6, clustertest.URLs(p.DBs...)...)
	w.waitFor(200)

	n4 := p.Joiner("n4", p.DBs[0])
	n4.Start()
	becomesVoter(t, "n4", clustertest.URLs(p.DBs...)...)
	n4.WaitReady()
	p.DBs = append(p.DBs, n4)
	w.waitFor(100)

	leader := p.Leader()
	if err := clustertest.Client(t, n4.URL()).RemoveMember(clustertest.WithTimeout(t), leader.Name, false); err != nil {
		t.Fatalf("remove the leader %s: %v", leader.Name, err)
	}
	if code := leader.Wait(); code != 1 || !strings.Contains(leader.Log(), "removed from the cluster") {
		t.Errorf("the removed leader ended with code %d and said:\n%s", code, leader.Log())
	}
	var rest []*clustertest.Process
	for _, d := range p.DBs {
		if d != leader {
			rest = append(rest, d)
		}
	}
	w.waitFor(100)

	// One of three is away: removing another would leave two that cannot agree without the
	// dead one.
	rest[2].Kill9()
	cl := clustertest.Client(t, clustertest.URLs(rest[:2]...)...)
	clustertest.Eventually(t, "the refusal", func() error {
		ms, err := cl.Members(clustertest.WithTimeout(t))
		if err != nil {
			return err
		}
		for _, m := range ms.Members {
			if m.Name == rest[2].Name && m.Healthy {
				return errors.New("it still counts as healthy")
			}
		}
		return nil
	})
	err := cl.RemoveMember(clustertest.WithTimeout(t), rest[1].Name, false)
	if !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "no quorum") {
		t.Errorf("removing a live node with another one dead: %v", err)
	}
	t.Logf("refused: %v", err)
	if err := cl.RemoveMember(clustertest.WithTimeout(t), rest[2].Name, false); err != nil {
		t.Errorf("remove the dead node: %v", err)
	}
	w.waitFor(100)
	acked := w.stop()
	mustHave(t, acked, append(p.Caches, rest[:2]...)...)
	clustertest.SameHistory(t, rest[:2]...)
	t.Logf("%d puts acknowledged on the way", len(acked))
}

// A cluster of one node grows to three while every node is killed in turn. A single voter must
// save before it sends; otherwise a learner keeps what the voter lost.
func TestMembers_OneNodeGrows_KilledAtEveryStep(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	n1 := p.DBs[0]
	p.StartAll()
	n2 := p.Joiner("n2", n1)
	n3 := p.Joiner("n3", n1)
	urls := clustertest.URLs(n1, n2, n3)
	w := startWriter(t, "one", 4, urls...)
	bounce := func(n *clustertest.Process) {
		n.Kill9()
		n.Start()
	}
	w.waitFor(50)
	bounce(n1) // a single voter

	for _, joiner := range []*clustertest.Process{n2, n3} {
		joiner.Start()
		bounce(joiner) // before or while it asks to join
		clustertest.Eventually(t, joiner.Name+" is known", func() error {
			r, err := role(clustertest.Client(t, n1.URL()), joiner.Name)
			if err == nil && r == "" {
				err = errors.New("not a member yet")
			}
			return err
		})
		bounce(joiner) // a learner or a fresh voter
		bounce(n1)     // the leader, while the other one may vote already
		becomesVoter(t, joiner.Name, clustertest.URLs(n1, joiner)...)
		bounce(n1)
		w.waitFor(30)
		bounce(joiner)
		w.waitFor(30)
	}
	acked := w.stop()
	p.DBs = []*clustertest.Process{n1, n2, n3}
	p.WaitReady()
	mustHave(t, acked, p.DBs...)
	clustertest.SameHistory(t, p.DBs...)
	t.Logf("%d puts acknowledged on the way", len(acked))
}

func TestMembers_WipedNode_NeverVotesAgain(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	w := startWriter(t, "wiped", 2, clustertest.URLs(p.DBs[:2]...)...)
	w.waitFor(20)
	lost := p.DBs[2]
	lost.Kill9()
	if err := os.RemoveAll(lost.Dir); err != nil {
		t.Fatal(err)
	}
	lost.Start()
	if code := lost.Wait(); code != 1 || !strings.Contains(lost.Log(), "-XDELETE") || !strings.Contains(lost.Log(), "--join") {
		t.Errorf("the wiped node ended with code %d and said:\n%s", code, lost.Log())
	}
	t.Logf("it said: %s", strings.TrimSpace(lost.Log()))
	// The message's advice works: remove the node, then join with an empty directory.
	if err := clustertest.Client(t, p.DBs[0].URL()).RemoveMember(clustertest.WithTimeout(t), lost.Name, false); err != nil {
		t.Fatal(err)
	}
	again := p.Joiner(lost.Name, p.DBs[0])
	if err := os.RemoveAll(again.Dir); err != nil {
		t.Fatal(err)
	}
	again.Start()
	becomesVoter(t, lost.Name, p.DBs[0].URL())
	mustHave(t, w.stop(), p.DBs[0], again)
}

func TestMembers_ForceNewCluster_AfterLostMajority(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	w := startWriter(t, "force", 2, clustertest.URLs(p.DBs...)...)
	w.waitFor(50)
	acked := w.stop()
	clustertest.SameHistory(t, p.DBs...)
	for _, d := range p.DBs {
		d.Kill9()
	}
	survivor := p.DBs[1]
	survivor.Args = append(survivor.Args, "--force-new-cluster", "--yes")
	survivor.Start()
	survivor.WaitReady()
	mustHave(t, acked, survivor)
	w = startWriter(t, "alone", 2, survivor.URL())
	w.waitFor(20)
	mustHave(t, w.stop(), survivor)
}
