package raftnode

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/broken"
)

// controls break what the simulation is there to watch over. They are compiled
// from an overlay of the source, so nothing of them is in any program.
var controls = []broken.Control{
	{Name: "fsync does nothing", File: "raftnode/simdisk_test.go",
		Old: "case !broken:\n\t\tf.persist(path)\n",
		New: "case !broken:\n"},
	{Name: "what a start finds is not synced", File: "raftnode/disk.go",
		Old: "if err := d.syncFound(dir); err != nil {",
		New: "if err := error(nil); err != nil {"},
	{Name: "the names of snapshots are not synced", File: "raftnode/disk.go",
		Old: "if err := d.sync(d.snapDir); err != nil {",
		New: "if err := error(nil); err != nil {"},
	{Name: "the name of a new log is not synced", File: "raftnode/disk.go",
		Old: "for _, path := range []string{d.walDir, dir} {",
		New: "for _, path := range []string{dir} {"},
	{Name: "an identity is renamed before it is written", File: "raftnode/identity.go",
		Old: "err = sync(tmp) // while",
		New: "err = nil // while"},
	{Name: "a torn write is taken for good", File: "raftnode/disk.go",
		Old: "if report.Torn {",
		New: "if report.Torn && report.TornOffset < 0 {"},
	{Name: "more than the torn write is cut off", File: "raftnode/walscan/repair.go",
		Old: "f.Truncate(report.TornOffset)",
		New: "f.Truncate(report.TornOffset - report.TornOffset%512)"},
	{Name: "the log is purged too far", File: "raftnode/disk.go",
		Old: "if first < index { // as ReleaseLockTo decides",
		New: "if first <= index+20 {"},
	{Name: "a put is acknowledged before it is committed", File: "kvstore/proposal.go",
		Old: "p.db.log.ProposeMany(ctx, commands, func(i int, result any, err error) {\n",
		New: "go p.db.log.ProposeMany(ctx, commands, func(int, any, error) {})\n\tearly := func(each func(int, any, error)) {\n\t\tfor i := range commands {\n\t\t\teach(i, PutResult{Outcome: Created, Meta: p.puts[i].meta}, nil)\n\t\t}\n\t}\n\tearly(func(i int, result any, err error) {\n"},
	{Name: "messages leave before the save", File: "raftnode/core.go",
		Old: "if c.isLeader() && c.term == c.savedTerm && c.commit <= c.savedIndex && raft.IsEmptySnap(rd.Snapshot) {",
		New: "if raft.IsEmptySnap(rd.Snapshot) {"},
	{Name: "entries are applied before the save", File: "raftnode/run.go",
		Old: "if err := n.save(w); err != nil {\n\t\treturn err\n\t}\n\th, err := n.core.done()\n",
		New: "h, err := n.core.done()\n\tfor _, early := range []handoff{h} {\n\t\tif err := n.applier.apply(early); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n\th.items = nil\n\tif err := n.save(w); err != nil {\n\t\treturn err\n\t}\n"},
	{Name: "revisions are indexed that history can lose", File: "kvstore/flush.go",
		Old: "s.memtable.indexable(s.durable.rev)",
		New: "s.memtable.indexable(s.applied.rev)"},
	{Name: "a 404 is answered without asking anybody", File: "kvstore/db.go",
		Old: "if c == Local || !errors.Is(err, ErrNotFound) {",
		New: "if c == Linearizable || !errors.Is(err, ErrNotFound) {"},
	{Name: "a context of ReadIndex is used again", File: "raftnode/core.go",
		Old: "c.lastR++\n",
		New: ""},
	{Name: "a read joins a round that began before it", File: "raftnode/core.go",
		Old: "func (c *core) read(r []*read) { c.reads = append(c.reads, r...) }",
		New: "func (c *core) read(r []*read) {\n\tif c.round != nil {\n\t\tc.round.reads = append(c.round.reads, r...)\n\t\treturn\n\t}\n\tc.reads = append(c.reads, r...)\n}"},
	{Name: "a key is overwritten", File: "kvstore/apply.go",
		Old: "if known != 0 {\n\t\tif cmd.kind == commandSeal {",
		New: "if known != 0 && s.applied.rev%16 != 0 {\n\t\tif cmd.kind == commandSeal {"},
	{Name: "the applied index moves in a transaction before its effects", File: "kvstore/commit.go",
		Old: "if err := s.history.Update(batch.write); err != nil {",
		New: "if err := s.history.Update(func(tx engine.Tx) error { return writeApplied(tx, &batch.to, batch.meta) }); err != nil {\n\t\treturn s.failed(\"commit to history\", err)\n\t}\n\tif err := s.history.Update(batch.write); err != nil {"},
	{Name: "an entry is applied twice", File: "raftnode/core.go",
		Old: "Applied:         applied,",
		New: "Applied:         max(applied, log.first) - 1,"},
	{Name: "a snapshot forgets its ConfState", File: "raftnode/snapshot.go",
		Old: "raftpb.SnapshotMetadata{ConfState: d.members.conf, Index: d.index, Term: d.term}",
		New: "raftpb.SnapshotMetadata{ConfState: raftpb.ConfState{Voters: d.members.conf.Voters[:1]}, Index: d.index, Term: d.term}"},
	{Name: "a put that may come is said not to have been proposed", File: "raftnode/waiters.go",
		Old: "err = lost\n",
		New: "err = unsent\n"},
	{Name: "a peer is believed whatever it sends", File: "raftnode/core.go",
		Old: "if err := c.checkMessage(&m); err != nil {",
		New: "if err := c.checkMessage(&m); err != nil && m.To == raft.None {"},
	{Name: "a term is believed whatever it is", File: "raftnode/walscan/history.go",
		Old: "return term <= saved || term <= termMax && (saved == 0 || term-saved <= TermRiseMax)",
		New: "return true"},
	{Name: "a run holds what history has not durably", File: "kvstore/flush.go",
		Old: "run, last := sortGenerations(generations),",
		New: "run, last := sortGenerations(append(slices.Clone(generations), s.memtable.active)),"},
	{Name: "a filter forgets a key", File: "internal/keyruns/keyruns.go",
		Old: "if !r.filter.has(hash) {",
		New: "if !r.filter.has(hash) || hash%101 == 0 {"},
	{Name: "a run of the index is named before it is synced", File: "internal/keyruns/run.go",
		Old: "w.file.Sync()",
		New: "error(nil)"},
	{Name: "the rebuild's mark is written before its keys", File: "kvstore/rebuild.go",
		Old: "\tvar left runHeap\n",
		New: "\tif err := s.index.Add(context.Background(), func(func([]byte, uint64) bool) {}, 0, keyruns.Mark{Revision: uint64(end.rev), Digest: end.digest()}); err != nil {\n\t\treturn err\n\t}\n\tvar left runHeap\n"},
	{Name: "a sorted run ends before its last key", File: "kvstore/rebuild.go",
		Old: "for key, rev := range sorted.all() {",
		New: "sorted.places = sorted.places[:sorted.len()-1]\n\tfor key, rev := range sorted.all() {"},
	{Name: "a pull keeps no checkpoints", File: "kvstore/pull.go",
		Old: "st.progress.last.keep(st.store.cfg.CheckpointRevisions)}",
		New: "nil}"},
	{Name: "the sweep compares clocks of two machines", File: "kvstore/db.go",
		Old: "q.sweeps++\n",
		New: "if q.sweeps = 0; db.store.uploads[id] != nil && db.store.uploads[id].time < db.cfg.Now().Add(-db.cfg.UploadIdle).UnixNano() {\n\t\t\tq.sweeps = 1 << 20\n\t\t}\n"},
	{Name: "a node that is behind sweeps", File: "kvstore/db.go",
		Old: "if err := db.log.ReadIndex(ctx); err != nil {\n\t\tdb.cfg.Logger.Debug(\"idle",
		New: "if err := ctx.Err(); err != nil {\n\t\tdb.cfg.Logger.Debug(\"idle"},
	{Name: "a body that stands still shows no life", File: "kvstore/apply.go",
		Old: "u.renew(cmd.time)\n",
		New: "_ = u\n"},
	{Name: "the identity is not kept before the first message", File: "raftnode/identity.go",
		Old: "return id, id.save(dir, cfg.sync)",
		New: "return id, nil"},
	{Name: "a forced cluster keeps its id", File: "raftnode/force.go",
		Old: "history := newHistory()",
		New: "history := historyOf(n.self.Founders)"},
	{Name: "a forced cluster has the history of before", File: "raftnode/applier.go",
		Old: "if it.history != (historyID{}) {",
		New: "if it.index == 0 {"},
	{Name: "a founder brings another number whenever it is asked", File: "raftnode/peerhttp.go",
		Old: "a.Birth = id.Birth",
		New: "a.Birth = id.Birth; a.Birth.Nonce = nonce(newHistory())"},
	{Name: "a cluster is forced at every start", File: "raftnode/force.go",
		Old: "if len(forced) == 0 {\n\t\treturn nil",
		New: "if len(forced) >= 0 {\n\t\treturn nil"},
	{Name: "nobody is told that the cluster has ended", File: "raftnode/ended.go",
		Old: "return endedIn(*n.forced.Load(), id)",
		New: "return nil, false"},
	{Name: "a forced cluster loses the end of its log", File: "raftnode/force.go",
		Old: "if k := len(st.entries); k > 0 {",
		New: "if k := len(st.entries); k > 0 && st.entries[k-1].Index > applied+1 {\n\t\tst.entries = st.entries[:applied+1-st.snapshot.Metadata.Index]\n\t\tk = len(st.entries)"},
	{Name: "a received snapshot is saved before the state", File: "raftnode/run.go",
		Old: "if err := n.disk.save(w.state, nil, true); err != nil {",
		New: "if err := error(nil); err != nil {"},
	{Name: "messages of removed members are stepped", File: "raftnode/core.go",
		Old: "if c.members.removed[ID(m.From)] {",
		New: "if m.From == raft.None && c.members.removed[ID(m.From)] {"},
	{Name: "chunks of dropped uploads are kept after an install", File: "kvstore/install.go",
		Old: "if in.sealed[id] {\n\t\t\tcontinue",
		New: "if in.sealed[id] || id != (uploadID{}) {\n\t\t\tcontinue"},
	{Name: "a failed fsync leaves no mark", File: "raftnode/simworld_test.go",
		Old: "w.rotten = s\n\treturn true\n",
		New: "return false\n"},
	{Name: "a leader takes commands above the level of the store", File: "raftnode/gate.go",
		Old: "if need > c.members.level {",
		New: "if need > c.gate.known {"},
	{Name: "what only a later version knows is passed over", File: "raftnode/errors.go",
		Old: "return &level.LaterError{What: what, Level: need, Known: known}",
		New: "return nil"},
	{Name: "a start does not look at the level of the store", File: "raftnode/recover.go",
		Old: "if err := n.checkLevels(&st, members, applied); err != nil {",
		New: "if err := n.checkLevels(&st, members, applied); err != nil && applied == 0 {"},
	{Name: "the level rises when most members know it", File: "raftnode/levels.go",
		Old: "if len(missing) > 0 {\n\t\treturn missing",
		New: "if len(missing) > len(others)/2 {\n\t\treturn missing"},
	{Name: "the level does not rise", File: "raftnode/levels.go",
		Old: "st.Role == RoleLeader && st.Level < st.Known {",
		New: "st.Role == RoleLeader && st.Level > st.Known {"},
	{Name: "a member of any level is added", File: "raftnode/members.go",
		Old: "if m.knows() < t.level {",
		New: "if m.knows() == 0 {"},
	{Name: "the head at a revision that is yet to be committed lacks a record", File: "kvstore/digests.go",
		Old: "for i := range pending {\n\t\tb := pending[i].body()",
		New: "for i := range max(len(pending)-1, 0) {\n\t\tb := pending[i].body()"},
	{Name: "the log record is written before its body is synced", File: "bodies/store.go",
		Old: "if err := s.syncFile(seg); err != nil {",
		New: "if err := error(nil); err != nil {"},
	{Name: "a body is reclaimed that the log refers to above the applied index", File: "raftnode/memlog.go",
		Old: "case l.refs.store.Hold(ref.Digest):",
		New: "case l.refs.store.Has(ref.Digest):"},
	{Name: "a member acknowledges an entry without its body", File: "raftnode/memlog.go",
		Old: "if ref, ok := r.ofCommand(c.data); ok {",
		New: "if ref, ok := r.ofCommand(c.data); ok && r.store.Has(ref.Digest) {"},
	{Name: "no checksum is looked at", File: "kvstore/record.go",
		Old: "if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want {",
		New: "if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want && len(b) == 0 {"},
}

// TestControls_Apply: each control still breaks the program that there is.
func TestControls_Apply(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	broken.Check(t, root, controls)
}

// TestControls: each way to break the program is found by the simulation, and
// how many worlds that takes.
func TestControls(t *testing.T) {
	if !*simControls {
		t.Skip("builds the program a dozen times; -sim.controls runs it")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) { findControl(t, &c, root) })
	}
}

// controlSeeds bound how many worlds a control may survive.
const controlSeeds = 5000

var seedOf = regexp.MustCompile(`seed (\d+): .*`)

func findControl(t *testing.T, c *broken.Control, root string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-overlay", c.Overlay(t, root), "./raftnode", "-run", "TestSimulation$", fmt.Sprintf("-sim.seeds=%d", controlSeeds))
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
