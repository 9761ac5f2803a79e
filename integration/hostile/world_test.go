package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// plan is what an attack needs of its world.
type plan struct {
	flags      []string // of every database node
	cacheFlags []string // of every cache node
	under      []string // what every node is started by
	largeBytes int64    // of the key "large"; 0: there is none
}

const (
	seedKeys  = 300
	seedValue = 2048
)

// world is a cluster and its admin.
type world struct {
	*clustertest.Processes
	t     *testing.T
	admin *clustertest.Process
}

// kind is the kind of a listener.
type kind string

const (
	database kind = "database"
	peer     kind = "peer port"
	cache    kind = "cache"
	admin    kind = "admin"
)

// target is a listener of a node.
type target struct {
	node *clustertest.Process
	kind kind
	addr string
}

func (g target) String() string {
	if g.kind == peer {
		return "peer port of " + g.node.Name
	}
	return g.node.Name
}

// newWorld starts a cluster that holds a few keys.
func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	w := &world{t: t, Processes: clustertest.NewProcesses(t, run.bin, 3, 2, p.flags...)}
	w.admin = w.NewAdmin()
	for _, c := range w.Caches {
		c.Args = append(c.Args, p.cacheFlags...)
	}
	logs := w.logs()
	for _, n := range w.all() {
		n.Under, n.Logs = p.under, logs
		n.Start()
	}
	for _, n := range w.all() {
		n.WaitReady()
	}
	w.seed(p.largeBytes)
	return w
}

// logs is a directory for the nodes' logs. Failures are reported in sentences; -keep is for
// the rest.
func (w *world) logs() string {
	w.t.Helper()
	if run.keep == "" {
		return w.t.TempDir()
	}
	dir := filepath.Join(run.keep, filepath.Base(w.t.Name()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// all returns the nodes of every kind.
func (w *world) all() []*clustertest.Process { return append(w.All(), w.admin) }

// targets returns one listener of each kind, or all.
func (w *world) targets(all bool) []target {
	var targets []target
	for _, n := range w.DBs {
		targets = append(targets, target{n, database, n.Addr})
	}
	for _, n := range w.DBs {
		targets = append(targets, target{n, peer, n.Peer})
	}
	for _, n := range w.Caches {
		targets = append(targets, target{n, cache, n.Addr})
	}
	targets = append(targets, target{w.admin, admin, w.admin.Addr})
	if all {
		return targets
	}
	var one []target
	for _, g := range targets {
		if len(one) == 0 || one[len(one)-1].kind != g.kind {
			one = append(one, g)
		}
	}
	return one
}

// servers returns the targets that take keys, below the prefix of keyPrefix.
func (w *world) servers(all bool) []target {
	var servers []target
	for _, g := range w.targets(all) {
		if g.kind != peer {
			servers = append(servers, g)
		}
	}
	return servers
}

// api returns the path prefix of a listener's routes of keys.
func (g target) api() string {
	if g.kind == admin {
		return "/api"
	}
	return ""
}

func seedKey(i int) string { return fmt.Sprintf("seed/%04d", i) }

func seedBytes(i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("%08d", i), seedValue/8))
}

func (w *world) seed(largeBytes int64) {
	w.t.Helper()
	cl := clustertest.Client(w.t, clustertest.URLs(w.DBs...)...)
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	items := func(yield func(client.PutItem) bool) {
		for i := range seedKeys {
			if !yield(client.PutItem{Key: seedKey(i), Value: seedBytes(i)}) {
				return
			}
		}
	}
	for r, err := range cl.PutAll(ctx, items) {
		if err != nil {
			w.t.Fatalf("put %s before the attack: %v", r.Key, err)
		}
	}
	if largeBytes == 0 {
		return
	}
	if _, err := cl.PutBytes(ctx, "large", make([]byte, largeBytes), client.PutOptions{}); err != nil {
		w.t.Fatalf("put a large value before the attack: %v", err)
	}
}

// judgeLogs fails the test if a node has ended, has logged an error, or has written past its
// log.
func (w *world) judgeLogs() {
	w.t.Helper()
	for _, n := range w.all() {
		if !n.Running() {
			w.t.Errorf("%s has stopped: %s", n.Name, why(n.Log()))
			continue
		}
		w.judgeLog(n)
	}
}

// logLinesMax is how many lines an attack may make a node write: an attacker must not fill the
// disk with them.
const logLinesMax = 2000

// strange matches lines of the runtime, and of a library that does not write to the node's
// log. It does not match what a node writes at its start.
var strange = regexp.MustCompile(`^(\d{4}/\d\d/\d\d |panic: |fatal error: |goroutine \d)`)

func (w *world) judgeLog(n *clustertest.Process) {
	w.t.Helper()
	f, err := os.Open(n.LogPath())
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	lines, bad := 0, map[string][]string{}
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		lines++
		var line struct{ Level string }
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil && strange.MatchString(scan.Text()) {
			bad["past its log"] = append(bad["past its log"], scan.Text())
		} else if line.Level == "ERROR" {
			bad["of level ERROR"] = append(bad["of level ERROR"], scan.Text())
		}
	}
	for what, which := range bad {
		w.t.Errorf("%s wrote %d lines %s, such as %.400s", n.Name, len(which), what, which[0])
	}
	if lines > logLinesMax {
		w.t.Errorf("%s wrote %d lines to its log during the attack; want at most %d. one is %.400s", n.Name, lines, logLinesMax, why(n.Log()))
	}
}

