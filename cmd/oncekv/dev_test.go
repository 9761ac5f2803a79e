package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server"
)

// text is written by one goroutine and read by others.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// localCluster is a running `oncekv dev`.
type localCluster struct {
	t        *testing.T
	offset   int
	dir      string
	out, err *text
	stop     func()
	done     chan struct{} // closed when it has ended and set code
	code     int
}

// devOffsets hands out offsets: no test may take the ports of another whose cluster has
// stopped for a moment.
var devOffsets atomic.Int64

// devOffset finds an offset whose ports are free, and below the kernel's ephemeral ports.
func devOffset(t *testing.T) int {
	t.Helper()
	for range 180 {
		n := 1100 + int(int64(os.Getpid())+devOffsets.Add(1))%180*100
		if len(portsAt(n).taken()) == 0 {
			return n
		}
	}
	t.Fatal("no free ports")
	return 0
}

func startLocal(t *testing.T, dir string, offset int, more ...string) *localCluster {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &localCluster{t: t, offset: offset, dir: dir, out: &text{}, err: &text{}, done: make(chan struct{})}
	args := append([]string{"dev", "--data-dir", dir, "--port-offset", fmt.Sprint(offset)}, more...)
	go func() {
		defer close(c.done)
		c.code = run(ctx, args, strings.NewReader(""), c.out, c.err, func(string) string { return "" })
	}()
	c.stop = func() {
		cancel()
		<-c.done
	}
	t.Cleanup(c.stop)
	return c
}

// eventually waits until holds returns nil, or the local cluster has ended.
func (c *localCluster) eventually(what string, holds func() error) {
	c.t.Helper()
	late := time.After(2 * time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-c.done:
			if err := holds(); err != nil {
				c.t.Fatalf("waited for %s (%v), but it ended with code %d:\n%s\n%s", what, err, c.code, c.out, c.err)
			}
			return
		case <-late:
			c.t.Fatalf("waited for %s: %v\n%s\n%s", what, err, c.out, c.err)
		}
	}
}

// says waits until w contains a text.
func (c *localCluster) says(w *text, what ...string) {
	c.t.Helper()
	for _, s := range what {
		c.eventually(fmt.Sprintf("%q", s), func() error {
			if !strings.Contains(w.String(), s) {
				return errors.New("it was not said")
			}
			return nil
		})
	}
}

func (c *localCluster) announced() {
	c.t.Helper()
	c.says(c.out, "  curl -XGET", "The admin page: http")
}

func (c *localCluster) url(i int) string {
	return "http://" + loopback(portsAt(c.offset).database+i)
}

func (c *localCluster) client(i int) *client.Client {
	c.t.Helper()
	cl, err := client.New(client.Config{Endpoints: []string{c.url(i)}})
	must(c.t, err)
	return cl
}

func (c *localCluster) put(i int, key string) {
	c.t.Helper()
	_, err := c.client(i).PutBytes(c.t.Context(), key, []byte("value of "+key), client.PutOptions{})
	must(c.t, err)
}

// has waits until a node serves a key from its own data.
func (c *localCluster) has(i int, key string) {
	c.t.Helper()
	c.eventually(key+" at "+c.url(i), func() error {
		o, err := c.client(i).Get(c.t.Context(), key, client.GetOptions{})
		if err != nil {
			return err
		}
		defer o.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(o.Body); err != nil || b.String() != "value of "+key {
			return fmt.Errorf("%q, %v", b.String(), err)
		}
		return nil
	})
}

// voters waits until three voters are up, and returns their ids by name.
func (c *localCluster) voters() map[string]string {
	c.t.Helper()
	ids := map[string]string{}
	c.eventually("three voters", func() error {
		list, err := c.client(0).Members(c.t.Context())
		if err != nil {
			return err
		}
		clear(ids)
		for _, m := range list.Members {
			if m.Healthy && m.Role != api.RoleLearner {
				ids[m.Name] = m.ID
			}
		}
		if len(ids) != devNodes || list.Stale {
			return fmt.Errorf("members %+v", list)
		}
		return nil
	})
	return ids
}

