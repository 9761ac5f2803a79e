package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// errSimDisk is an fsync that failed, or in which the process or the power went.
var errSimDisk = errors.New("simulated disk failure")

// simFiles is the file system of a machine. What processes on it see is real: files
// in a directory of their own, which are the page cache. Beside it stands what would
// be left if the power went: of every file what its last fsync found, of every
// directory the names that its own last fsync found.
type simFiles struct {
	s    *simNode
	w    *simWorld
	dice *simDice

	root   string // of all lives
	dir    string // of this one: each has a copy, as the one before may still write
	lives  int
	top    *simInode // of dir
	inodes []*simInode
	node   *Node     // of the process
	died   *simEntry // what the files held when the process died in an fsync
	failed bool      // an fsync of the process has failed

	bootstraps bool // the process has no log yet, and does not run in the steps of the scheduler
}

// simInode is a file or a directory, whatever its name is now.
type simInode struct {
	file *os.File    // holds the inode of this life; nil when nothing of this life has it
	info os.FileInfo // of file

	isDir bool
	data  []byte               // durable, of a file
	clean []byte               // what a file held when an fsync of it failed; nil when none did
	names map[string]*simInode // durable, of a directory
}

// simEntry is one file or directory as somebody found it.
type simEntry struct {
	inode *simInode
	data  []byte
	names map[string]*simEntry
}

func newSimFiles(s *simNode) *simFiles {
	f := &simFiles{s: s, w: s.w, dice: newSimDice(s.w), root: filepath.Join(s.w.root, fmt.Sprintf("n%d", s.id))}
	f.top = &simInode{isDir: true, names: map[string]*simInode{}}
	f.revive(&simEntry{inode: f.top, names: map[string]*simEntry{}})
	return f
}

// must ends the test when the files cannot be kept: that is no fault of the program.
func (f *simFiles) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("the files of a simulation: %v", err))
	}
}

// inode finds that of a file of this life.
func (f *simFiles) inode(path string) *simInode {
	info, err := os.Lstat(path)
	f.must(err)
	for _, i := range f.inodes {
		if os.SameFile(i.info, info) {
			return i
		}
	}
	i := &simInode{isDir: info.IsDir()}
	if i.isDir {
		i.names = map[string]*simInode{}
	}
	f.bind(i, path)
	return i
}

// bind makes an inode that of a file of this life.
func (f *simFiles) bind(i *simInode, path string) {
	var err error
	i.file, err = os.Open(path)
	f.must(err)
	i.info, err = i.file.Stat()
	f.must(err)
	f.inodes = append(f.inodes, i)
}

// sync is an fsync of a file or a directory. The process may die in it, and then
// nothing that it does counts any more.
func (f *simFiles) sync(path string) error {
	if err := f.alive(); err != nil {
		return err
	}
	f.wait()
	often := 1.0
	if !strings.HasSuffix(path, ".wal") && !f.ofValues(path) {
		often = 8 // all others are rare
	}
	broken, after := f.dice.breaks(often)
	switch {
	case !broken:
		f.persist(path)
		return nil
	case after:
		f.persist(path)
	case f.w.mayFail(f.s):
		return f.fail(path)
	}
	f.ends()
	return errSimDisk
}

// ends makes nothing count that the process does from now on.
func (f *simFiles) ends() {
	f.died = f.capture()
	f.s.die()
}

// fail lets an fsync fail. The system takes what it could not write for written from
// then on: only what is written again comes to the disk with a later fsync.
func (f *simFiles) fail(path string) error {
	f.failed = true
	if i := f.inode(path); !i.isDir {
		i.clean = f.content(i)
	}
	return &os.PathError{Op: "sync", Path: path, Err: errSimDisk}
}

// reached returns what an fsync that finds this in the page cache makes durable.
func (i *simInode) reached(now []byte) []byte {
	if i.clean == nil {
		return now
	}
	b := bytes.Clone(now)
	for at := 0; at < len(b); at += simPage {
		end := min(at+simPage, len(b))
		if bytes.Equal(b[at:end], i.clean[min(at, len(i.clean)):min(end, len(i.clean))]) {
			clear(b[at:end])
			copy(b[at:end], i.data[min(at, len(i.data)):])
		}
	}
	return b
}

// wait lets what the process does beside come to rest: the log makes its next segment on
// a goroutine of its own.
func (f *simFiles) wait() { f.w.quiet() }

// alive returns an error when the process has died, or must: etcd's log cannot be given
// the error of an fsync that it has done already, so it is returned here in its place.
func (f *simFiles) alive() error {
	switch {
	case f.died != nil && f.failed:
		return (&walDisk{walDir: walDir(f.dir)}).walErr(errSimDisk)
	case f.died != nil:
		return errSimDisk
	}
	return nil
}

// etcdSynced is called after an fsync of etcd's.
func (f *simFiles) etcdSynced(path string) {
	if f.sync(path) != nil && f.died == nil {
		f.ends()
	}
}

