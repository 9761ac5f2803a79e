package raftnode

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/wal"
	"go.etcd.io/etcd/server/v3/wal/walpb"
	"go.uber.org/zap"

	"github.com/Focinfi/oncekv/internal/shortage"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// # The data directory
//
//	identity   who this node is, what it brings to a new cluster, and to which one
//	           it belongs (JSON); replaced, never edited
//	wal/       etcd's WAL, checked frame by frame before it is opened (walscan);
//	           its metadata says whose it is
//	values/    the bodies; the state machine owns it (Config.Bodies)
//	snap/      etcd's .snap files; each holds the member table and the state
//	           machine's description of itself, usually about 2 KB
//
// The log of a new cluster begins with a snapshot at index 1, term 1, that holds the
// founders. Members that come later have no entry before it, so they always begin with
// a snapshot. A start syncs everything that it finds before it builds on it, because a
// process that was killed during its fsync may have left it in memory only.

// disk is where the core's promises become durable. It is not used after an error: an fsync
// that failed may succeed the next time without having written anything.
type disk interface {
	// save appends entries and state; with sync it returns after an fsync.
	save(state raftpb.HardState, entries []raftpb.Entry, sync bool) error
	// saveSnapshot makes a snapshot's description durable.
	saveSnapshot(s raftpb.Snapshot) error
	// release allows files that hold only entries up to index to go.
	release(index uint64) error
	close() error
}

// walDisk is the production disk: etcd's WAL and .snap files.
type walDisk struct {
	walDir, snapDir string
	wal             *wal.WAL
	snaps           *snap.Snapshotter
	sync            syncFunc
	logger          *slog.Logger

	newest raftpb.SnapshotMetadata // of the snapshots that the log names

	state  raftpb.HardState // as it was saved last
	saved  bool             // something was, since the log was opened
	proven bool             // a mark follows what was synced last
	failed bool             // nothing can be written any more
}

// syncFunc makes durable what a file holds, or which names a directory has. Every fsync of
// this package goes through one, but for those of etcd's wal and snap.
type syncFunc func(path string) error

func newWALDisk(dir string, sync syncFunc, logger *slog.Logger) *walDisk {
	return &walDisk{walDir: walDir(dir), snapDir: snapDir(dir), sync: sync, logger: logger}
}

// diskState is what a walDisk held when it was opened.
type diskState struct {
	state    raftpb.HardState
	snapshot raftpb.Snapshot // may be empty
	entries  []raftpb.Entry  // after the snapshot
}

func walDir(dir string) string  { return filepath.Join(dir, "wal") }
func snapDir(dir string) string { return filepath.Join(dir, "snap") }

// diskErr says what failed. It is errDisk, unless the system was short of something, which
// says nothing about the disk.
func diskErr(err error, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case shortage.Is(err):
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), shortage.Explain(err))
	}
	if errors.Is(err, errDisk) { // it has said so
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	return fmt.Errorf("%w: %s: %w", errDisk, fmt.Sprintf(format, args...), err)
}

// putBack is what to do about a file that is missing or is not the right one.
const putBack = "put back the one that belongs there, or replace this node: remove the member, empty the data directory, join again"

// unusable is diskErr for a file that cannot be read or makes no sense, with advice. What
// walscan says of damage has its own.
func unusable(err error, what string) error {
	if errors.As(err, new(*walscan.DamageError)) || shortage.Is(err) || errors.Is(err, syscall.ENOSPC) {
		return diskErr(err, "%s", what)
	}
	return fmt.Errorf("%w; %s", diskErr(err, "%s", what), putBack)
}

// writeErr is diskErr for a write or an fsync.
func writeErr(err error, format string, args ...any) error {
	return diskErr(writefault.Mark(err), format, args...)
}