func (c *localCluster) member(name string) string { return filepath.Join(c.dir, name) }

// newLocal starts a local cluster with one key.
func newLocal(t *testing.T) *localCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts whole clusters")
	}
	t.Parallel()
	c := startLocal(t, filepath.Join(t.TempDir(), "data"), devOffset(t))
	c.announced()
	c.put(0, "before")
	return c
}

func (c *localCluster) restart(more ...string) *localCluster {
	c.t.Helper()
	c.stop()
	if c.code != exitDone {
		c.t.Fatalf("exit code %d:\n%s", c.code, c.err)
	}
	return startLocal(c.t, c.dir, c.offset, more...)
}

// A removed member comes back by itself, as a new member, with all data.
func TestDev_RemovedMemberJoinsAgain(t *testing.T) {
	c := newLocal(t)
	before := c.voters()
	for _, name := range []string{"n3", "n1"} { // others ask n1 first
		must(t, c.client(1).RemoveMember(t.Context(), name, false))
		c.says(c.err, "Database node "+name+": it was removed from the cluster. It joins again as a new member with an empty directory")
		after := c.voters()
		if after[name] == before[name] {
			t.Errorf("%s came back under its old id", name)
		}
		before = after
	}
	for i := range devNodes {
		c.has(i, "before")
	}
	c.put(2, "after")
	c = c.restart()
	c.announced()
	c.voters()
	c.has(0, "after")
}

// A member may be removed while the local cluster is stopped or stopping.
func TestDev_RemovedMemberIsStarted(t *testing.T) {
	c := newLocal(t)
	c.voters()
	old := copyDir(t, c.member("n2")) // as after a crash right after the removal
	must(t, c.client(0).RemoveMember(t.Context(), "n2", false))
	c.says(c.err, "Database node n2: it was removed")
	c.voters()
	c.stop()
	must(t, os.RemoveAll(c.member("n2")))
	must(t, os.Rename(old, c.member("n2")))
	c = startLocal(t, c.dir, c.offset)
	c.announced()
	c.says(c.err, "Database node n2: ")
	c.voters()
	c.has(1, "before")
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

func TestDev_DeletedDirectoryAtTheStart(t *testing.T) {
	c := newLocal(t)
	before := c.voters()
	c.stop()
	must(t, os.RemoveAll(c.member("n1")))
	c = startLocal(t, c.dir, c.offset)
	c.announced()
	c.says(c.err, "Database node n1: its data directory was deleted or emptied. It joins again")
	if after := c.voters(); after["n1"] == before["n1"] {
		t.Error("it came back under its old id")
	}
	c.has(0, "before")
}

func TestDev_DeletedDirectoryWhileRunning(t *testing.T) {
	c := newLocal(t)
	c.voters()
	must(t, os.RemoveAll(c.member("n2")))
	c.says(c.err, "Database node n2: its data directory was deleted or emptied. It joins again")
	c.voters()
	c.has(1, "before")
	if !raftnode.HasIdentity(c.member("n2")) {
		t.Error("there is no data directory")
	}
}

// If two of three directories are gone, no node may join anew: the two could outvote what the
// third has. The command says so, and the way out that it shows keeps the rest.
func TestDev_TwoDeletedDirectories(t *testing.T) {
	for survivor, lost := range map[string][]string{"n1": {"n2", "n3"}, "n2": {"n1", "n3"}, "n3": {"n1", "n2"}} {
		t.Run(survivor+" is left", func(t *testing.T) { keepsSurvivor(t, survivor, lost, os.RemoveAll) })
	}
	t.Run("emptied", func(t *testing.T) { keepsSurvivor(t, "n2", []string{"n1", "n3"}, server.EmptyDataDir) })
}

func keepsSurvivor(t *testing.T, survivor string, lost []string, lose func(dir string) error) {
	c := newLocal(t)
	c.voters()
	for i := range devNodes {
		c.has(i, "before")
	}
	c.stop()
	for _, name := range lost {
		must(t, lose(c.member(name)))
	}
	began := time.Now()
	c = startLocal(t, c.dir, c.offset)
	c.announced()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the announcement took %v", took)
	}
	for _, name := range lost {
		c.says(c.out, "not ready yet: database node "+name)
		c.says(c.err, "Database node "+name+": its data directory was deleted or emptied, and it cannot join again yet")
	}
	c.says(c.err, survivor+" still has its data", "oncekv dev --reset --data-dir")
	// A second start does not take what the first one left for data either.
	c = c.restart()
	c.says(c.err, survivor+" still has its data", "--force-new-cluster")
	c.stop()
	if c.code != exitDone {
		t.Fatalf("exit code %d", c.code)
	}
	for _, name := range lost {
		if strings.Contains(c.err.String(), name+" still has its data") {
			t.Errorf("%s has nothing:\n%s", name, c.err)
		}
	}
	c.follow()
	c = startLocal(t, c.dir, c.offset)
	c.voters()
	for i := range devNodes {
		c.has(i, "before")
	}
}

