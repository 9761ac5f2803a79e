package raftnode

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// identity is who this node is. It is fsynced before the node's first message, and its raft
// ID never changes: a node that lost this file is another node.
type identity struct {
	Format    int       `json:"format"`
	Name      string    `json:"name"`
	ID        ID        `json:"id"`
	Birth     birth     `json:"birth"`
	ClusterID ID        `json:"cluster_id,omitempty"` // zero until the cluster is known
	Founders  []founder `json:"founders,omitempty"`   // of a cluster this node helped to form, by name
	Peers     []Member  `json:"peers,omitempty"`      // of a cluster this node joined, at that time
	// Started is true once WAL and state machine hold the node's first state. Until then
	// nothing was sent, and both are made anew.
	Started bool `json:"started,omitempty"`
	// Forced is how ClusterID came to be, when this node forced it; oldest first.
	Forced []Forcing `json:"forced,omitempty"`
	// Ended is how the cluster of this data was ended on another node.
	Ended *Forcing `json:"ended,omitempty"`
}

// identityFormat is that of this program. Format 1 is from before the first release.
const identityFormat = 2

const identityFile = "identity"

func identityPath(dir string) string { return filepath.Join(dir, identityFile) }

// IsFile reports whether a node keeps something of that name in its data
// directory.
func IsFile(name string) bool {
	switch name {
	case identityFile, identityFile + replacing, filepath.Base(walDir("")), filepath.Base(walDir("")) + replacing, filepath.Base(snapDir("")):
		return true
	}
	return false
}

