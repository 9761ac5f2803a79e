package raftnode

import (
	"os"
	"path/filepath"
	"testing"
)

// Only a directory in which there is surely nothing is nobody's.
func TestHasIdentity_CannotLook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if HasIdentity(dir) || HasIdentity(filepath.Join(dir, "absent")) {
		t.Error("a new directory belongs to a node")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !HasIdentity(file) {
		t.Error("what cannot be looked at passes for empty")
	}
}