// follow runs the way out that the command showed, until the survivor leads, alone and with
// the key.
func (c *localCluster) follow() {
	c.t.Helper()
	line := regexp.MustCompile("`oncekv (serve --name n(.) [^`]*)`").FindStringSubmatch(c.err.String())
	if line == nil {
		c.t.Fatalf("no way out is named:\n%s", c.err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	survivor, ended := &text{}, make(chan int, 1)
	go func() {
		ended <- run(ctx, append(strings.Fields(line[1]), "--yes"), strings.NewReader(""), survivor, survivor, func(string) string { return "" })
	}()
	alone, at := &localCluster{t: c.t, offset: c.offset, out: survivor, err: survivor}, int(line[2][0]-'1')
	alone.has(at, "before")
	alone.eventually("a cluster of one", func() error {
		list, err := alone.client(at).Members(c.t.Context())
		if err == nil && (len(list.Members) != 1 || list.Leader != list.Members[0].Name) {
			err = fmt.Errorf("%+v", list)
		}
		return err
	})
	cancel()
	if code := <-ended; code != exitDone {
		c.t.Fatalf("the survivor ended with %d:\n%s", code, survivor)
	}
}

// A node with untrustworthy data stays down, and the others go on. Deleting its directory is
// enough to repair it.
func TestDev_DamagedMember(t *testing.T) {
	c := newLocal(t)
	c.voters()
	c.stop()
	must(t, os.WriteFile(filepath.Join(c.member("n2"), "history.db"), []byte("damage"), 0o600))
	c = startLocal(t, c.dir, c.offset)
	c.announced()
	c.says(c.err, "Database node n2 is not running: ", "delete "+c.member("n2")+": it then joins again by itself")
	c.says(c.out, "not ready yet: database node n2 (")
	c.put(0, "without n2")
	must(t, os.RemoveAll(c.member("n2")))
	c.says(c.out, "database node n2 is ready")
	c.voters()
	c.has(1, "without n2")
}

func TestDev_NoMemberLeft(t *testing.T) {
	c := newLocal(t)
	c.stop()
	for _, name := range devNames() {
		must(t, os.WriteFile(filepath.Join(c.member(name), "identity"), []byte("damage"), 0o600))
	}
	c = startLocal(t, c.dir, c.offset)
	<-c.done
	if c.code != exitFailed || !strings.Contains(c.err.String(), "no database node is running") || !strings.Contains(c.err.String(), "--reset") {
		t.Fatalf("exit code %d:\n%s", c.code, c.err)
	}
}

func TestDev_Reset(t *testing.T) {
	c := newLocal(t)
	again := startLocal(t, c.dir, c.offset, "--reset", "--yes")
	<-again.done
	if again.code != exitFailed || !strings.Contains(again.err.String(), "in use") {
		t.Errorf("of one that runs: %d\n%s", again.code, again.err)
	}
	refused := startLocal(t, c.dir, c.offset, "--reset")
	<-refused.done
	if refused.code != exitUsage || !strings.Contains(refused.err.String(), "--yes") {
		t.Errorf("without a terminal: %d\n%s", refused.code, refused.err)
	}
	c = c.restart()
	c.announced()
	c.has(0, "before")
	mine := filepath.Join(c.dir, "mine.txt")
	must(t, os.WriteFile(mine, nil, 0o600))
	c = c.restart("--reset", "--yes")
	c.announced()
	c.voters()
	if _, err := c.client(0).Get(t.Context(), "before", client.GetOptions{}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// A reset deletes nothing that the local cluster did not make.
func TestDevData_ResetSparesOthers(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"somebody's files": func(t *testing.T, dir string) { write(t, dir, "n1/thesis.txt") },
		"files in a member": func(t *testing.T, dir string) {
			marked(t, dir)
			write(t, dir, "n2/identity")
			write(t, dir, "n2/thesis.txt")
		},
		"a link to a directory": func(t *testing.T, dir string) {
			marked(t, dir)
			must(t, os.Symlink(t.TempDir(), filepath.Join(dir, "n3")))
		},
		"a file named n1":         func(t *testing.T, dir string) { marked(t, dir); write(t, dir, "n1") },
		"a store of its own":      func(t *testing.T, dir string) { founded(t, dir, "n1") },
		"a cluster of four nodes": func(t *testing.T, dir string) { founded(t, dir, "n1", "n2", "n3", "n4") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			prepare(t, dir)
			before := tree(t, dir)
			if err := (devData{dir}).reset(); err == nil {
				t.Error("it was not refused")
			}
			if after := tree(t, dir); after != before {
				t.Errorf("left are %s of %s", after, before)
			}
		})
	}
}

// Nor is data of another store taken for a local cluster's.
func TestDev_OtherData(t *testing.T) {
	dir := t.TempDir()
	founded(t, dir, "n1")
	c := startLocal(t, dir, devOffset(t))
	<-c.done
	if c.code != exitFailed || !strings.Contains(c.err.String(), "belongs to another store") || !strings.Contains(c.err.String(), "--data-dir") {
		t.Errorf("exit code %d:\n%s", c.code, c.err)
	}
}

// Nor is data of another version, and the message says so.
func TestDev_OtherVersion(t *testing.T) {
	for format, says := range map[int]string{1: "from before the first release", 99: "a later version of oncekv"} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "n1"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "n1", "identity"), fmt.Appendf(nil, `{"format":%d,"name":"n1","id":"0000000000000001"}`, format), 0o600))
		c := startLocal(t, dir, devOffset(t))
		<-c.done
		if c.code != exitUsage || !strings.Contains(c.err.String(), says) {
			t.Errorf("format %d: exit code %d:\n%s", format, c.code, c.err)
		}
	}
}

