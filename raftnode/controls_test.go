package raftnode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// control is a way to break the program, by a replacement in one of its files.
type control struct {
	name     string
	file     string // in the repository
	old, new string
}

// controls break what the simulation is there to watch over. They are compiled
// from an overlay of the source, so nothing of them is in any program.
var controls = []control{
	{"fsync does nothing", "raftnode/simdisk_test.go",
		"d.settle(len(d.loose))\n", "d.settle(0)\n"},
	{"a put is acknowledged before it is committed", "kvstore/dbput.go",
		"result, err := db.log.Propose(ctx, cmd)", "go db.log.Propose(ctx, cmd)\n\tresult, err := any(PutResult{Outcome: Created, Meta: Meta{Key: r.Key, SHA256: sum}}), error(nil)"},
	{"messages leave before the save", "raftnode/core.go",
		"if c.isLeader() && c.term == c.savedTerm && c.commit <= c.savedIndex && raft.IsEmptySnap(rd.Snapshot) {", "if raft.IsEmptySnap(rd.Snapshot) {"},
	{"entries are applied before the save", "raftnode/node.go",
		"if err := n.save(w); err != nil {\n\t\treturn err\n\t}\n\th, err := n.core.done()\n", "h, err := n.core.done()\n\tfor _, early := range []handoff{h} {\n\t\tif err := n.applier.apply(early); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n\th.items = nil\n\tif err := n.save(w); err != nil {\n\t\treturn err\n\t}\n"},
	{"revisions are indexed that history can lose", "kvstore/flush.go",
		"s.overlay.indexable(s.durable.rev)", "s.overlay.indexable(s.applied.rev)"},
	{"a 404 is answered without asking anybody", "kvstore/db.go",
		"if c == Local || !errors.Is(err, ErrNotFound) {", "if c == Linearizable || !errors.Is(err, ErrNotFound) {"},
	{"a context of ReadIndex is used again", "raftnode/core.go",
		"c.lastR++\n", ""},
	{"a read joins a round that began before it", "raftnode/core.go",
		"func (c *core) read(r []*read) { c.reads = append(c.reads, r...) }", "func (c *core) read(r []*read) {\n\tif c.round != nil {\n\t\tc.round.reads = append(c.round.reads, r...)\n\t\treturn\n\t}\n\tc.reads = append(c.reads, r...)\n}"},
	{"a key is overwritten", "kvstore/apply.go",
		"if known != 0 {\n\t\tif cmd.kind == commandSeal {", "if known != 0 && s.applied.rev%16 != 0 {\n\t\tif cmd.kind == commandSeal {"},
	{"the applied index moves in a transaction before its effects", "kvstore/commit.go",
		"if err := s.history.Update(batch.write); err != nil {", "if err := s.history.Update(func(tx Tx) error { return writePosition(tx, &batch.to, batch.meta) }); err != nil {\n\t\treturn s.failed(\"commit to history\", err)\n\t}\n\tif err := s.history.Update(batch.write); err != nil {"},
	{"an entry is applied twice", "raftnode/core.go",
		"Applied:         applied,", "Applied:         max(applied, 2) - 1,"},
	{"a snapshot forgets its ConfState", "raftnode/node.go",
		"raftpb.SnapshotMetadata{ConfState: t.conf, Index: index, Term: term}", "raftpb.SnapshotMetadata{ConfState: raftpb.ConfState{Voters: t.conf.Voters[:1]}, Index: index, Term: term}"},
	{"a put that may come is said not to have been proposed", "raftnode/node.go",
		"accepted := n.waiters.drop(w)", "n.waiters.drop(w)\n\taccepted := false"},
	{"no checksum is looked at", "kvstore/record.go",
		"if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want {", "if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want && len(b) == 0 {"},
}

// TestControls: each way to break the program is found by the simulation, and
// how many worlds that takes.
func TestControls(t *testing.T) {
	if os.Getenv("ONCEKV_TEST_FULL") == "" {
		t.Skip("builds the program a dozen times; set ONCEKV_TEST_FULL=1")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) { c.run(t, root) })
	}
}

// controlSeeds bound how many worlds a control may survive.
const controlSeeds = 2000

var seedOf = regexp.MustCompile(`seed (\d+): .*`)

func (c *control) run(t *testing.T, root string) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-overlay", c.overlay(t, root), "./raftnode", "-run", "TestSimulation$", fmt.Sprintf("-sim.seeds=%d", controlSeeds))
	cmd.Dir = root
	began := time.Now()
	output, err := cmd.CombinedOutput()
	caught := seedOf.FindStringSubmatch(string(output))
	switch {
	case err == nil:
		t.Errorf("not found in %d worlds", controlSeeds)
	case caught == nil:
		t.Errorf("it does not build, or breaks otherwise: %.3000s", output)
	default:
		t.Logf("found in world %s, after %v: %s", caught[1], time.Since(began).Round(time.Second), caught[0])
	}
}

// overlay writes the broken file and tells the go command to use it.
func (c *control) overlay(t *testing.T, root string) string {
	path := filepath.Join(root, c.file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), c.old) != 1 {
		t.Fatalf("%s has %q %d times", c.file, c.old, strings.Count(string(source), c.old))
	}
	dir := t.TempDir()
	broken, list := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(source), c.old, c.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}