// createDisk makes an empty log, removing what an earlier attempt left. The
// caller knows that nothing was ever promised on the strength of it.
func createDisk(dir string, owner ID, first raftpb.Snapshot, sync syncFunc, logger *slog.Logger) (*walDisk, error) {
	d := newWALDisk(dir, sync, logger)
	if err := errors.Join(os.RemoveAll(d.walDir), os.RemoveAll(d.snapDir)); err != nil {
		return nil, diskErr(err, "remove an unfinished log")
	}
	if err := os.MkdirAll(d.snapDir, 0o700); err != nil {
		return nil, diskErr(err, "create %s", d.snapDir)
	}
	d.snaps = snap.New(zapLogger(logger), d.snapDir)
	w, err := wal.Create(zapLogger(logger), d.walDir, ownerMark(owner))
	if err != nil {
		return nil, d.walErr(err)
	}
	d.wal = w
	if !raft.IsEmptySnap(first) {
		// The commit index comes first: a snapshot record beyond it counts
		// for nothing when the WAL is read.
		hs := raftpb.HardState{Term: first.Metadata.Term, Commit: first.Metadata.Index}
		if err := d.save(hs, nil, true); err != nil {
			return nil, errors.Join(err, d.close())
		}
		if err := d.saveSnapshot(first); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	// etcd syncs the directory that the log's is in, but not the log's own.
	for _, path := range []string{d.walDir, dir} {
		if err := sync(path); err != nil {
			return nil, errors.Join(writeErr(err, "make a new log durable"), d.close())
		}
	}
	return d, nil
}

// ownerMark is what a log says of its node, in the metadata of every segment: a log
// knows what its own node has voted for and acknowledged, and no other.
func ownerMark(owner ID) []byte { return []byte("node " + owner.String()) }

// openDisk verifies the log byte by byte, then opens it for writing. Whatever it
// found is durable when it returns: it may have been written by a process that was
// killed before, or in, its fsync, and nobody else will sync it.
func openDisk(dir string, owner ID, sync syncFunc, logger *slog.Logger) (*walDisk, diskState, error) {
	d := newWALDisk(dir, sync, logger)
	var st diskState
	report, err := walscan.Check(d.walDir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, walscan.ErrNoSegments) {
		return nil, st, fmt.Errorf("%w: the log in %s is gone, so this node does not know what it has voted for or acknowledged; %s", errMixedUp, d.walDir, putBack)
	}
	if err != nil {
		return nil, st, unusable(err, "check the log")
	}
	// The logs of older versions have no owner.
	if len(report.Metadata) > 0 && !bytes.Equal(report.Metadata, ownerMark(owner)) {
		return nil, st, fmt.Errorf("%w: the log in %s is that of %s, and the identity beside it that of node %s; %s", errMixedUp, d.walDir, report.Metadata, owner, putBack)
	}
	if report.Torn {
		logger.Warn("the write-ahead log ends in a write that never finished; cutting it off", "file", report.TornFile, "offset", report.TornOffset)
		if err := walscan.Repair(report); err != nil {
			return nil, st, writeErr(err, "cut off the unfinished write in %s", report.TornFile)
		}
	}
	if _, err := os.Stat(d.snapDir); errors.Is(err, fs.ErrNotExist) {
		return nil, st, fmt.Errorf("%w: %s is gone, and the log may begin after the snapshots in it; %s", errMixedUp, d.snapDir, putBack)
	}
	if err := d.syncFound(dir); err != nil {
		return nil, st, err
	}
	zl := zapLogger(logger)
	d.snaps = snap.New(zl, d.snapDir)
	records, err := wal.ValidSnapshotEntries(zl, d.walDir)
	if err != nil {
		return nil, st, unusable(err, "read the log")
	}
	if st.snapshot, err = newestSnapshot(zl, d.snapDir, records); err != nil {
		return nil, st, unusable(err, "read the snapshots")
	}
	if err := checkNewest(records, st.snapshot); err != nil {
		return nil, st, fmt.Errorf("%w: %s: %w", errMixedUp, d.snapDir, err)
	}
	if err := d.removeUnfinished(); err != nil {
		return nil, st, err
	}
	at := walpb.Snapshot{Index: st.snapshot.Metadata.Index, Term: st.snapshot.Metadata.Term}
	if d.wal, err = wal.Open(zl, d.walDir, at); err != nil {
		return nil, st, unusable(err, "open the log")
	}
	if _, st.state, st.entries, err = d.wal.ReadAll(); err != nil {
		return nil, st, errors.Join(unusable(err, "read the log"), d.wal.Close())
	}
	d.state, d.newest = st.state, st.snapshot.Metadata
	return d, st, nil
}

// syncFound makes durable what an earlier process left: files first, then names.
func (d *walDisk) syncFound(dir string) error {
	for _, found := range []struct{ dir, suffix string }{{d.walDir, ".wal"}, {d.snapDir, ".snap"}} {
		names, err := fileNames(found.dir, found.suffix)
		if err != nil {
			return unusable(err, "list what was found")
		}
		for _, name := range names {
			if err := d.sync(filepath.Join(found.dir, name)); err != nil {
				return writeErr(err, "make durable what was found")
			}
		}
		if err := d.sync(found.dir); err != nil {
			return writeErr(err, "make durable what was found")
		}
	}
	return writeErr(d.sync(dir), "make durable what was found")
}

// removeUnfinished removes segments whose first records were being written when the process
// was killed. etcd would use what it finds under their names again, with everything behind
// its own first records.
func (d *walDisk) removeUnfinished() error {
	names, err := fileNames(d.walDir, ".tmp")
	if err == nil {
		err = removeFiles(d.walDir, names)
	}
	return diskErr(err, "remove unfinished segments of the log")
}

// newestSnapshot reads the newest snapshot that is in records and not damaged; it may be
// empty. etcd's Snapshotter takes a file that cannot be opened for a damaged one and
// renames it, so that every later start lacks it.
func newestSnapshot(zl *zap.Logger, dir string, records []walpb.Snapshot) (raftpb.Snapshot, error) {
	names, err := fileNames(dir, ".snap")
	if err != nil {
		return raftpb.Snapshot{}, err
	}
	for _, name := range slices.Backward(names) {
		s, err := snap.Read(zl, filepath.Join(dir, name))
		if _, unread := errors.AsType[*fs.PathError](err); unread {
			return raftpb.Snapshot{}, err
		}
		if err == nil && slices.ContainsFunc(records, func(r walpb.Snapshot) bool {
			return r.Index == s.Metadata.Index && r.Term == s.Metadata.Term
		}) {
			return *s, nil
		}
	}
	return raftpb.Snapshot{}, nil
}

// checkNewest refuses to start from an older snapshot because the newest
// file is gone: the log that follows the older one may be purged.
func checkNewest(records []walpb.Snapshot, s raftpb.Snapshot) error {
	if len(records) == 0 {
		return nil
	}
	newest := slices.MaxFunc(records, func(a, b walpb.Snapshot) int { return cmp.Compare(a.Index, b.Index) })
	if newest.Index > s.Metadata.Index {
		return fmt.Errorf("the snapshot file of index %d, term %d is missing or damaged; %s", newest.Index, newest.Term, putBack)
	}
	return nil
}

func (d *walDisk) save(state raftpb.HardState, entries []raftpb.Entry, _ bool) error {
	if len(entries) == 0 && (raft.IsEmptyHardState(state) || state == d.state) {
		return nil // it is there, and nothing is synced; twice would be a mark
	}
	if err := d.prove(); err != nil {
		return err
	}
	d.saved = true
	// wal.Save fsyncs by raft's rule (new entries, term or vote), which is
	// the rule the last argument comes from.
	if err := d.walErr(d.wal.Save(state, entries)); err != nil {
		return err
	}
	if raft.MustSync(state, d.state, len(entries)) {
		d.proven = false
	}
	if !raft.IsEmptyHardState(state) {
		d.state = state
	}
	return nil
}

// prove writes a mark, the state twice, behind what was synced last, before anything else
// is written. What lies before a mark was on the disk: if it does not read, it is damaged.
// Without a mark it may be a write that never finished, whose pages reached the disk in
// another order. walscan decides by that. The mark is synced with what follows it.
func (d *walDisk) prove() error {
	if d.failed {
		return fmt.Errorf("%w: the log in %s could not be written before; start the node again", errDisk, d.walDir)
	}
	if d.proven || raft.IsEmptyHardState(d.state) {
		return nil
	}
	for range 2 {
		if err := d.walErr(d.wal.Save(d.state, nil)); err != nil {
			return err
		}
	}
	d.proven = true
	return nil
}

func (d *walDisk) saveSnapshot(s raftpb.Snapshot) error {
	// The file first: a record in the WAL promises that there is one.
	if err := d.snaps.SaveSnap(s); err != nil {
		return writeErr(err, "write to %s", d.snapDir)
	}
	if err := d.sync(d.snapDir); err != nil {
		return writeErr(err, "sync %s", d.snapDir)
	}
	if err := d.prove(); err != nil {
		return err
	}
	conf := s.Metadata.ConfState
	rec := walpb.Snapshot{Index: s.Metadata.Index, Term: s.Metadata.Term, ConfState: &conf}
	d.saved, d.proven = true, false
	if err := d.walErr(d.wal.SaveSnapshot(rec)); err != nil {
		return err
	}
	d.newest = s.Metadata
	return nil
}

// walErr names the newest segment for a failed write or fsync; the system's error for an
// fsync names no file.
func (d *walDisk) walErr(err error) error {
	if err == nil {
		return nil
	}
	d.failed = true
	path := d.walDir
	if names, listErr := fileNames(d.walDir, ".wal"); listErr == nil && len(names) > 0 {
		path = filepath.Join(d.walDir, names[len(names)-1])
	}
	if errors.Is(err, syscall.ENOSPC) && lacksRoom(filepath.Dir(d.walDir), wal.SegmentSizeBytes) {
		// The next segment could not be made, which is no lost write.
		return diskErr(err, "write to %s", path)
	}
	return writeErr(err, "write to %s", path)
}

// lacksRoom reports whether the disk of dir lacks room for so many bytes.
func lacksRoom(dir string, bytes int64) bool {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	return err == nil && int64(st.Bavail)*int64(st.Bsize) < bytes // the types differ between systems
}

// release removes the WAL segments and .snap files that the snapshot at index made useless.
// The WAL holds the locks of the segments it needs.
func (d *walDisk) release(index uint64) error {
	if err := d.wal.ReleaseLockTo(index); err != nil {
		return diskErr(err, "release %s", d.walDir)
	}
	if err := purgeWAL(d.walDir, index); err != nil {
		return diskErr(err, "purge %s", d.walDir)
	}
	return diskErr(purgeSnaps(d.snapDir, d.newest, 2), "purge %s", d.snapDir)
}

// purgeWAL removes the segments that lie wholly before the one that holds
// index. A segment's name says the index after which it starts.
func purgeWAL(dir string, index uint64) error {
	names, err := fileNames(dir, ".wal")
	if err != nil {
		return err
	}
	needed := 0
	for i, name := range names {
		var seq, first uint64
		if _, err := fmt.Sscanf(name, "%016x-%016x.wal", &seq, &first); err != nil {
			return fmt.Errorf("%s is not the name of a segment", name)
		}
		if first < index { // as ReleaseLockTo decides
			needed = i
		}
	}
	return removeFiles(dir, names[:needed])
}

// purgeSnaps keeps the newest keep .snap files up to the one that the log names last. Later
// files are of a process that was killed before it wrote their records, and must not count
// instead of those.
func purgeSnaps(dir string, newest raftpb.SnapshotMetadata, keep int) error {
	names, err := fileNames(dir, ".snap")
	if err != nil {
		return err
	}
	named := fmt.Sprintf("%016x-%016x.snap", newest.Term, newest.Index)
	count := len(names)
	for count > 0 && names[count-1] > named {
		count--
	}
	return errors.Join(removeFiles(dir, names[:max(0, count-keep)]), removeFiles(dir, names[count:]))
}

// fileNames lists a directory's files with a suffix, ascending. Names of
// segments and snapshots sort by age.
func fileNames(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeFiles removes oldest first, so that a crash leaves no gap.
func removeFiles(dir string, names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// close leaves a mark: what was saved last was on disk too. A log that was only read stays
// as it is, because a start that is refused must change nothing.
func (d *walDisk) close() error {
	var err error
	if d.saved && !d.failed {
		err = d.prove()
	}
	return errors.Join(err, d.walErr(d.wal.Close()))
}