func write(t *testing.T, dir, name string) {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte("x"), 0o600))
}

func marked(t *testing.T, dir string) {
	t.Helper()
	must(t, devData{dir}.mark(1))
}

// founded makes n1's directory that of a cluster of these nodes.
func founded(t *testing.T, dir string, names ...string) {
	t.Helper()
	var founders []string
	for i, name := range names {
		founders = append(founders, fmt.Sprintf(`{"id":"%016x","name":%q,"peer_url":"http://127.0.0.1:%d","client_url":"http://127.0.0.1:1","birth":{"nonce":"%032x","level":1}}`, i+1, name, 12000+i, i+1))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "n1"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "n1", "identity"), fmt.Appendf(nil,
		`{"format":2,"name":"n1","id":"0000000000000001","birth":{"nonce":"%032x","level":1},"cluster_id":"00000000000000ff","founders":[%s],"started":true}`, 1, strings.Join(founders, ",")), 0o600))
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	return strings.Join(all, " ")
}

func TestDev_PortTaken(t *testing.T) {
	offset, dir := devOffset(t), t.TempDir()
	ln, err := net.Listen("tcp", loopback(portsAt(offset).cache+1))
	must(t, err)
	defer ln.Close()
	c := startLocal(t, dir, offset)
	<-c.done
	if want := ln.Addr().String() + " (cache node c2)"; c.code != exitFailed || !strings.Contains(c.err.String(), want) || !strings.Contains(c.err.String(), "--port-offset ") {
		t.Errorf("exit code %d:\n%s", c.code, c.err)
	}
	if strings.Contains(c.err.String(), devMarker) {
		t.Errorf("it names data that is not there:\n%s", c.err)
	}
	if left := tree(t, dir); left != dir {
		t.Errorf("the start left %s", left)
	}
}

