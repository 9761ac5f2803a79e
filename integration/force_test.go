package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// inEnvironment is a setting for one start that stays in a unit or a compose file.
var inEnvironment = []string{"ONCEKV_FORCE_NEW_CLUSTER=true", "ONCEKV_YES=true"}

// acknowledged puts once at a node, and reports whether the put was acknowledged.
func acknowledged(n *clustertest.Process, key, value string) bool {
	req, err := http.NewRequest(http.MethodPut, n.URL()+"/key/"+key, strings.NewReader(value))
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated
}

// threeKilled returns a cluster of three that is down, and what it had acknowledged.
func threeKilled(t *testing.T, prefix string) (*clustertest.Processes, map[string]string) {
	t.Helper()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	w := startWriter(t, prefix, 2, clustertest.URLs(p.DBs...)...)
	w.waitFor(20)
	acked := w.stop()
	clustertest.SameHistory(t, p.DBs...)
	for _, d := range p.DBs {
		d.Kill9()
	}
	return p, acked
}

// replaced returns a member that starts over under the same name, at the same addresses.
func replaced(t *testing.T, p *clustertest.Processes, old, via *clustertest.Process) *clustertest.Process {
	t.Helper()
	if err := os.RemoveAll(old.Dir); err != nil {
		t.Fatal(err)
	}
	n := p.Joiner(old.Name, via)
	line := strings.NewReplacer(n.Addr, old.Addr, n.Peer, old.Peer)
	n.Addr, n.Peer = old.Addr, old.Peer
	for i := range n.Args {
		n.Args[i] = line.Replace(n.Args[i])
	}
	n.Start()
	becomesVoter(t, n.Name, via.URL())
	n.WaitReady()
	return n
}

// endsUnserved waits until nodes have ended, and meanwhile asks each to set a key. None may
// acknowledge it.
func endsUnserved(t *testing.T, key, value string, nodes ...*clustertest.Process) {
	t.Helper()
	clustertest.Eventually(t, "the nodes of the cluster that ended have stopped", func() error {
		for _, n := range nodes {
			if n.Running() && acknowledged(n, key, value) {
				t.Fatalf("%s acknowledged %s=%s; its log:\n%s", n.Name, key, value, n.Log())
			}
		}
		for _, n := range nodes {
			if n.Running() {
				return fmt.Errorf("%s runs", n.Name)
			}
		}
		return nil
	})
	for _, n := range nodes {
		if code := n.Wait(); code != 1 || !strings.Contains(n.Log(), `"n1" forced a new cluster`) && !strings.Contains(n.Log(), `n1\" forced a new cluster`) || !strings.Contains(n.Log(), "--join") {
			t.Errorf("%s ended with code %d and said:\n%s", n.Name, code, n.Log())
		}
	}
}

