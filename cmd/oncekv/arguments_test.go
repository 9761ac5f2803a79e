package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// everyCommand calls do with every runnable command and its words.
func everyCommand(do func(cmd *cobra.Command, words []string)) {
	var visit func(cmd *cobra.Command, words []string)
	visit = func(cmd *cobra.Command, words []string) {
		if cmd.Runnable() {
			do(cmd, words)
		}
		for _, sub := range cmd.Commands() {
			visit(sub, append(slices.Clone(words), sub.Name()))
		}
	}
	a := &app{stderr: &bytes.Buffer{}}
	visit(a.rootCommand(), nil)
}

// An empty argument, usually from a variable that is not set, never means "everything", "here"
// or "nothing".
func TestEmptyArgument(t *testing.T) {
	f := newFakeAPI(t)
	t.Chdir(files(t, map[string]string{"file": "x"}))
	everyCommand(func(cmd *cobra.Command, words []string) {
		for _, args := range [][]string{{""}, {"", "v"}, {"k", ""}, {"", ""}} {
			line := append(slices.Clone(words), args...)
			r := f.command(t, strings.NewReader("input"), line...)
			if r.code != exitUsage || r.stdout != "" {
				t.Errorf("%q: exit code %d\n%s%s", line, r.code, r.stdout, r.stderr)
			}
		}
	})
	if f.putCount() != 0 {
		t.Error("something was put")
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) != 1 {
		t.Errorf("files were made: %v, %v", entries, err)
	}
}

// The same holds for flags, except the one for an empty value.
func TestEmptyFlag(t *testing.T) {
	f := newFakeAPI(t)
	args := map[string][]string{
		"put": {"k", "v"}, "get": {"k"}, "stat": {"k"}, "import": {t.TempDir()}, "add": {"n4"}, "remove": {"n3"}, "promote": {"n3"}, "completion": {"bash"},
	}
	everyCommand(func(cmd *cobra.Command, words []string) {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			for _, empty := range []string{"", ",", "http://h:1,"} {
				if empty != "" && flag.Value.Type() != "stringSlice" || flag.Name == "value" || flag.Name == "help" {
					continue
				}
				line := append(append(slices.Clone(words), args[cmd.Name()]...), "--"+flag.Name+"="+empty)
				if r := f.command(t, strings.NewReader(""), line...); r.code != exitUsage {
					t.Errorf("%q: exit code %d\n%s", line, r.code, r.stderr)
				}
			}
		})
	})
	f.command(t, nil, "put", "k", "--value=").want(t, exitDone)
	f.command(t, nil, "put", "k", "").want(t, exitUsage).wantStderr(t, "--value=")
}
