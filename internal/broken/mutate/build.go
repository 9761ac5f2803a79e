package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/Focinfi/oncekv/internal/broken"
)

// find makes the mutants of all directories and an overlay with them.
func find(root, work string, dirs []string) (all []*mutant, overlay string, err error) {
	module, err := broken.LoadModule(root, dirs...)
	if err != nil {
		return nil, "", err
	}
	replaced := map[string]string{}
	write := func(name string, text []byte) error {
		path := filepath.Join(work, strings.ReplaceAll(name, "/", "__"))
		replaced[filepath.Join(root, name)] = path
		return os.WriteFile(path, text, 0o600)
	}
	names := map[string]string{}
	for _, dir := range dirs {
		p := module.Package(dir)
		found, sources, err := mutate(p, len(all)+1)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", dir, err)
		}
		all, names[dir] = append(all, found...), p.Sources[0].File.Name.Name
		for name, text := range sources {
			if err := write(name, text); err != nil {
				return nil, "", err
			}
		}
	}
	for dir, name := range names {
		if err := write(filepath.Join(dir, "mutants_support.go"), support(name, len(all))); err != nil {
			return nil, "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return nil, "", err
	}
	overlay = filepath.Join(work, "overlay.json")
	return all, overlay, os.WriteFile(overlay, list, 0o600)
}

// build compiles the tests of a package with all mutants.
func build(ctx context.Context, root, work, overlay, dir string) (program string, err error) {
	program = filepath.Join(work, strings.ReplaceAll(dir, "/", "__")+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-ldflags", "-s -w", "-o", program, "./"+dir)
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests of %s: %w\n%s", dir, err, output)
	}
	return program, nil
}
