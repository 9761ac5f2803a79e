package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed is the limit of upward references in the packages that list their files; 0 for
// packages not named here. Numbers may only be lowered.
var allowed = map[string]int{"bodies": 2, "cachetier": 4, "client": 2, "httpapi": 3, "kvstore": 1, "raftnode": 5}

func TestRooms_NoMoreUpward(t *testing.T) {
	root := repository(t)
	dirs, err := listing(root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(dirs, "api") {
		t.Errorf("the packages that list their files are %q: without api, which does", dirs)
	}
	houses, err := load(root, dirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range houses {
		upward := h.upward(h.listed)
		switch n := len(upward); {
		case n > allowed[h.dir]:
			var b strings.Builder
			h.explain(&b)
			t.Errorf("%d references run upward in %s, %d may: move what is used down, or list the files in another order\n%s", n, h.dir, allowed[h.dir], &b)
		case n < allowed[h.dir]:
			t.Errorf("%d references run upward in %s, fewer than the table of this test allows: lower it to that", n, h.dir)
		}
	}
	for dir := range allowed {
		if !slices.Contains(dirs, dir) {
			t.Errorf("the table of this test has %s, which lists no files", dir)
		}
	}
}

func repository(t *testing.T) string {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot(here)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestHouse_Counts(t *testing.T) {
	t.Parallel()
	houses, err := load(repository(t), []string{"internal/rooms/testdata/three"})
	if err != nil {
		t.Fatal(err)
	}
	h := houses[0]
	if h.files != 5 || h.lines != 32 {
		t.Errorf("%d files, %d lines", h.files, h.lines)
	}
	if want := []string{"top.go", "middle.go", "bottom.go", "other.go"}; !slices.Equal(h.listed, want) {
		t.Errorf("listed are %q, want %q", h.listed, want)
	}
	want := map[reference]string{
		{"top.go", "middle.go"}:    "count floor number",
		{"middle.go", "bottom.go"}: "height",
		{"bottom.go", "top.go"}:    "House",
		{"bottom.go", "middle.go"}: "floor",
	}
	for r, names := range h.references {
		if got := strings.Join(names, " "); got != want[r] {
			t.Errorf("%v has %q, want %q", r, got, want[r])
		}
	}
	if len(h.references) != len(want) {
		t.Errorf("there are %d references, want %d", len(h.references), len(want))
	}
	if got := fmt.Sprint(h.upward(h.listed)); got != "[{bottom.go middle.go} {bottom.go top.go}]" {
		t.Errorf("upward run %s", got)
	}
	if got := fmt.Sprint(h.best, h.upward(h.best)); got != "[bottom.go top.go middle.go doc.go] [{middle.go bottom.go}]" {
		t.Errorf("the best order found is %s", got)
	}
}

// Where all orders can be tried, the order found is the best.
func TestArrange_FindsTheBest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		h := &house{references: map[reference][]string{}}
		files := []string{"a", "b", "c", "d", "e", "f"}
		draw := seed*0x9e3779b97f4a7c15 + 1
		for _, from := range files {
			for _, to := range files {
				if draw = draw*6364136223846793005 + 1442695040888963407; from != to && draw>>62 == 0 {
					h.references[reference{from, to}] = nil
				}
			}
		}
		best := len(h.references)
		permute(files, func(order []string) { best = min(best, len(h.upward(order))) })
		order := h.arrange(files)
		if again := h.arrange(files); !slices.Equal(order, again) {
			t.Fatalf("seed %d: one order is %q, another one %q", seed, order, again)
		}
		if got := len(h.upward(order)); got > best || len(order) != len(files) {
			t.Errorf("seed %d: %d run upward in %q, the best order has %d", seed, got, order, best)
		}
	}
}

func permute(names []string, visit func([]string)) {
	var place func(done, left []string)
	place = func(done, left []string) {
		if len(left) == 0 {
			visit(done)
		}
		for i, name := range left {
			place(append(slices.Clone(done), name), slices.Delete(slices.Clone(left), i, i+1))
		}
	}
	place(nil, names)
}

func TestHouse_RefusesWrongLists(t *testing.T) {
	t.Parallel()
	built := map[string]bool{"a.go": true, "b.go": true, "doc.go": true}
	cases := map[string][]string{
		"doc.go lists files, but not b.go":          {"a.go"},
		"doc.go lists a.go twice":                   {"a.go", "b.go", "a.go"},
		"doc.go lists c.go, which is not there":     {"a.go", "b.go", "c.go"},
		"doc.go lists three.go, which is not there": {"three.go"},
	}
	dir := t.TempDir()
	for name := range built {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, list := range cases {
		h := house{listed: list}
		if err := h.complete(dir, built); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", list, err, want)
		}
	}
	h := house{listed: []string{"b.go", "a.go"}}
	if err := h.complete(dir, built); err != nil {
		t.Error(err)
	}
}

func TestRun_Output(t *testing.T) {
	t.Parallel()
	var table, dot bytes.Buffer
	if err := run(&table, []string{"testdata/three"}, false, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"internal/rooms/testdata/three, as doc.go lists its files:",
		"bottom.go uses House of top.go",
		"best order found: bottom.go top.go middle.go doc.go",
		"upward as listed",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
	if err := run(&dot, []string{"testdata/three"}, true, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"top.go" -> "middle.go";`, `"bottom.go" -> "top.go" [color=red, constraint=false];`} {
		if !strings.Contains(dot.String(), want) {
			t.Errorf("the graph lacks %s:\n%s", want, &dot)
		}
	}
}
