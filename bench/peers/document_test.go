package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The benchmark document, and the results behind its tables.
const (
	benchmarks = "../../docs/benchmarks.md"
	results    = "results"
)

// TestDocument_IsWhatResultsMake: tables and pictures are generated, and are up to date.
func TestDocument_IsWhatResultsMake(t *testing.T) {
	const again = "write it anew: go run . -results results -docs ../../docs/benchmarks.md"
	all, err := readResults([]string{results})
	if err != nil {
		t.Fatal(err)
	}
	r := merged(all)
	text, err := os.ReadFile(benchmarks)
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.document(string(text))
	if err != nil || want != string(text) {
		t.Errorf("docs/benchmarks.md is not what the result files make (%v); %s", err, again)
	}
	pictures, err := r.pictures()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range pictures {
		path := filepath.Join(filepath.Dir(benchmarks), picturesDir, picturesPrefix+name+".svg")
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the result files make (%v); %s", path, err, again)
		}
	}
}

// measuredAt returns a result of one part.
func measuredAt(t *testing.T, day int, part string, findings ...finding) *report {
	t.Helper()
	r := &report{Machine: machine{OS: "linux/amd64", CPUs: 2, Go: "go1.26.0", Time: time.Date(2026, 11, day, 12, 0, 0, 0, time.UTC)}, Oncekv: "oncekv v1", part: part,
		Settings: settings{Parts: []string{part}, Rounds: 3, Duration: time.Second}}
	for _, f := range findings {
		r.found(f)
	}
	r.Cases = []*result{{Name: "oncekv/put-" + part, Part: part, Workers: 4, Rounds: []measurement{{PerSecond: float64(1000 * day)}}}}
	r.Curves = []curve{{Name: "oncekv", Figure: "keys/s of " + part, Over: "tenths", Points: []float64{3, 2, 1}}}
	return r
}

