package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/broken"
)

// The module that the tests below break, with tests that kill some mutants and miss others.
const (
	sampleSource = `package sample

import "errors"

var errNo = errors.New("no")

type store struct{ saved, said int }

func (s *store) save(n int) error {
	if n < 0 {
		return errNo
	}
	s.saved = n
	return nil
}

func (s *store) Put(n int) error {
	if n > 100 {
		return errNo
	}
	if err := s.save(n); err != nil {
		return err
	}
	switch {
	case n == 7:
		s.said++
	}
	return nil
}
`
	sampleTest = `package sample

import "testing"

func TestPut(t *testing.T) {
	var s store
	if err := s.Put(5); err != nil || s.saved != 5 {
		t.Error(err, s)
	}
	if s.Put(101) == nil {
		t.Error("too large")
	}
}

func TestPut_Negative(t *testing.T) {
	var s store
	if s.Put(-1) == nil {
		t.Error("negative")
	}
}
`
)

func sample(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module sample\n\ngo 1.24\n", "sample/sample.go": sampleSource, "sample/sample_test.go": sampleTest,
		reasonedList: "# none\nsample\tstore.Put\tnegated\tn == 7\tnobody looks\n",
		"killed":     "sample\tstore.Put\tomitted\ts.save(n)\tsample:TestPut\n",
		"alive":      "sample\tstore.Put\tboundary\tn > 100\tsample:TestPut\n",
		"rotten":     "sample\tstore.Put\tnegated\tn > 99\tsample:TestPut\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// A run kills the mutants that tests notice, names those that live, and skips those with a
// reason.
func TestRun_TellsTheDeadFromTheLiving(t *testing.T) {
	var out bytes.Buffer
	code, err := run(t.Context(), []string{"-root", sample(t), "-temp", t.TempDir(), "-dirs", "sample", "-kinds", "negated,omitted,ignored,never,boundary", "-v"}, &out)
	if code != 0 || err != nil {
		t.Fatalf("code %d, %v\n%s", code, err, out.String())
	}
	lines := strings.Split(out.String(), "\n")
	for _, want := range []string{
		"unit\tsample/sample.go:10\tstore.save\tnegated\tn < 0\tsample:TestPut",
		"unit\tsample/sample.go:10\tstore.save\tnever\tn < 0\tsample:TestPut_Negative",
		"LIVES\tsample/sample.go:10\tstore.save\tboundary\tn < 0\t",
		"unit\tsample/sample.go:18\tstore.Put\tnever\tn > 100\tsample:TestPut",
		"LIVES\tsample/sample.go:18\tstore.Put\tboundary\tn > 100\t",
		"unit\tsample/sample.go:21\tstore.Put\tomitted\ts.save(n)\tsample:TestPut",
		"unit\tsample/sample.go:21\tstore.Put\tignored\terr != nil of err := s.save(n)\tsample:TestPut_Negative",
		"LIVES\tsample/sample.go:25\tstore.Put\tnever\tn == 7\tno test comes by",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("there is no line %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "negated\tn == 7") {
		t.Errorf("a mutant with a reason was run:\n%s", out.String())
	}
}

// A list says which test kills which mutant, and fails once that is not true.
func TestRun_List(t *testing.T) {
	root := sample(t)
	for _, c := range []struct {
		list string
		code int
		want string
	}{{"killed", 0, "1 mutants, 0 of them alive"}, {"alive", 1, "LIVES after sample:TestPut: sample/sample.go:18"}, {"rotten", 2, ""}} {
		var out bytes.Buffer
		code, err := run(t.Context(), []string{"-root", root, "-temp", t.TempDir(), "-dirs", "sample", "-list", c.list}, &out)
		if code != c.code || (err != nil) != (c.code == 2) || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: code %d, %v\n%s", c.list, code, err, out.String())
		}
	}
}

// All mutants of the program compile, and the lists name existing mutants.
func TestMutants_OfTheProgram(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dirs := []string{"raftnode", "raftnode/walscan", "kvstore", "kvstore/engine", "internal/keyruns", "cachetier"}
	module, err := broken.LoadModule(root, dirs...)
	if err != nil {
		t.Fatal(err)
	}
	var all []*mutant
	for _, dir := range dirs {
		p := module.Package(dir)
		found, sources, err := mutate(p, len(all)+1)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
		sources[filepath.Join(dir, "mutants_support.go")] = support(p.Sources[0].File.Name.Name, len(all))
		if _, err := p.Check(sources); err != nil {
			t.Errorf("the mutants of %s do not compile: %v", dir, err)
		}
		count := map[kind]int{}
		for _, m := range found {
			count[m.kind]++
		}
		for _, k := range kinds {
			if count[k] == 0 && k != omitted {
				t.Errorf("%s has no mutant of kind %s", dir, k)
			}
		}
	}
	for _, list := range []string{reasonedList, killedList} {
		entries, err := readList(filepath.Join(root, list))
		if err == nil {
			err = rotten(entries, all)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
