package adminui

import (
	"regexp"
	"testing"
)

// firstLoadBytesMax is what a browser may have to fetch, packed, before the page
// begins.
const firstLoadBytesMax = 500_000

// reference finds the files that the document names.
var reference = regexp.MustCompile(`(?:src|href)="(/[^"]+)"`)

func TestPage_FirstLoad(t *testing.T) {
	t.Parallel()
	page := NewPage()
	paths := []string{"/"}
	for _, m := range reference.FindAllStringSubmatch(string(page.files["/"].plain), -1) {
		paths = append(paths, m[1])
	}
	total := 0
	for _, path := range paths {
		f := page.files[path]
		if f == nil {
			t.Errorf("the document names %s, which is not in the bundle", path)
			continue
		}
		size := len(f.plain)
		if f.packed != nil {
			size = len(f.packed)
		}
		t.Logf("%7d bytes %s", size, path)
		total += size
	}
	t.Logf("%7d bytes for the first load", total)
	if total > firstLoadBytesMax {
		t.Errorf("the first load takes %d bytes; want %d at most", total, firstLoadBytesMax)
	}
}