// kept writes a result as -json does.
func kept(t *testing.T, dir, name string, r *report) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestResults_OfSeveralRuns: parts that were measured apart are merged, the newest result
// counts, and a run that contributes nothing is not named.
func TestResults_OfSeveralRuns(t *testing.T) {
	dir := t.TempDir()
	kept(t, dir, "a.json", measuredAt(t, 25, "soak", finding{Name: "soak", AtLeast: 1, Rounds: []float64{0.5}}))
	kept(t, dir, "b.json", measuredAt(t, 23, "soak", finding{Name: "soak", AtLeast: 1, Rounds: []float64{2}}))
	kept(t, dir, "c.json", measuredAt(t, 24, "big", finding{Name: "load", AtMost: 3, Rounds: []float64{1, 2, 4}}, finding{Name: "size", Rounds: []float64{7}}))
	doc := filepath.Join(t.TempDir(), "doc.md")
	before := "# Title\n\n<!-- table: figures soak -->\nold\n<!-- end of table -->\nbetween\n<!-- table: aims big -->\n<!-- end of table -->\n" +
		"<!-- table: figures big -->\n<!-- end of table -->\n<!-- table: cases big -->\n<!-- end of table -->\n<!-- table: figures values -->\n<!-- end of table -->\n<!-- table: runs -->\n<!-- end of table -->\nend"
	if err := os.WriteFile(doc, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	s := unbuilt(t)
	s.JSON, s.Results, s.Documents = "", []string{dir}, []string{doc}
	if err := run(t.Context(), s, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	const figures = "| figure | aim | median | lowest | highest | reached | by CPU |\n| --- | --- | --- | --- | --- | --- | --- |\n"
	want := "# Title\n\n<!-- table: figures soak -->\n\n" + figures + "| soak | ≥ 1 | 0.50 | 0.50 | 0.50 | no |  |\n\n<!-- end of table -->\nbetween\n<!-- table: aims big -->\n\n" +
		figures + "| load | ≤ 3 | 2.00 | 1.00 | 4.00 | yes |  |\n\n<!-- end of table -->\n<!-- table: figures big -->\n\n" +
		figures + "| load | ≤ 3 | 2.00 | 1.00 | 4.00 | yes |  |\n| size |  | 7.00 | 7.00 | 7.00 |  |  |\n\n<!-- end of table -->\n" +
		"<!-- table: cases big -->\n\n| case | workers | keys/s | p50 ms | p90 ms | p99 ms | p99.9 ms | CPU of nodes, µs/key | of the loader | errors |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n" +
		"| oncekv/put-big | 4 | 24000 |  |  |  |  |  |  | 0 |\n\n<!-- end of table -->\n<!-- table: figures values -->\n\n" + notMeasured + "\n\n<!-- end of table -->\n" +
		"<!-- table: runs -->\n\n| parts | when | of | where | rounds |\n| --- | --- | --- | --- | --- |\n| big | 2026-11-24 12:00 UTC | oncekv v1 | linux/amd64, 2 processors | 3 of 1s |\n" +
		"| soak | 2026-11-25 12:00 UTC | oncekv v1 | linux/amd64, 2 processors | 3 of 1s |\n\n<!-- end of table -->\nend"
	if string(now) != want {
		t.Errorf("%s\nwant\n%s", now, want)
	}
	for _, name := range []string{"aims", "rates", "load"} {
		picture, err := os.ReadFile(filepath.Join(filepath.Dir(doc), "images", "bench-"+name+".svg"))
		if err != nil || !bytes.Contains(picture, []byte("linux/amd64, 2 CPUs, 2026-11-24 to 2026-11-25")) {
			t.Errorf("picture %s: %v", name, err)
		}
	}

	runs, err := readResults([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, f := range merged(runs).Findings {
		order = append(order, f.Name)
	}
	if !slices.Equal(order, []string{"load", "size", "soak"}) {
		t.Errorf("figures come as %q, and not in the order of the parts", order)
	}

	// A second time changes nothing.
	if err := run(t.Context(), s, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(doc); err != nil || string(again) != want {
		t.Errorf("written twice it is\n%s", again)
	}
}

// A result read from its file equals the measured one.
func TestResults_ComeBack(t *testing.T) {
	dir := t.TempDir()
	r := measuredAt(t, 24, "big", finding{Name: "load", AtMost: 3, Rounds: []float64{1, 2, 4}, ByCPU: 2})
	r.addMedians()
	kept(t, dir, "r.json", r)
	back, err := readResults([]string{filepath.Join(dir, "r.json")})
	if err != nil {
		t.Fatal(err)
	}
	var printed, again strings.Builder
	one := merged([]*report{r})
	if err := errors.Join(one.print(&printed), merged(back).print(&again)); err != nil || printed.String() != again.String() || !strings.Contains(printed.String(), "load") {
		t.Errorf("%v\n%s\nand back\n%s", err, printed.String(), again.String())
	}
}

func TestResults_Refused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"broken.json": "{", "other.json": `{"a": 1}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readResults([]string{filepath.Join(dir, name)}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readResults([]string{filepath.Join(dir, "none.json")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A document with wrong markers is left as it is, and the error names the line.
func TestDocument_Refused(t *testing.T) {
	r := merged([]*report{measuredAt(t, 24, "big")})
	for text, want := range map[string]string{
		"no table":                      "no table to write",
		"<!-- table: figures big -->\n": "has no end",
		"<!-- table: figures big -->\n<!-- table: runs -->\n<!-- end of table -->": "line 2",
		"a\n<!-- end of table -->":                                     "line 2",
		"a\n\n<!-- table: figures none -->\n<!-- end of table -->":     "line 3",
		"<!-- table: pictures big -->\n<!-- end of table -->":          "line 1",
		"a\n<!-- table: figures values big -->\n<!-- end of table -->": "line 2",
	} {
		if out, err := r.document(text); err == nil || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want an error about %q", text, out, err, want)
		}
	}
}

// The same results always give the same pictures.
func TestPictures_AreTheSame(t *testing.T) {
	r := merged([]*report{measuredAt(t, 24, "big", finding{Name: "load", AtMost: 3, Rounds: []float64{2}}), measuredAt(t, 25, "huge")})
	first, err := r.pictures()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := r.pictures()
		if err != nil || !maps.EqualFunc(first, again, bytes.Equal) {
			t.Fatalf("%v; pictures %v and %v", err, slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(again)))
		}
	}
}
