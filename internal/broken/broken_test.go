package broken

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Check detects a control that breaks nothing any more.
func TestModule_Fits(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module sample\n\ngo 1.24\n", "p/p.go": "package p\n\nfunc one() int { return 1 }\n",
		"p/p_test.go": "package p\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif one() != 1 {\n\t\tt.Error()\n\t}\n}\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := LoadModule(root, "p")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		control Control
		want    string // of the error; "" for none
	}{
		{Control{File: "p/p.go", Old: "return 1", New: "return 2"}, ""},
		{Control{File: "p/p_test.go", Old: "one() != 1", New: "one() == 1"}, ""},
		{Control{File: "p/p.go", Old: "return 3", New: "return 2"}, "0 times"},
		{Control{File: "p/p.go", Old: "n", New: "m"}, "times"},
		{Control{File: "p/p.go", Old: "return 1", New: "return 1"}, "changes nothing"},
		{Control{File: "p/p.go", Old: "return 1", New: "return two"}, "undefined: two"},
		{Control{File: "p/p.go", Old: "return 1", New: "x := 1; return 2"}, "declared and not used"},
		{Control{File: "p/p.go", Old: "one()", New: "two()"}, "undefined: one"}, // in the test
		{Control{File: "p/q.go", Old: "a", New: "b"}, "there is no p/q.go"},
	} {
		err := m.fits(&c.control)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q to %q: %v, want %q", c.control.Old, c.control.New, err, c.want)
		}
	}
}
