// Package broken breaks the program on purpose: negative controls for the tests that guard it.
// It compiles from an overlay of the source (go help build, -overlay), so no real program
// contains it.
package broken

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Control is one way to break the program: a replacement in one of its files.
type Control struct {
	Name     string
	File     string // below the module's root
	Old, New string // Old is there exactly once
}

// Overlay writes the broken file and returns the path of an overlay for the go command. root
// is the absolute path of the module's root.
func (c *Control) Overlay(t testing.TB, root string) string {
	t.Helper()
	return Overlay(t, root, *c)
}

// Overlay is Control.Overlay for several changes at once, even in one file.
func Overlay(t testing.TB, root string, controls ...Control) string {
	t.Helper()
	dir := t.TempDir()
	sources, files := map[string][]byte{}, map[string]string{}
	for _, c := range controls {
		path := filepath.Join(root, c.File)
		source, seen := sources[path]
		if !seen {
			var err error
			if source, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			files[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(files)))
		}
		changed, err := c.apply(source)
		if err != nil {
			t.Fatal(err)
		}
		sources[path] = changed
	}
	for path, source := range sources {
		if err := os.WriteFile(files[path], source, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": files})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}

// apply returns the broken source of the control's file.
func (c *Control) apply(source []byte) ([]byte, error) {
	if n := bytes.Count(source, []byte(c.Old)); n != 1 {
		return nil, fmt.Errorf("%s has %q %d times: the control does not fit the source any more", c.File, c.Old, n)
	}
	if c.Old == c.New {
		return nil, fmt.Errorf("the control changes nothing of %s", c.File)
	}
	return bytes.Replace(source, []byte(c.Old), []byte(c.New), 1), nil
}

// Check fails the test for each control that breaks nothing any more: its text is not exactly
// once in its file, it changes nothing, or its package no longer compiles. Check takes seconds
// where running the controls takes minutes, so it belongs in a test that always runs.
func Check(t *testing.T, root string, controls []Control) {
	t.Helper()
	var dirs []string
	for _, c := range controls {
		dirs = append(dirs, filepath.Dir(c.File))
	}
	slices.Sort(dirs)
	m, err := LoadModule(root, slices.Compact(dirs)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		if err := m.fits(&c); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func (m *Module) fits(c *Control) error {
	p := m.Package(filepath.Dir(c.File))
	i := slices.IndexFunc(p.Sources, func(s *Source) bool { return s.Name == filepath.Clean(c.File) })
	if i < 0 {
		return fmt.Errorf("there is no %s in what is compiled", c.File)
	}
	changed, err := c.apply(p.Sources[i].Text)
	if err != nil {
		return err
	}
	if _, err := p.Check(map[string][]byte{p.Sources[i].Name: changed}); err != nil {
		return fmt.Errorf("it does not compile: %w", err)
	}
	return nil
}
