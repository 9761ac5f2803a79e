// Package broken breaks the program on purpose: negative controls for the tests
// that watch over it. What it makes is compiled from an overlay of the source
// (go help build, -overlay), so nothing of it is in any program.
package broken

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Control is one way to break the program: a replacement in one of its files.
type Control struct {
	Name     string
	File     string // below the module's root
	Old, New string // Old is there exactly once
}

// Overlay writes the broken file and returns the path of an overlay that the go
// command takes. root is the module's root, an absolute path.
func (c *Control) Overlay(t testing.TB, root string) string {
	t.Helper()
	path := filepath.Join(root, c.File)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), c.Old); n != 1 {
		t.Fatalf("%s has %q %d times: the control does not fit the source any more", c.File, c.Old, n)
	}
	dir := t.TempDir()
	file, list := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: file}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(source), c.Old, c.New, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}
