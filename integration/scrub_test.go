package integration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// valuesOfAllKinds returns a value in its record, one that is a body, and one in chunks.
func valuesOfAllKinds() map[string]string {
	return map[string]string{
		"small": "a small value",
		"body":  string(pattern("body", 100<<10)),
		"large": string(pattern("large", 2<<20+77)),
	}
}

// filled starts a node with values of all kinds.
func filled(t *testing.T, flags ...string) *clustertest.Process {
	t.Helper()
	n := clustertest.NewProcesses(t, bin, 1, 0, flags...).DBs[0]
	n.Start()
	n.WaitReady()
	cl := clustertest.Client(t, n.URL())
	for key, value := range valuesOfAllKinds() {
		if _, err := cl.PutBytes(clustertest.WithTimeout(t), key, []byte(value), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// scrubs waits until a node has finished one more scrub and says so.
func scrubs(t *testing.T, n *clustertest.Process) {
	t.Helper()
	was, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, n.Name+" scrubs", func() error {
		is, err := n.Stats()
		if err != nil {
			return err
		}
		if end := is.Scrub.LastEnd; end == nil || was.Scrub.LastEnd != nil && !end.After(*was.Scrub.LastEnd) {
			return fmt.Errorf("%+v", is.Scrub)
		}
		if is.Scrub.LastResult != api.ScrubOK {
			t.Fatalf("%+v", is.Scrub)
		}
		return nil
	})
}

// at finds bytes in a file below a directory. A running node may have them only in its log for
// a moment.
func at(t *testing.T, dir, glob string, what []byte) (path string, offset int64) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("%.20q is in %s", what, glob), func() error {
		paths, err := filepath.Glob(filepath.Join(dir, glob))
		if err != nil {
			return err
		}
		for _, path = range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if i := bytes.Index(b, what); i >= 0 {
				offset = int64(i)
				return nil
			}
		}
		return fmt.Errorf("it is in none of %v", paths)
	})
	return path, offset
}

// allAt finds all occurrences of bytes in a file: a page that history no longer uses may have
// them too.
func allAt(t *testing.T, path string, what []byte) (offsets []int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; ; {
		i := bytes.Index(b[from:], what)
		if i < 0 {
			return offsets
		}
		offsets = append(offsets, int64(from+i))
		from += i + 1
	}
}

// flipBit changes one bit of a file, as a disk does.
func flipBit(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], offset)
	b[0] ^= 0x10
	if err == nil {
		_, err = f.WriteAt(b[:], offset)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A node scrubs in each interval, shows that in its metrics, and still knows the time after a
// restart.
func TestScrub_Reports(t *testing.T) {
	t.Parallel()
	n := filled(t, "--scrub-interval", "2s")
	scrubs(t, n)
	scrubs(t, n)
	if code, _ := n.Terminate(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	n.Start()
	n.WaitReady()
	s, err := n.Stats()
	if err != nil || s.Scrub.LastEnd == nil || s.Scrub.LastTookSeconds <= 0 || s.Scrub.LastResult != api.ScrubOK {
		t.Errorf("after a restart: %+v, %v", s.Scrub, err)
	}
	// The two whole chunks of the large value are equal.
	if v := s.Values; v.Bodies != 3 || v.LiveBytes < 1<<20+100<<10 || v.LiveBytes > 1<<20+102<<10 || v.Segments != 1 {
		t.Errorf("%+v", v)
	}
	mustHave(t, valuesOfAllKinds(), n)
}

// The node stops within one scrub although nobody reads the value: a bit flipped in a body, in
// the history, and in a file that nobody opens.
func TestScrub_FlippedBit_StopsTheNode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, glob string }{{"body", "values/*.values"}, {"large", "values/*.values"}, {"small", "history.db"}} {
		t.Run(c.key, func(t *testing.T) {
			t.Parallel()
			n := filled(t, "--scrub-interval", "2s")
			scrubs(t, n)
			value := []byte(valuesOfAllKinds()[c.key])
			path, offset := at(t, n.Dir, c.glob, value[:min(len(value), 64)])
			offsets := []int64{offset}
			if c.key == "small" {
				offsets = allAt(t, path, value)
			}
			for _, offset := range offsets {
				flipBit(t, path, offset+int64(min(len(value), 70<<10)/2))
			}
			if code := n.Wait(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, word := range []string{"scrub found damage", path, "replac"} {
				if !strings.Contains(n.Log(), word) {
					t.Errorf("it does not mention %q:\n%s", word, n.Log())
				}
			}
			// The next start knows, and scrubs at once.
			n.Start()
			if code := n.Wait(); code != 1 || !strings.Contains(n.Log(), path) {
				t.Errorf("the next start ended with code %d:\n%s", code, n.Log())
			}
		})
	}
}

// If a file of values is missing, the node refuses to start, changes nothing, and says what to
// put back.
func TestScrub_MissingSegment_RefusesToStart(t *testing.T) {
	t.Parallel()
	n := filled(t)
	if code, _ := n.Terminate(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	segment, _ := at(t, n.Dir, "values/*.values", []byte(valuesOfAllKinds()["body"])[:64])
	for _, gone := range []string{segment, filepath.Dir(segment)} {
		aside := filepath.Join(t.TempDir(), "aside")
		if err := os.Rename(gone, aside); err != nil {
			t.Fatal(err)
		}
		was := treeOf(t, n.Dir)
		refusesToStart(t, n, gone, "put", "back")
		if is := treeOf(t, n.Dir); !maps.Equal(is, was) {
			t.Errorf("the refusal changed the data: it was\n%v\nand is\n%v", was, is)
		}
		if err := os.Rename(aside, gone); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	n.WaitReady()
	mustHave(t, valuesOfAllKinds(), n)
}

// The table of bodies is derived from the segments: if it is missing or damaged, the node
// rebuilds it, and counts the references to bodies again.
func TestScrub_LostTable_IsMadeAgain(t *testing.T) {
	t.Parallel()
	n := filled(t, "--scrub-interval", "2s")
	scrubs(t, n)
	before, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func(string) error{os.Remove, func(path string) error { return os.WriteFile(path, []byte("something"), 0o600) }} {
		if code, _ := n.Terminate(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		tables, err := filepath.Glob(filepath.Join(n.Dir, "values", "*table*"))
		if err != nil || len(tables) == 0 {
			t.Fatalf("%v, %v", tables, err)
		}
		for _, table := range tables {
			if err := spoil(table); err != nil {
				t.Fatal(err)
			}
		}
		n.Start()
		n.WaitReady()
		scrubs(t, n)
		mustHave(t, valuesOfAllKinds(), n)
		clustertest.Eventually(t, "all is counted again", func() error {
			if s, err := n.Stats(); err != nil || s.Values.Bodies != before.Values.Bodies || s.Values.LiveBytes != before.Values.LiveBytes {
				return fmt.Errorf("%+v, want %+v, %v", s.Values, before.Values, err)
			}
			return nil
		})
	}
}
