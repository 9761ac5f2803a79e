package adminui

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func fetch(t *testing.T, path string, header ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	NewPage().ServeHTTP(w, r)
	body := io.Reader(w.Body)
	if w.Header().Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		body = z
	}
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(text)
}

func TestPage_Document(t *testing.T) {
	t.Parallel()
	resp, body := fetch(t, "/")
	policy := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "<html") || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("policy %q", policy)
	}
	if again, _ := fetch(t, "/", "If-None-Match", resp.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("the same document again: %d", again.StatusCode)
	}
}

// Everything the document refers to is in the bundle, as its own origin's, and
// may be kept for ever.
func TestPage_Assets(t *testing.T) {
	t.Parallel()
	_, document := fetch(t, "/")
	refs := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(document, -1)
	if len(refs) < 2 {
		t.Fatalf("the document refers to %d files; was the page built?", len(refs))
	}
	for _, ref := range refs {
		path := strings.TrimPrefix(ref[1], ".")
		plain, text := fetch(t, path)
		packed, same := fetch(t, path, "Accept-Encoding", "br, gzip;q=0.5")
		if plain.StatusCode != 200 || packed.StatusCode != 200 || text != same || text == "" {
			t.Errorf("%s: %d, packed %d", path, plain.StatusCode, packed.StatusCode)
		}
		if strings.HasPrefix(path, "/assets/") && (packed.Header.Get("Content-Encoding") != "gzip" && len(text) > 2000 || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") || plain.Header.Get("ETag") == "") {
			t.Errorf("%s: %v, packed %v", path, plain.Header, packed.Header)
		}
		if refused, _ := fetch(t, path, "Accept-Encoding", "gzip;q=0"); refused.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s is packed for a client that refuses it", path)
		}
	}
}

func TestPage_NothingElse(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/index.html", "/nothing", "/../page.go", "/assets/", "/assets"} {
		if resp, _ := fetch(t, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