// why returns the line of a log that says why the node stopped: that of a panic, or the node's
// own, or the last.
func why(log string) string {
	last := "it wrote nothing"
	for line := range strings.Lines(log) {
		last = strings.TrimSpace(line)
		if strings.HasPrefix(last, "panic: ") || strings.HasPrefix(last, "fatal error: ") || strings.Contains(last, `"this node is stopping"`) {
			break
		}
	}
	return fmt.Sprintf("%.500s", last)
}

// judgeRestart stops all nodes in order and starts them again: nothing that the attack left on
// disk may prevent that, and all have the same history.
func (w *world) judgeRestart() {
	w.t.Helper()
	revision := uint64(0)
	for _, d := range w.DBs {
		if s, err := d.Stats(); err == nil {
			revision = max(revision, s.Revision)
		}
	}
	stood := make(map[*clustertest.Process]bool)
	for _, n := range w.all() {
		stood[n] = n.Running()
		n.Signal(syscall.SIGTERM)
	}
	for _, n := range w.all() {
		if !stood[n] {
			continue // judgeLogs has told why
		}
		if code := n.Wait(); code != 0 {
			w.t.Errorf("%s ended with exit code %d after the attack: %s", n.Name, code, why(n.Log()))
		}
	}
	for _, n := range w.all() {
		n.Start()
	}
	if !w.readyAgain() {
		return
	}
	w.judgeHistory(revision)
	w.judgeSeeds()
}

// judgeHistory expects the same history on all database nodes, with everything that was there
// before.
func (w *world) judgeHistory(before uint64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), restartTime)
	defer cancel()
	err := poll(ctx, func() error {
		var first api.Stats
		for _, d := range w.DBs {
			s, err := d.Stats()
			if err != nil {
				return err
			}
			if first.Digest == "" {
				first = s
			}
			if s.Revision != first.Revision || s.Digest != first.Digest || s.Revision < before {
				return fmt.Errorf("%s has revision %d, %s %d, and there were %d before; digests %.8s and %.8s", s.Name, s.Revision, first.Name, first.Revision, before, s.Digest, first.Digest)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("after the attack and a restart the histories are not the same within %v: %v", restartTime, err)
	}
}

// restartTime bounds how long a restarted node takes to be as before.
const restartTime = 30 * time.Second

// readyAgain waits until all restarted nodes are ready; it reports a node that ends instead,
// or takes too long.
func (w *world) readyAgain() bool {
	w.t.Helper()
	ok := true
	ctx, cancel := context.WithTimeout(context.Background(), restartTime)
	defer cancel()
	for _, n := range w.all() {
		err := poll(ctx, func() error {
			if !n.Running() {
				return nil
			}
			status, _, err := fetch(ctx, n.URL()+"/readyz")
			if err == nil && status != 200 {
				err = fmt.Errorf("/readyz is %d", status)
			}
			return err
		})
		if !n.Running() {
			err = fmt.Errorf("it ended: %s", why(n.Log()))
		}
		if err != nil {
			w.t.Errorf("%s does not come up again after the attack: %v", n.Name, err)
			ok = false
		}
	}
	return ok
}

// judgeSeeds reads from every node what was there before the attack.
func (w *world) judgeSeeds() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, g := range w.servers(true) {
		for _, i := range []int{0, seedKeys / 2, seedKeys - 1} {
			status, body, err := fetch(ctx, "http://"+g.addr+g.api()+"/key/"+seedKey(i))
			if err != nil || status != 200 || string(body) != string(seedBytes(i)) {
				w.t.Errorf("%s: %s is %d, %v and %d bytes after the attack and a restart", g, seedKey(i), status, err, len(body))
			}
		}
	}
}
