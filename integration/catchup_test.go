package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// A member that was away until the log that it needs is gone pulls what it lacks, and resumes
// when either side dies in the middle.
func TestCatchUp_KilledInTheMiddle(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0, "--snapshot-log-bytes", "1MiB")
	p.StartAll()
	leader := p.Leader()
	var away *clustertest.Process
	for _, d := range p.DBs {
		if d != leader {
			away = d
		}
	}
	away.Kill9()
	cl := clustertest.Client(t, leader.URL())
	want := map[string]string{}
	const values, size = 160, 1 << 20
	for i := range values {
		key := fmt.Sprintf("while-away/%d", i)
		value := pattern(key, size+i)
		if _, err := cl.PutBytes(clustertest.WithTimeout(t), key, value, client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			want[key] = string(value)
		}
	}
	clustertest.Eventually(t, "the log that it needs is gone", func() error {
		for _, d := range p.DBs { // either of the others may lead when it comes back
			name := filepath.Base(newest(t, d.Dir, "snap/*.snap"))
			var term, index uint64
			if _, err := fmt.Sscanf(name, "%x-%x.snap", &term, &index); err != nil {
				t.Fatal(name, err)
			}
			if d != away && index < values/2 {
				return fmt.Errorf("the newest snapshot of %s is %s", d.Name, name)
			}
		}
		return nil
	})
	pulls := func() bool { return strings.Contains(away.Log(), "pulling") }
	away.Start()
	clustertest.Eventually(t, "the pull begins", func() error {
		if !pulls() {
			return fmt.Errorf("its log says:\n%s", away.Log())
		}
		return nil
	})
	away.Kill9() // the receiving side
	away.Start()
	leader.Kill9() // the sending side
	leader.Start()
	p.WaitReady()
	mustHave(t, want, away)
	revision, digest := clustertest.SameHistory(t, p.DBs...)
	if revision != values {
		t.Errorf("revision %d, want %d", revision, values)
	}
	t.Logf("revision %d, digest %s on all three", revision, digest)
}
