package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

const (
	imageDisk = 400 << 20
	// filledDisk is the size of a sparse disk, whose allocated room is not written. It is far
	// more than an episode writes: only the filler fills it.
	filledDisk = 4 << 30
)

// diskRows are faults of working disks, and of the power.
func diskRows() []row {
	cutting := plan{chunked: true, flags: []string{"--snapshot-log-bytes", "64KiB"}} // the log, again and again
	images := plan{image: imageDisk, chunked: true, flags: []string{"--disk-reserve-bytes", "0"}}
	return append([]row{
		{name: "slow-disk-leader", attack: func(e *episode) { e.slowDisk(e.world.leader()) }},
		{name: "slow-disk-follower", attack: func(e *episode) { e.slowDisk(e.follower()) }},
		{name: "full-disk", plan: plan{image: filledDisk, valueBytes: 128 << 10, flags: []string{"--disk-reserve-bytes", "0"}}, attack: fullDisk},
		{name: "full-disk-reserve", plan: plan{image: filledDisk, flags: []string{"--disk-reserve-bytes", "20MiB"}}, attack: fullDiskReserve},
		{name: "fsync-error-wal", attack: func(e *episode) { e.fsyncError("wal/*.wal") }},
		{name: "fsync-error-history", attack: func(e *episode) { e.fsyncError("history.db") }},
		{name: "fsync-error-snapshot", plan: cutting, attack: func(e *episode) { e.fsyncError("snap") }},
		{name: "fsync-error-start", plan: cutting, attack: fsyncErrorAtStart},
		{name: "fsync-error-staging", plan: plan{databases: 3, flags: []string{"--snapshot-log-bytes", "1MiB"}}, attack: fsyncErrorStaging},
		{name: "power-cut-one", plan: images, attack: func(e *episode) { e.powerCut(e.anyDB()) }},
		{name: "power-cut-all", plan: images, attack: func(e *episode) { e.powerCut(e.world.dbs...) }},
		{name: "power-cut-log-only", plan: images, attack: powerCutLogOnly},
		{name: "unplugged-disk", plan: images, attack: unpluggedDisk},
	}, damageRows()...)
}

// slowDisk makes every flush of one node slow.
func (e *episode) slowDisk(victim *node) {
	delay := 50 + e.rng.IntN(350)
	e.t.Logf("every flush of %s takes %d ms longer", victim.Name, delay)
	tr := clustertest.Tamper(e.t, victim.PID(), fmt.Sprintf("delay_exit=%d", 1000*delay), "")
	e.hold(2*time.Second, 4*time.Second)
	e.progress(10)
	tr.End()
	e.writesBack("with a fast disk again", e.history.now(), backAfterHeal, e.world.dbs...)
}

// fullDisk takes the last byte. The node must stop rather than guess, and come back when there
// is room.
func fullDisk(e *episode) {
	victim := e.anyDB()
	filler := e.fill(victim, 0)
	e.ends(victim, "no space left on device")
	since := e.history.now()
	e.writesBack("with one disk full", since, backAfterKill, e.world.others(victim)...)
	if err := os.RemoveAll(filler); err != nil {
		e.t.Fatal(err)
	}
	victim.Start()
	e.writesBack("with room on the disk", e.history.now(), backAfterHeal, victim)
}

// fullDiskReserve leaves less than the reserve. Puts are refused everywhere, nobody stops,
// reads go on, and puts work again when there is room.
func fullDiskReserve(e *episode) {
	set := e.setEverywhere(10)
	victim := e.anyDB()
	filler := e.fill(victim, 10<<20)
	for _, d := range e.world.dbs {
		p := newProber("reserve", d, e.history, attemptPatience)
		clustertest.Eventually(e.t, d.Name+" refuses puts", func() error {
			status := e.probeKey(p, "reserve", func(key string) int { return p.put(context.Background(), key, []byte(key), false) })
			if status != http.StatusInsufficientStorage {
				return fmt.Errorf("it answered %d", status)
			}
			return nil
		})
		for _, key := range set {
			e.mustFind(p, key)
		}
	}
	e.hold(0, time.Second)
	if err := os.RemoveAll(filler); err != nil {
		e.t.Fatal(err)
	}
	e.writesBack("with room on the disk", e.history.now(), backAfterHeal, e.world.dbs...)
}

// fill leaves so many bytes of a node's disk free, and returns the file to remove. It
// allocates room without writing it, so the image stays sparse.
func (e *episode) fill(n *node, leave int64) string {
	e.t.Helper()
	var files []string
	dir := filepath.Join(n.disk.point, "filler")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.t.Fatal(err)
	}
	free := func() int64 { return freeBytes(e.t, n.disk.point) }
	for size := int64(64 << 20); size >= 4096; size /= 2 {
		for free() >= leave+size {
			name := filepath.Join(dir, fmt.Sprint(len(files)))
			if err := command("", "fallocate", "-l", fmt.Sprint(size), name); err != nil {
				break
			}
			files = append(files, name)
		}
	}
	e.t.Logf("%s has %d bytes of disk left", n.Name, free())
	all := filepath.Join(n.disk.point, "all")
	if err := os.Rename(dir, all); err != nil {
		e.t.Fatal(err)
	}
	return all
}

// fsyncError makes one kind of flush fail on one node. The node must stop at once and name the
// file. It refuses to start again, because nobody knows what its disk holds, and is replaced.
func (e *episode) fsyncError(glob string) {
	victim := e.anyDB()
	path := newest(e, filepath.Join(victim.Dir, glob))
	tr := clustertest.Tamper(e.t, victim.PID(), "error=EIO", path)
	since := e.history.now()
	e.endsWith(codeDiskFailed, victim, filepath.Base(path), "input/output error")
	tr.End()
	e.t.Logf("%s stopped %v after its disk had begun to fail", victim.Name, e.history.now()-since)
	e.staysDown(victim, path)
}