// persist makes durable what a file or directory holds.
func (f *simFiles) persist(path string) {
	i := f.inode(path)
	if !i.isDir {
		i.data = i.reached(f.content(i))
		return
	}
	i.names = map[string]*simInode{}
	for _, name := range f.list(path) {
		i.names[name] = f.inode(filepath.Join(path, name))
	}
}

func (f *simFiles) content(i *simInode) []byte {
	info, err := i.file.Stat()
	f.must(err)
	b := make([]byte, info.Size())
	n, err := i.file.ReadAt(b, 0)
	if err != io.EOF {
		f.must(err)
	}
	return b[:n]
}

func (f *simFiles) list(dir string) []string {
	entries, err := os.ReadDir(dir)
	f.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// capture returns what all files hold now.
func (f *simFiles) capture() *simEntry {
	f.wait()
	return f.entry(f.dir)
}

func (f *simFiles) entry(path string) *simEntry {
	e := &simEntry{inode: f.inode(path)}
	if !e.inode.isDir {
		e.data = f.content(e.inode)
		return e
	}
	e.names = map[string]*simEntry{}
	for _, name := range f.list(path) {
		e.names[name] = f.entry(filepath.Join(path, name))
	}
	return e
}

// crash ends a life of the machine's processes. When only they die, the page cache
// stays as it is, and what was not synced is still not. When the power goes, the
// next life finds what was durable, and of the rest what dice say.
func (f *simFiles) crash(r *rand.Rand, power bool) {
	found := f.died
	if found == nil {
		found = f.capture()
	}
	if f.node != nil && f.node.disk != nil {
		_ = f.node.disk.close() // it may write: that was not to be
	}
	for _, i := range f.inodes {
		i.file.Close()
		i.file, i.info = nil, nil
	}
	f.inodes, f.died, f.node, f.failed = nil, nil, nil, false
	if f.w.over {
		return
	}
	if power {
		cached := map[*simInode]*simEntry{}
		found.each(func(e *simEntry) { cached[e.inode] = e })
		found = f.lose(r, f.top, cached, false)
	}
	f.must(os.RemoveAll(f.dir))
	f.revive(found)
}

func (e *simEntry) each(do func(*simEntry)) {
	do(e)
	for _, sub := range e.names {
		sub.each(do)
	}
}

// revive makes the files of the next life.
func (f *simFiles) revive(e *simEntry) {
	f.lives++
	f.dir = filepath.Join(f.root, fmt.Sprint(f.lives))
	f.must(os.MkdirAll(f.root, 0o700))
	f.write(f.dir, e)
}

func (f *simFiles) write(path string, e *simEntry) {
	if e.inode.isDir {
		f.must(os.Mkdir(path, 0o700))
		for name, sub := range e.names {
			f.write(filepath.Join(path, name), sub)
		}
	} else {
		f.must(os.WriteFile(path, bytes.TrimRight(e.data, "\x00"), 0o600))
		f.must(os.Truncate(path, int64(len(e.data))))
	}
	f.bind(e.inode, path)
}

// lose returns what a power cut leaves of a file or directory, which is durable
// then. anyOrder: names that were removed from a directory are gone or not, each for itself.
func (f *simFiles) lose(r *rand.Rand, i *simInode, cached map[*simInode]*simEntry, anyOrder bool) *simEntry {
	left, now := &simEntry{inode: i}, cached[i]
	if !i.isDir {
		left.data = i.data
		if now != nil {
			left.data = loseBytes(r, f.w.p.shuffled, i.data, i.reached(now.data))
		}
		i.data, i.clean = left.data, nil
		return left
	}
	if now != nil {
		i.names = loseNames(r, i.names, now.names, anyOrder)
	}
	left.names = map[string]*simEntry{}
	for _, name := range slices.Sorted(maps.Keys(i.names)) {
		left.names[name] = f.lose(r, i.names[name], cached, name == valuesDir)
	}
	return left
}

// loseNames returns what a power cut leaves of a directory. A name that was given or
// moved is there or not, each for itself. Names that were removed go in the order
// in which that was done: file systems keep to it, and the log relies on that. In a
// directory whose names are removed in any order, each goes for itself.
func loseNames(r *rand.Rand, was map[string]*simInode, now map[string]*simEntry, anyOrder bool) map[string]*simInode {
	left, before, after := maps.Clone(was), map[*simInode]string{}, map[*simInode]bool{}
	for name, i := range was {
		before[i] = name
	}
	for _, e := range now {
		after[e.inode] = true
	}
	var removed []string
	for name, i := range was {
		if now[name] == nil && !after[i] {
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	if anyOrder {
		r.Shuffle(len(removed), func(i, j int) { removed[i], removed[j] = removed[j], removed[i] })
	}
	for _, name := range removed[:r.IntN(len(removed)+1)] {
		delete(left, name)
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		i := now[name].inode
		if was[name] == i || r.IntN(2) == 0 {
			continue
		}
		if old, ok := before[i]; ok && left[old] == i {
			delete(left, old)
		}
		left[name] = i
	}
	return left
}

// Files are written by the page, and a page that was being written when the power
// went by the sector.
const (
	simPage   = 4096
	simSector = 512
)

// loseBytes returns what a power cut leaves of a file. Either its pages are written in
// any order (shuffled), or from the first to the last.
func loseBytes(r *rand.Rand, shuffled bool, was, now []byte) []byte {
	if bytes.Equal(was, now) {
		return was
	}
	size := len(was)
	if r.IntN(2) == 0 {
		size = len(now)
	}
	left := make([]byte, max(len(was), len(now)))
	copy(left, was)
	var sectors []int // that differ
	for at := 0; at < len(left); at += simSector {
		if !bytes.Equal(sectorAt(was, at), sectorAt(now, at)) {
			sectors = append(sectors, at)
		}
	}
	kept := r.IntN(len(sectors) + 1)
	page, fate := -1, 0
	for n, at := range sectors {
		if at/simPage != page {
			page, fate = at/simPage, r.IntN(3)
		}
		if shuffled && (fate == 0 || fate == 1 && r.IntN(2) == 0) || !shuffled && n >= kept {
			continue
		}
		clear(left[at:min(at+simSector, len(left))])
		copy(left[at:], sectorAt(now, at))
	}
	return left[:size]
}

// sectorAt returns what a file holds there, without the zeros at its end.
func sectorAt(b []byte, at int) []byte {
	if at >= len(b) {
		return nil
	}
	return bytes.TrimRight(b[at:min(at+simSector, len(b))], "\x00")
}

// simFsyncs is told of each fsync of etcd's log, when it is done: it takes the place of
// the histogram in which the log notes how long they take.
type simFsyncs struct {
	prometheus.Histogram
	synced func(f *simFiles)
	files  *simFiles // of the process that runs; nil outside of simulations
}

// Observe implements prometheus.Histogram.
func (h *simFsyncs) Observe(seconds float64) {
	if h.files == nil {
		h.Histogram.Observe(seconds)
		return
	}
	h.synced(h.files)
}

//go:linkname walFsyncSec go.etcd.io/etcd/server/v3/wal.walFsyncSec
var walFsyncSec prometheus.Histogram

//go:linkname snapFsyncSec go.etcd.io/etcd/server/v3/etcdserver/api/snap.snapFsyncSec
var snapFsyncSec prometheus.Histogram

var (
	simWalFsyncs  = &simFsyncs{Histogram: walFsyncSec, synced: (*simFiles).walSynced}
	simSnapFsyncs = &simFsyncs{Histogram: snapFsyncSec, synced: (*simFiles).snapSynced}
)

func init() { walFsyncSec, snapFsyncSec = simWalFsyncs, simSnapFsyncs }

// running says whose process runs until the returned func is called.
func (f *simFiles) running() (end func()) {
	simWalFsyncs.files, simSnapFsyncs.files = f, f
	return func() { simWalFsyncs.files, simSnapFsyncs.files = nil, nil }
}

// walSynced is called by etcd's log after an fsync.
func (f *simFiles) walSynced() {
	pc := make([]uintptr, 1)
	runtime.Callers(3, pc)
	frame, _ := runtime.CallersFrames(pc).Next()
	switch by := frame.Function[strings.LastIndexByte(frame.Function, '.')+1:]; by {
	case "sync":
		if tail := f.walTail(); !f.doomed(tail) {
			f.etcdSynced(tail)
		}
	case "cut":
		f.etcdSynced(walDir(f.dir))
	case "Create":
		f.etcdSynced(f.dir)
	default:
		panic("an fsync of etcd's log in " + by + ": of which file?")
	}
}

// walTail returns the segment that etcd's log writes to.
func (f *simFiles) walTail() string {
	if d, ok := f.node.disk.(*walDisk); ok {
		locks := (*[]*fileutil.LockedFile)(unsafe.Pointer(reflect.ValueOf(d.wal).Elem().FieldByName("locks").UnsafeAddr()))
		return (*locks)[len(*locks)-1].Name()
	}
	for _, dir := range []string{walDir(f.dir) + ".tmp", walDir(f.dir)} { // it is being made
		if names, err := fileNames(dir, ".wal"); err == nil && len(names) > 0 {
			return filepath.Join(dir, names[len(names)-1])
		}
	}
	panic("an fsync of etcd's log, and there is none")
}

// snapSynced is called by etcd's Snapshotter after an fsync, of the file that is not yet
// durable.
func (f *simFiles) snapSynced() {
	names, err := fileNames(snapDir(f.dir), ".snap")
	f.must(err)
	path := filepath.Join(snapDir(f.dir), names[len(names)-1])
	for _, name := range names {
		at := filepath.Join(snapDir(f.dir), name)
		if i := f.inode(at); !bytes.Equal(i.data, f.content(i)) {
			path = at
		}
	}
	f.etcdSynced(path)
}
