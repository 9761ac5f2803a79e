package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// The tour relies on this: each of these faults is noticed.
func TestBrowser_NoticesFaults(t *testing.T) {
	const policy = "default-src 'none'; script-src 'self'; connect-src *; img-src *"
	for _, x := range []struct{ name, html, script, want string }{
		{"a warning", "", "console.warn('careful', 1)", "console warning: careful 1"},
		{"an error", "", "console.error('broken')", "console error: broken"},
		{"an exception", "", "throw new Error('nobody caught it')", "uncaught: "},
		{"a rejection", "", "Promise.reject(new Error('nobody caught it'))", "uncaught: "},
		{"an inline script", "<script>1</script>", "", "Executing inline script violates"},
		{"an inline style", "<p style='color: red'>", "", "Applying inline style violates"},
		{"a missing file", "<img src=/missing alt=''>", "", "GET {origin}/missing: 404"},
		{"a refused put", "", "fetch('/missing', {method: 'PUT'})", "PUT {origin}/missing: 404"},
		{"nobody there", "", "fetch('/hangup').catch(() => {})", "{origin}/hangup: net::ERR_EMPTY_RESPONSE"},
		{"another origin", "", "fetch('http://127.0.0.1:9/').catch(() => {})", "http://127.0.0.1:9/: a request to another origin"},
	} {
		t.Run(x.name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				w.Header().Set("Content-Security-Policy", policy)
				fmt.Fprintf(w, "<!doctype html><html lang=en><title>x</title><link rel=icon href=data:,>%s<script src=/script.js></script>", x.html)
			})
			mux.HandleFunc("GET /script.js", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/javascript")
				fmt.Fprint(w, x.script)
			})
			mux.HandleFunc("GET /hangup", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			server := httptest.NewServer(mux)
			defer server.Close()
			p := openPage(t, server.URL)
			want := strings.ReplaceAll(x.want, "{origin}", server.URL)
			clustertest.Eventually(t, "it is noticed", func() error {
				p.mu.Lock()
				defer p.mu.Unlock()
				if !slices.ContainsFunc(p.faults, func(f fault) bool { return strings.Contains(f.String(), want) }) {
					return fmt.Errorf("noticed were %v; want %s", p.faults, want)
				}
				return nil
			})
		})
	}
}

func TestBrowser_NoticesLooks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><html lang=en><title>x</title><meta name=viewport content="width=device-width, initial-scale=1"><link rel=icon href=data:,>
			<main><h1>x</h1><p id=wide style="width: 500px">wide</p><p style="color: #ccc">pale</p><button></button></main>`)
	}))
	defer server.Close()
	p := openPage(t, server.URL)
	p.phone(light)
	if over := p.overhang(phoneWidth); !strings.Contains(over, "P.") {
		t.Errorf("what hangs over the side is not noticed: %q", over)
	}
	if p.axe == "" {
		return
	}
	var broken []string
	for _, f := range p.audit() {
		broken = append(broken, f.ID)
	}
	for _, want := range []string{"color-contrast", "button-name"} {
		if !slices.Contains(broken, want) {
			t.Errorf("axe notices %v; want %s", broken, want)
		}
	}
	p.clean("a page that is only ugly")
}
