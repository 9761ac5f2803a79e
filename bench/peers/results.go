package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// takeResults writes the content of result files in the requested forms.
func takeResults(s settings, w io.Writer) error {
	runs, err := readResults(s.Results)
	if err != nil {
		return err
	}
	r := merged(runs)
	if len(s.Documents) == 0 {
		if len(runs) == 0 {
			return fmt.Errorf("there is no result file in %s: measure with -json", strings.Join(s.Results, ", "))
		}
		return r.write(s, w)
	}
	for _, path := range s.Documents {
		if err := r.writeDocument(path); err != nil {
			return err
		}
	}
	if s.SVG != "" {
		return r.writePictures(s.SVG, "")
	}
	return nil
}

// readResults reads result files, and the *.json files in directories.
func readResults(paths []string) ([]*report, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		below, err := filepath.Glob(filepath.Join(path, "*.json"))
		if err != nil {
			return nil, err
		}
		files = append(files, below...)
	}
	var runs []*report
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		r := &report{}
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("%s is no result file: %w", file, err)
		}
		if r.Machine.Time.IsZero() {
			return nil, errors.New(file + " is no result file: it does not say when it was measured")
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// merged returns one report of several runs. If several have measured something, the newest
// counts.
func merged(runs []*report) *report {
	runs = slices.Clone(runs)
	slices.SortStableFunc(runs, func(a, b *report) int { return a.Machine.Time.Compare(b.Machine.Time) })
	all := &report{}
	for _, r := range runs {
		all.Machine, all.Oncekv, all.Settings = r.Machine, r.Oncekv, r.Settings
		for i := range r.Findings {
			r.Findings[i].run = r
		}
		all.Findings = update(all.Findings, r.Findings, func(f finding) string { return f.Name })
		all.Cases = update(all.Cases, r.Cases, func(c *result) string { return c.Name })
		all.Curves = update(all.Curves, r.Curves, func(c curve) string { return c.Name + ": " + c.Figure })
		if len(r.Resident) > 0 {
			all.Resident = r.Resident
		}
	}
	slices.SortStableFunc(all.Findings, func(a, b finding) int { return cmp.Compare(partNumber(a.Part), partNumber(b.Part)) })
	slices.SortStableFunc(all.Cases, func(a, b *result) int { return cmp.Compare(partNumber(a.Part), partNumber(b.Part)) })
	all.addMedians()
	for _, r := range runs {
		if all.hasOf(r) {
			all.runs = append(all.runs, r)
		}
	}
	return all
}

// update replaces what newer has as well, by name, and adds the rest.
func update[T any](all, newer []T, name func(T) string) []T {
	for _, one := range newer {
		if i := slices.IndexFunc(all, func(t T) bool { return name(t) == name(one) }); i >= 0 {
			all[i] = one
		} else {
			all = append(all, one)
		}
	}
	return all
}

// hasOf reports whether something of a run is in the report.
func (r *report) hasOf(run *report) bool {
	return slices.ContainsFunc(run.Cases, func(c *result) bool { return slices.Contains(r.Cases, c) }) ||
		slices.ContainsFunc(r.Findings, func(f finding) bool { return f.run == run })
}

// partNumber returns the position of a part in parts.
func partNumber(name string) int {
	return slices.IndexFunc(parts, func(p part) bool { return p.name == name })
}