// RemoveIdentity makes the node that starts on a data directory another one. It is no error
// if there is none.
func RemoveIdentity(dir string) error {
	if err := os.Remove(identityPath(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fsync.Sync(dir)
}

// HasIdentity reports whether a data directory belongs to a node. One that cannot be looked
// at does, so that nobody takes it for empty.
func HasIdentity(dir string) bool {
	_, err := os.Lstat(identityPath(dir))
	return !errors.Is(err, fs.ErrNotExist)
}

// Founders returns the members that formed the cluster to which a data directory
// belongs; none when it is new, or when its node joined a cluster that was there.
func Founders(dir string) ([]Member, error) {
	id, err := loadIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return membersOf(id.Founders), err
}

// loadIdentity reads dir's identity; fs.ErrNotExist if there is none.
func loadIdentity(dir string) (identity, error) {
	var id identity
	b, err := os.ReadFile(identityPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err != nil {
		return id, unusable(err, "read the identity")
	}
	var known struct{ Format int } // all that is the same in every format
	if err := json.Unmarshal(b, &known); err == nil && known.Format == 1 {
		return id, &level.EarlierError{What: "the data in " + dir}
	} else if err == nil && known.Format > identityFormat {
		return id, &level.LaterError{What: "the data in " + dir, Known: level.Highest}
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, unusable(fmt.Errorf("%s is not readable (%w)", identityPath(dir), err), "read the identity")
	}
	err = cmp.Or(id.Birth.check(), checkFounders(id.Founders))
	if id.Format != identityFormat || id.ID == 0 || id.Name == "" {
		err = fmt.Errorf("format %d, name %.64q, id %v", id.Format, id.Name, id.ID)
	}
	if err != nil {
		return id, unusable(fmt.Errorf("%s is not valid (%w)", identityPath(dir), err), "read the identity")
	}
	return id, nil
}

// replacing ends the name of a file that is about to replace another.
const replacing = ".tmp"

// save replaces the file so that a crash leaves the old or the new one.
func (id identity) save(dir string, sync syncFunc) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	path := identityPath(dir)
	tmp := path + replacing
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(append(b, '\n'))
		if err == nil {
			err = sync(tmp) // while it is open, so that no error in between is forgotten
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = sync(dir)
	}
	return writeErr(err, "save the identity")
}

// openIdentity returns the identity of a data directory, or makes and stores a new one. It
// refuses a directory of another name, one with a past that its identity, or the lack of
// one, does not know of, and one that is not what the identity says of it. What it returns
// is durable.
func openIdentity(cfg *Config, sm StateMachine) (identity, error) {
	dir, name := cfg.Dir, cfg.Name
	id, err := loadIdentity(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return id, err
	}
	if !missing && id.Name != name {
		return id, fmt.Errorf("the data directory %s belongs to node %s, not to %s; start it with --name %s or choose another --data-dir", dir, id.Name, name, id.Name)
	}
	if !id.Started {
		past, err := pastOf(dir, id, sm)
		if err != nil {
			return id, err
		}
		switch {
		case past != "" && missing:
			return id, fmt.Errorf("%w: %s is missing, but %s; without it this node does not know who it is; %s", errMixedUp, identityPath(dir), past, putBack)
		case past != "":
			return id, fmt.Errorf("%w: %s is from before the node's first start, but %s; %s", errMixedUp, identityPath(dir), past, putBack)
		}
	}
	if missing {
		id = identity{Format: identityFormat, Name: name, ID: ID(random64()), Birth: birth{Level: cfg.Level, Restored: originOf(sm)}}
		rand.Read(id.Birth.Nonce[:]) // never fails; see crypto/rand
		return id, id.save(dir, cfg.sync)
	}
	if err := errors.Join(id.checkLevel(dir, cfg.Level), id.checkState(dir, sm)); err != nil {
		return id, err
	}
	for _, path := range []string{identityPath(dir), dir} {
		if err := cfg.sync(path); err != nil {
			return id, writeErr(err, "make durable what was found")
		}
	}
	return id, nil
}

// checkLevel refuses a node that may have founded, or is about to found, a cluster of a
// level that this program does not know.
func (id *identity) checkLevel(dir string, known uint64) error {
	needs := id.Birth.Level // the others may have no lower one
	switch {
	case id.Started:
		return nil // the store knows
	case len(id.Founders) > 0:
		needs = lowestLevel(id.Founders)
	case id.ClusterID != 0:
		return nil
	}
	if needs > known {
		return later("the data in "+dir, needs, known)
	}
	return nil
}

// checkState refuses a restored state that differs from what the node has told others.
func (id *identity) checkState(dir string, sm StateMachine) error {
	durable, err := durableOf(sm)
	if err != nil {
		return err
	}
	is := originOf(sm)
	switch {
	case durable.index > 0: // it belongs to the log
		return nil
	case id.Started && is != (origin{}):
		return fmt.Errorf("%w: the state in %s was %s, but %s, the node that the directory belongs to, is a member of cluster %v and gets its state from there; %s", errMixedUp, dir, is.says(), id.Name, id.ClusterID, putBack)
	case !id.Started && is != id.Birth.Restored:
		return fmt.Errorf("%w: the state in %s is %s, but it was %s when the node was started there first, and that is what the node tells the others; empty the directory, restore into it again, and start the node again", errMixedUp, dir, is.says(), id.Birth.Restored.says())
	}
	return nil
}

// pastOf says what in dir shows that a node has promised something there, "" if nothing
// does. The identity says that there is no such thing, and log and store are then made
// anew. Those of a founder may hold the founding.
func pastOf(dir string, id identity, sm StateMachine) (string, error) {
	var index, term uint64
	if len(id.Founders) > 0 {
		index, term = firstIndex, firstTerm
	}
	durable, err := durableOf(sm)
	switch {
	case err != nil:
		return "", err
	case durable.index > index:
		return fmt.Sprintf("the store beside it has applied entry %d", durable.index), nil
	case durable.index > 0 && durable.members.cluster != id.ClusterID:
		return fmt.Sprintf("the store beside it belongs to cluster %v, and it to %v", durable.members.cluster, id.ClusterID), nil
	}
	report, err := walscan.Check(walDir(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, walscan.ErrNoSegments):
	case err != nil:
		return "", unusable(err, "check the log")
	case report.Entries > 0, report.SnapshotIndex > index, report.Term > term, report.Commit > index:
		return fmt.Sprintf("the log beside it reaches entry %d of term %d", max(report.LastIndex, report.SnapshotIndex), report.Term), nil
	}
	names, err := fileNames(snapDir(dir), ".snap")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", unusable(err, "list the snapshots")
	}
	for _, name := range names {
		var ofTerm, at uint64
		if _, err := fmt.Sscanf(name, "%016x-%016x.snap", &ofTerm, &at); err != nil || at > index {
			return fmt.Sprintf("there is a snapshot beside it, %s", name), nil
		}
	}
	return "", nil
}

// random64 returns a random number that is not zero.
func random64() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails; see crypto/rand
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}