// fsyncErrorAtStart makes flushes of a file fail that a node finds at its start, or of the
// directory that holds it.
func fsyncErrorAtStart(e *episode) {
	victim := e.anyDB()
	e.snapshots(victim)
	kill(victim)
	e.flushIndex(victim)
	globs := []string{"identity", "history.db", indexDir + "/*.run", indexDir, "wal/*.wal", "wal", "snap/*.snap", "snap", ""}
	path := newest(e, filepath.Join(victim.Dir, globs[e.rng.IntN(len(globs))]))
	under := victim.Under
	victim.Under = append(append([]string(nil), under...), clustertest.FailingFlushes(path)...)
	victim.Start()
	e.endsWith(codeDiskFailed, victim, path, "input/output error")
	victim.Under = under
	e.staysDown(victim, path)
}

// fsyncErrorStaging makes the flushes of what a node pulls fail.
func fsyncErrorStaging(e *episode) {
	victim := e.follower()
	kill(victim)
	e.bulk(e.world.others(victim)...)
	path := filepath.Join(victim.Dir, "staging.db")
	under := victim.Under
	victim.Under = append(append([]string(nil), under...), clustertest.FailingFlushes(path)...)
	victim.Start()
	e.endsWith(codeDiskFailed, victim, path, "input/output error")
	victim.Under = under
	e.staysDown(victim, path)
}

// staysDown starts a node whose disk failed, which must refuse, and replaces it.
func (e *episode) staysDown(n *node, path string) {
	e.t.Helper()
	n.Start()
	e.endsWith(codeDiskFailed, n, filepath.Base(path), filepath.Join(n.Dir, "failed"))
	e.writesBack("with a node stopped by its disk", e.history.now(), backAfterKill, e.world.others(n)...)
	e.replace(n)
}

func newest(e *episode, glob string) string {
	e.t.Helper()
	names, err := filepath.Glob(glob)
	if err != nil || len(names) == 0 {
		e.t.Fatalf("no %s: %v", glob, err)
	}
	return slices.Max(names)
}

// powerCut loses everything that some nodes have not flushed, at a random moment.
func (e *episode) powerCut(victims ...*node) {
	for round := range 2 {
		e.pass(time.Duration(e.rng.Int64N(int64(300 * time.Millisecond))))
		e.losePower(nil, victims...)
		since := e.history.now()
		for _, v := range victims {
			v.Start()
		}
		e.writesBack(fmt.Sprintf("after power cut %d", round+1), since, 2*backAfterHeal, e.world.dbs...)
	}
}

// losePower loses everything that nodes have not flushed, and the nodes with it. It stops them
// first: an fdatasync under way when ext4 shuts down may succeed although nothing was written
// (its extent could no longer be converted, so there is no transaction to wait for), and after
// a real power cut nobody would see that success. Tracers have to end before the processes
// they hold.
func (e *episode) losePower(tracers []*clustertest.Tracer, victims ...*node) {
	e.t.Helper()
	for _, v := range victims {
		v.halt(e.t, "RS")
		v.disk.unplug()
		v.Signal(syscall.SIGKILL)
	}
	for _, tr := range tracers {
		tr.Stop(syscall.SIGKILL)
	}
	kill(victims...)
	for _, v := range victims {
		v.disk.replug()
	}
}

// logOnly is the least number of entries that a power cut finds only in the log.
const logOnly = 20

// powerCutLogOnly keeps all database nodes from finishing a commit to history while puts are
// acknowledged, and then cuts their power. The acknowledged puts are only in their logs.
func powerCutLogOnly(e *episode) {
	var tracers []*clustertest.Tracer
	for _, d := range e.world.dbs {
		tracers = append(tracers, clustertest.Tamper(e.t, d.PID(), fmt.Sprintf("delay_enter=%d", (4*clustertest.Patience).Microseconds()), filepath.Join(d.Dir, "history.db")))
	}
	e.progress(logOnly)
	for _, d := range e.world.dbs {
		clustertest.Eventually(e.t, d.Name+" has entries in its log alone", func() error {
			s, err := d.Stats()
			if err == nil && s.AppliedIndex < s.DurableIndex+logOnly {
				err = fmt.Errorf("entry %d is applied, and history has entry %d", s.AppliedIndex, s.DurableIndex)
			}
			return err
		})
	}
	e.losePower(tracers, e.world.dbs...)
	since := e.history.now()
	for _, d := range e.world.dbs {
		d.Start()
	}
	e.writesBack("after a power cut that left the log alone", since, 2*backAfterHeal, e.world.dbs...)
}

// unpluggedDisk takes the disk from under a running node. The node must notice by itself and
// say so. It is stopped meanwhile, with no flush under way: see losePower. Messages from the
// others wait to be written.
func unpluggedDisk(e *episode) {
	victim := e.anyDB()
	victim.halt(e.t, "RSD")
	victim.frozen = true
	e.progress(5)
	since := e.history.now()
	victim.disk.unplug()
	victim.thaw()
	e.endsWith(codeDiskFailed, victim, "input/output error")
	e.t.Logf("%s stopped %v after its disk was gone", victim.Name, e.history.now()-since)
	e.writesBack("with a node stopped by its disk", since, backAfterKill, e.world.others(victim)...)
	victim.disk.replug()
	victim.Start()
	e.writesBack("with the disk back", e.history.now(), backAfterHeal, victim)
}
