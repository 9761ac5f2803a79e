package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

// recorder is a log that records proposals and answers nothing.
type recorder struct {
	bodies   *bodies.Store
	commands [][]byte
}

var errRecorded = errors.New("recorded")

func (r *recorder) Propose(_ context.Context, command []byte) (any, error) {
	r.commands = append(r.commands, bytes.Clone(command))
	return nil, errRecorded
}

func (r *recorder) ProposeMany(_ context.Context, commands [][]byte, each func(int, any, error)) {
	for i, command := range commands {
		r.commands = append(r.commands, bytes.Clone(command))
		each(i, nil, errRecorded)
	}
}

func (r *recorder) Distribute(ctx context.Context, list []bodies.Body) error {
	for _, b := range list {
		if _, err := r.bodies.Append(b.Digest, b.Data); err != nil {
			return err
		}
	}
	return r.bodies.Sync(ctx)
}

func (r *recorder) ReadIndex(context.Context) error { return nil }

// lie gives a stopped node a consistent history with one value that nobody put, like one left
// by a bit flip in memory.
func lie(t *testing.T, n *clustertest.Process) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := kvstore.OpenStoreDir(n.Dir, kvstore.StoreConfig{})
	must(err)
	index, term, meta, _, err := store.Durable()
	must(err)
	found, err := store.Changes(kvstore.ChangesRequest{Limit: 1000, LimitBytes: 1 << 20, Values: true})
	must(err)
	must(store.Close())
	if len(found.Records) == 0 || found.Scanned < found.Newest {
		t.Fatalf("%d records, to revision %d of %d", len(found.Records), found.Scanned, found.Newest)
	}

	dir := t.TempDir()
	other, err := kvstore.OpenStoreDir(dir, kvstore.StoreConfig{})
	must(err)
	log := &recorder{bodies: other.Bodies()}
	db := kvstore.NewDB(other, log, kvstore.DBConfig{})
	for i, c := range found.Records {
		if i == len(found.Records)/2 {
			c.Value = append(bytes.Clone(c.Value), '!')
		}
		_, err := db.Put(t.Context(), kvstore.PutRequest{Key: c.Key, PutID: c.PutID, Body: bytes.NewReader(c.Value), Size: int64(len(c.Value))})
		if !errors.Is(err, errRecorded) {
			t.Fatalf("put %s: %v", c.Key, err)
		}
	}
	_, err = other.Apply(index, term, log.commands, meta)
	must(err)
	must(other.Commit())
	must(other.Close())
	must(errors.Join(os.RemoveAll(filepath.Join(n.Dir, "values")), os.RemoveAll(filepath.Join(n.Dir, "index"))))
	for _, name := range []string{"history.db", "values"} {
		must(os.Rename(filepath.Join(dir, name), filepath.Join(n.Dir, name)))
	}
}

// putKeys sets keys of size bytes through a node.
func putKeys(t *testing.T, via *clustertest.Process, name string, count, size int) {
	t.Helper()
	cl := clustertest.Client(t, via.URL())
	for i := range count {
		key := fmt.Sprintf("%s/%d", name, i)
		if _, err := cl.PutBytes(clustertest.WithTimeout(t), key, pattern(key, size), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// others returns all nodes but one.
func others(p *clustertest.Processes, but *clustertest.Process) (rest []*clustertest.Process) {
	for _, d := range p.DBs {
		if d != but {
			rest = append(rest, d)
		}
	}
	return rest
}

// stopsByName waits until a node ends by itself because its history is the odd one.
func stopsByName(t *testing.T, n *clustertest.Process) {
	t.Helper()
	if code := n.Wait(); code == 0 {
		t.Errorf("%s ended with exit code 0", n.Name)
	}
	if log := n.Log(); !strings.Contains(log, "this node's history differs from that of most voters: "+n.Name) || !strings.Contains(log, "Replace "+n.Name+":") {
		t.Errorf("%s ended, and its log says:\n%s", n.Name, log)
	}
}

// A replica whose memory has lied is alone against two. It stops, whether it is up to date or
// so far behind that it has to pull, and again after a start. The others go on.
func TestDiverged_Alone_Stops(t *testing.T) {
	p := clustertest.NewProcesses(t, bin, 3, 0, "--snapshot-log-bytes", "1MiB")
	p.StartAll()
	leader := p.Leader()
	putKeys(t, leader, "first", 20, 100)
	clustertest.SameHistory(t, p.DBs...)
	odd := others(p, leader)[0]
	odd.Terminate()
	lie(t, odd)

	odd.Start()
	stopsByName(t, odd)
	putKeys(t, leader, "without", 45, 1<<20) // more than is kept in memory for it
	odd.Start()
	stopsByName(t, odd)
	if log := odd.Log(); !strings.Contains(log, "pulling the data of a snapshot") {
		t.Errorf("it did not have to pull:\n%s", log)
	}
	putKeys(t, leader, "last", 1, 10)
	clustertest.SameHistory(t, others(p, odd)...)
}

// One against one: nobody can tell which is wrong. Both say so and go on.
func TestDiverged_TwoNodes_BothSaySo(t *testing.T) {
	p := clustertest.NewProcesses(t, bin, 2, 0)
	p.StartAll()
	putKeys(t, p.DBs[0], "first", 20, 100)
	clustertest.SameHistory(t, p.DBs...)
	p.DBs[1].Terminate()
	lie(t, p.DBs[1])
	p.DBs[1].Start()
	for _, d := range p.DBs {
		says(t, d, "it is not known which of them are wrong")
	}
	p.WaitReady()
	putKeys(t, p.DBs[1], "last", 1, 10)
}

// The wrong node leads, and the only other node that is up to date cannot outvote it. The
// third, which is behind, pulls nothing wrong; its data is enough to tell which node must
// stop.
func TestDiverged_Leader_Stops(t *testing.T) {
	p := clustertest.NewProcesses(t, bin, 3, 0, "--snapshot-log-bytes", "1MiB")
	p.StartAll()
	putKeys(t, p.DBs[0], "first", 20, 100)
	clustertest.SameHistory(t, p.DBs...)
	odd, right, away := p.DBs[0], p.DBs[1], p.DBs[2]
	away.Terminate()
	odd.Terminate()
	lie(t, odd)
	odd.Start()
	says(t, right, "it is not known which of them are wrong")
	odd.WaitReady()
	if err := clustertest.Client(t, right.URL()).TransferLeader(clustertest.WithTimeout(t), odd.Name); err != nil {
		t.Fatal(err)
	}
	putKeys(t, odd, "without", 45, 1<<20)
	away.Start()
	stopsByName(t, odd)
	clustertest.SameHistory(t, right, away)
	putKeys(t, away, "last", 1, 10)
}
