package raftnode

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// identity is who this node is. It is fsynced before the node's first message
// and the raft ID in it never changes: a node that lost this file is another
// node.
type identity struct {
	Format    int      `json:"format"`
	Name      string   `json:"name"`
	ID        ID       `json:"id"`
	ClusterID ID       `json:"cluster_id,omitempty"` // zero until the cluster is known
	Founders  []Member `json:"founders,omitempty"`   // of a cluster this node helped to form
	Peers     []Member `json:"peers,omitempty"`      // of a cluster this node joined, at that time
	// Started is true once WAL and state machine hold the node's first
	// state. Until then nothing was ever sent, and both are made anew.
	Started bool `json:"started,omitempty"`
	// Forced is how ClusterID came to be, when this node forced it; oldest first.
	Forced []Forcing `json:"forced,omitempty"`
	// Ended is how the cluster of this data was ended on another node.
	Ended *Forcing `json:"ended,omitempty"`
}

const identityFormat = 1

const identityFile = "identity"

func identityPath(dir string) string { return filepath.Join(dir, identityFile) }

// IsFile reports whether a node keeps something of that name in its data
// directory.
func IsFile(name string) bool {
	switch name {
	case identityFile, identityFile + replacing, filepath.Base(walDir("")), filepath.Base(snapDir("")):
		return true
	}
	return false
}

// RemoveIdentity makes a data directory nobody's: the node that starts on it is
// another one. It is no error that there is none.
func RemoveIdentity(dir string) error {
	if err := os.Remove(identityPath(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncPath(dir)
}

// HasIdentity reports whether a data directory belongs to a node: false when it
// is new, or was emptied, or is not there. One that cannot be looked at counts as a
// node's, so that nobody takes it for empty.
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
	return id.Founders, err
}

// loadIdentity reads dir's identity; fs.ErrNotExist if there is none.
func loadIdentity(dir string) (identity, error) {
	var id identity
	b, err := os.ReadFile(identityPath(dir))
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%w: %s is not readable (%v); replace this node: remove the member, empty the directory, join again", ErrDisk, identityPath(dir), err)
	}
	if id.Format != identityFormat || id.ID == 0 || id.Name == "" {
		return id, fmt.Errorf("%w: %s has format %d with id %v, this program knows format %d", ErrDisk, identityPath(dir), id.Format, id.ID, identityFormat)
	}
	return id, nil
}

// save replaces the file so that a crash leaves the old or the new one.
func (id identity) save(dir string, sync syncFunc) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := replaceFile(identityPath(dir), append(b, '\n'), sync); err != nil {
		return writeErr(err, "save the identity")
	}
	return nil
}

// replacing ends the name of a file that is about to replace another.
const replacing = ".tmp"

func replaceFile(path string, b []byte, sync syncFunc) error {
	tmp := path + replacing
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = sync(tmp) // while it is open, so that no error in between is forgotten
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return sync(filepath.Dir(path))
}

// openIdentity returns dir's identity, or makes and stores a new one. A
// directory that belongs to another name is refused. What it returns is durable.
func openIdentity(dir, name string, sync syncFunc) (identity, error) {
	id, err := loadIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id = identity{Format: identityFormat, Name: name, ID: ID(random64())}
		return id, id.save(dir, sync)
	}
	if err != nil {
		return id, err
	}
	if id.Name != name {
		return id, fmt.Errorf("the data directory %s belongs to node %s, not to %s; start it with --name %s or choose another --data-dir", dir, id.Name, name, id.Name)
	}
	for _, path := range []string{identityPath(dir), dir} {
		if err := sync(path); err != nil {
			return id, writeErr(err, "make durable what was found")
		}
	}
	return id, nil
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
