package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server"
)

// devMarker marks a directory as a local cluster's. Nothing is ever deleted in a directory
// without it.
const devMarker = "dev.json"

// devRecord is the content of devMarker.
type devRecord struct {
	Format   int `json:"format"`
	PeerPort int `json:"peer_port"` // the first of three; the nodes remember one another's
}

const devFormat = 1

// devData is the directory of a local cluster's data.
type devData struct{ path string }

func (d devData) member(name string) string { return filepath.Join(d.path, name) }

func devNames() []string {
	var names []string
	for i := range devNodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	return names
}

// peerPort returns the first peer port of existing data, zero for a new directory. It refuses
// a directory with other data.
func (d devData) peerPort() (int, error) {
	r, err := d.record()
	if errors.Is(err, fs.ErrNotExist) {
		return d.foundedAt()
	}
	return r.PeerPort, err
}

// peersFrom returns where peerPort found the port.
func (d devData) peersFrom() string {
	if _, err := d.record(); err == nil {
		return filepath.Join(d.path, devMarker)
	}
	return "the data in " + d.path
}

func (d devData) record() (devRecord, error) {
	var r devRecord
	at := filepath.Join(d.path, devMarker)
	b, err := os.ReadFile(at)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Format != devFormat || r.PeerPort < 1 || r.PeerPort > 65535 {
		return r, fmt.Errorf("%s cannot be read as format %d; delete this file, and the next start writes a new one", at, devFormat)
	}
	return r, nil
}

// mark marks a directory as a local cluster's.
func (d devData) mark(peerPort int) error {
	b, err := json.Marshal(devRecord{Format: devFormat, PeerPort: peerPort})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	at := filepath.Join(d.path, devMarker)
	if err := os.WriteFile(at+".tmp", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("mark the data directory: %w", err)
	}
	if err := os.Rename(at+".tmp", at); err != nil {
		return fmt.Errorf("mark the data directory: %w", err)
	}
	return nil
}

// foundedAt returns the first peer port of a cluster of n1, n2 and n3 on this machine, as
// older programs and the Procfile make it; zero if there is no data. It refuses the data of
// any other store.
func (d devData) foundedAt() (int, error) {
	port, stranger := 0, ""
	for _, name := range devNames() {
		dir := d.member(name)
		if !raftnode.HasIdentity(dir) {
			continue
		}
		founders, err := raftnode.Founders(dir)
		if isOtherVersion(err) {
			return 0, err
		}
		if err != nil { // damaged; the others may tell
			stranger = dir
			continue
		}
		if at := firstPeerPort(founders); at != 0 {
			port = at
		} else if len(founders) > 0 {
			stranger = dir
		}
	}
	if port == 0 && stranger != "" {
		return 0, fmt.Errorf("%s belongs to another store, not to a local cluster of %s; choose another directory with --data-dir", stranger, strings.Join(devNames(), ", "))
	}
	return port, nil
}

// firstPeerPort returns the first peer port if these founders form a local cluster, else zero.
func firstPeerPort(founders []raftnode.Member) int {
	first := 0
	names := devNames()
	if len(founders) != len(names) {
		return 0
	}
	for _, m := range founders {
		i := slices.Index(names, m.Name)
		u, err := url.Parse(m.PeerURL)
		if i < 0 || err != nil {
			return 0
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil || first != 0 && port-i != first {
			return 0
		}
		first = port - i
	}
	return first
}

// reset deletes all data of a local cluster. It deletes nothing if the directory holds
// anything else, or if a local cluster runs on it.
func (d devData) reset() error {
	if _, err := d.record(); errors.Is(err, fs.ErrNotExist) {
		port, err := d.foundedAt()
		if err != nil {
			return err
		}
		if port == 0 {
			return d.nothingThere()
		}
	}
	for _, name := range devNames() {
		if err := server.CheckDataDir(d.member(name)); err != nil {
			return err
		}
	}
	for _, name := range devNames() {
		if err := server.EmptyDataDir(d.member(name)); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(d.path, devMarker))
}

// nothingThere returns nil if no member has data, else an error that the data is not a local
// cluster's.
func (d devData) nothingThere() error {
	for _, name := range devNames() {
		entries, err := os.ReadDir(d.member(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at the data directory: %w", err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s does not belong to a local cluster, so nothing in it is deleted; choose another directory with --data-dir, or delete it yourself", d.member(name))
		}
	}
	return nil
}