// refusesToForce starts a node that must refuse to force a new cluster, and say why, with the
// exit code after which units do not start it again.
func refusesToForce(t *testing.T, n *clustertest.Process, says ...string) {
	t.Helper()
	n.Start()
	code := n.Wait()
	if code != 2 {
		t.Errorf("%s ended with code %d", n.Name, code)
	}
	for _, s := range append(says, "--force-new-cluster") {
		if !strings.Contains(n.Log(), s) {
			t.Errorf("%s does not say %q:\n%s", n.Name, s, n.Log())
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%s", strings.TrimSpace(n.Log()))
}

// A setting for one start stays in the environment, as in a unit or a compose file. It must
// not force a new cluster again after the first has grown.
func TestForce_KeptInTheEnvironment(t *testing.T) {
	p, acked := threeKilled(t, "kept")
	n1 := p.DBs[0]
	n1.Env = inEnvironment
	n1.Start()
	n1.WaitReady()
	n2, n3 := replaced(t, p, p.DBs[1], n1), replaced(t, p, p.DBs[2], n1)
	n1.Kill9()
	n1.Start()
	one := false
	clustertest.Eventually(t, "n1 has ended, or acknowledges", func() error {
		if one = n1.Running() && acknowledged(n1, "k", "A"); n1.Running() && !one {
			return fmt.Errorf("neither")
		}
		return nil
	})
	clustertest.Eventually(t, "n2 and n3 go on", func() error {
		if !acknowledged(n2, "k", "B") && !acknowledged(n3, "k", "B") {
			return fmt.Errorf("they do not acknowledge")
		}
		return nil
	})
	if one {
		t.Fatalf("n1 has acknowledged k=A, and n2 and n3 k=B")
	}
	if code := n1.Wait(); code != 2 || !strings.Contains(n1.Log(), "done already") || !strings.Contains(n1.Log(), "ONCEKV_FORCE_NEW_CLUSTER") {
		t.Fatalf("n1 ended with code %d and said:\n%s", code, n1.Log())
	}
	t.Logf("%s", strings.TrimSpace(n1.Log()))
	// The message's advice works.
	n1.Env = nil
	n1.Start()
	n1.WaitReady()
	mustHave(t, acked, n1, n2, n3)
	clustertest.SameHistory(t, n1, n2, n3)

	// A majority is lost once more. The old word is refused on every copy of the data, and a
	// new word works once.
	for _, n := range []*clustertest.Process{n1, n2, n3} {
		n.Kill9()
	}
	n2.Env = inEnvironment
	refusesToForce(t, n2, "done already", "AGAIN-2")
	n2.Env = []string{"ONCEKV_FORCE_NEW_CLUSTER=AGAIN-2", "ONCEKV_YES=true"}
	n2.Start()
	n2.WaitReady()
	mustHave(t, acked, n2)
	n2.Kill9()
	refusesToForce(t, n2, "done already", "AGAIN-3")
}

// The members left behind are a majority of the old cluster and have all its data. They must
// not serve it beside the new cluster, nor when they come back while the new one is away.
func TestForce_OldMembersComeBack(t *testing.T) {
	p, acked := threeKilled(t, "back")
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(n1.Dir)); err != nil {
		t.Fatal(err)
	}
	usual := n1.Args
	n1.Args = append(n1.Args[:len(n1.Args):len(n1.Args)], "--force-new-cluster", "--yes")
	n1.Start()
	n1.WaitReady()
	if !acknowledged(n1, "k", "A") {
		t.Fatal("the new cluster does not serve")
	}
	n2.Start()
	n3.Start()
	endsUnserved(t, "k", "B", n2, n3)
	t.Logf("%s", strings.TrimSpace(n2.Log()))

	n1.Kill9()
	n2.Start()
	n3.Start()
	endsUnserved(t, "k", "B", n2, n3)

	n1.Args = usual
	n1.Start()
	n1.WaitReady()
	n2, n3 = replaced(t, p, n2, n1), replaced(t, p, n3, n1)
	acked["k"] = "A"
	mustHave(t, acked, n1, n2, n3)

	// A copy of the survivor's own data from before is refused as well.
	n1.Kill9()
	if err := os.RemoveAll(n1.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(n1.Dir, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
	n1.Start()
	endsUnserved(t, "k", "B", n1)
	clustertest.SameHistory(t, n2, n3)
}

// The old members may have been cut off rather than down.
func TestForce_OldMembersWereAway(t *testing.T) {
	p, _ := threeKilled(t, "away")
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	n2.Start()
	n3.Start()
	n2.WaitReady()
	n3.WaitReady()
	n2.Signal(syscall.SIGSTOP)
	n3.Signal(syscall.SIGSTOP)
	n1.Args = append(n1.Args, "--force-new-cluster", "--yes")
	n1.Start()
	n1.WaitReady()
	if !acknowledged(n1, "k", "A") {
		t.Fatal("the new cluster does not serve")
	}
	n2.Signal(syscall.SIGCONT)
	n3.Signal(syscall.SIGCONT)
	for _, n := range []*clustertest.Process{n2, n3} {
		if code := n.Wait(); code != 1 || !strings.Contains(n.Log(), "forced a new cluster") {
			t.Errorf("%s ended with code %d and said:\n%s", n.Name, code, n.Log())
		}
	}
}

// If another voter answers, the cluster is not lost: a majority may exist, or may yet continue
// as the old cluster.
func TestForce_WhileVotersAnswer(t *testing.T) {
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	learner := p.Joiner("n4", n1, "--learner")
	learner.Start()
	learner.WaitReady()
	usual := n1.Args
	n1.Kill9()
	n1.Args = append(n1.Args[:len(n1.Args):len(n1.Args)], "--force-new-cluster", "--yes")
	refusesToForce(t, n1, "the voter n2 answers at http://"+n2.Peer, "the voter n3 answers", "members remove")
	n1.Args = usual // nothing was changed
	n1.Start()
	n1.WaitReady()
	clustertest.SameHistory(t, n1, n2, n3, learner)

	n1.Kill9()
	n3.Kill9()
	n1.Args = append(n1.Args, "--force-new-cluster", "--yes")
	refusesToForce(t, n1, "the voter n2 answers")
	n2.Kill9()
	n1.Start()
	n1.WaitReady()
	if code := learner.Wait(); code != 1 || !strings.Contains(learner.Log(), "forced a new cluster") {
		t.Errorf("the learner ended with code %d and said:\n%s", code, learner.Log())
	}
}