// If the data keeps a port from an earlier start, the message names that and not the offset.
func TestDev_KeptPortTaken(t *testing.T) {
	offset, dir := devOffset(t), t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	must(t, devData{dir}.mark(ln.Addr().(*net.TCPAddr).Port))
	c := startLocal(t, dir, offset)
	<-c.done
	if c.code != exitFailed || !strings.Contains(c.err.String(), ln.Addr().String()) || !strings.Contains(c.err.String(), filepath.Join(dir, devMarker)) {
		t.Errorf("exit code %d:\n%s", c.code, c.err)
	}
}

// The offset that is offered is not the given one.
func TestDevPorts_FreeOffset(t *testing.T) {
	n, ok := freeOffset(0)
	if !ok {
		t.Fatal("no offset is free")
	}
	if other, _ := freeOffset(n); other == n {
		t.Errorf("%d is offered to the one that has it", n)
	}
}

// Data of a program whose peers had other ports keeps these.
func TestDev_OldLayout(t *testing.T) {
	if testing.Short() {
		t.Skip("starts whole clusters")
	}
	t.Parallel()
	offset, dir := devOffset(t), t.TempDir()
	var peers []server.Peer
	for i, name := range devNames() {
		peers = append(peers, server.Peer{Name: name, URL: "http://" + loopback(devPeerPort+offset+i)})
	}
	var nodes []namedNode
	for i, p := range peers {
		db, err := server.StartDatabase(t.Context(), server.DatabaseConfig{
			Name: p.Name, DataDir: filepath.Join(dir, p.Name), Listen: loopback(devDatabasePort + offset + i),
			PeerListen: loopback(devPeerPort + offset + i), PeerAdvertise: p.URL, InitialCluster: peers,
		})
		must(t, err)
		nodes = append(nodes, namedNode{p.Name, db})
	}
	old := &localCluster{t: t, offset: offset, dir: dir, out: &text{}, err: &text{}}
	old.voters()
	old.put(0, "before")
	must(t, closeAll(t.Context(), nodes))
	c := startLocal(t, dir, offset)
	c.announced()
	c.voters()
	c.has(2, "before")
	c.says(c.out, peers[0].URL)
}

// Local clusters whose offsets are multiples of 100 share no port.
func TestDevPorts_OffsetsDoNotCollide(t *testing.T) {
	owners := map[string]int{}
	for offset := 0; offset <= devOffsetMax; offset += 100 {
		for _, at := range portsAt(offset).places() {
			if other, taken := owners[at.addr]; taken {
				t.Errorf("%s is for the offsets %d and %d", at.addr, other, offset)
			}
			owners[at.addr] = offset
		}
	}
	for addr, offset := range map[string]int{
		"127.0.0.1:11000": 0, "127.0.0.1:12002": 0, "127.0.0.1:5553": 0, "127.0.0.1:5546": 0,
		"127.0.0.1:13002": 2000, "127.0.0.1:7553": 2000, "127.0.0.1:7546": 2000,
		"127.0.0.1:12030": 1000, "127.0.0.1:6551": 1000,
	} {
		if owner, ok := owners[addr]; !ok || owner != offset {
			t.Errorf("%s is for the offset %d (%t), want %d", addr, owner, ok, offset)
		}
	}
	// No cluster overlaps itself, whatever its offset, or the one without an offset.
	for offset := range devOffsetMax + 1 {
		seen := map[string]bool{}
		for _, at := range portsAt(offset).places() {
			if seen[at.addr] {
				t.Fatalf("the offset %d has %s twice", offset, at.addr)
			}
			seen[at.addr] = true
		}
	}
}

func TestDevFlags_Directory(t *testing.T) {
	if d := (&devFlags{}).directory(); d != "data" {
		t.Errorf("data in %s", d)
	}
	if d := (&devFlags{portOffset: 100}).directory(); d != filepath.Join("data", "offset-100") {
		t.Errorf("data in %s", d)
	}
}
