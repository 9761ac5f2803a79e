package adminui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// dist is the page as `npm run build` made it of src. Files that begin with _
// or . count too.
//
//go:embed all:dist
var dist embed.FS

// contentSecurityPolicy lets the page load and talk to nothing but its own
// origin, and run nothing that is not a file of its own.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// file is one file of the page, ready to be sent.
type file struct {
	plain, packed []byte // packed is nil when gzip does not pay
	contentType   string
	etag          string
	forever       bool // its name changes with its bytes
}

// Page is the web page, packed and ready to be served: its document at /, and
// every other file of the bundle under its own name. It is safe for concurrent
// use.
type Page struct {
	files map[string]*file // by path
}

// NewPage reads the embedded bundle, within a tenth of a second. It panics if
// that cannot be read.
func NewPage() *Page {
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err)
	}
	files, err := load(root)
	if err != nil {
		panic(fmt.Sprintf("the embedded page: %v", err))
	}
	return &Page{files}
}

// Has reports whether there is a file at a path.
func (p *Page) Has(path string) bool { return p.files[path] != nil }

// ServeHTTP serves the file at the request's path, or 404.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.files[r.URL.Path]
	if f == nil {
		http.NotFound(w, r)
		return
	}
	f.serve(w, r)
}

// load reads and packs the bundle.
func load(root fs.FS) (map[string]*file, error) {
	files := map[string]*file{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		plain, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if files["/"+name] = newFile(name, plain); name == "index.html" {
			files["/"] = files["/"+name]
			delete(files, "/"+name)
		}
		return nil
	})
	return files, err
}

func newFile(name string, plain []byte) *file {
	sum := sha256.Sum256(plain)
	f := &file{plain: plain, contentType: typeOf(name), etag: `"` + hex.EncodeToString(sum[:16]) + `"`, forever: strings.HasPrefix(name, "assets/")}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	z.Write(plain)
	z.Close()
	if packed.Len() < len(plain)*9/10 {
		f.packed = packed.Bytes()
	}
	return f
}

// typeOf does not ask the machine's own table, which may say anything.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".woff2":
		return "font/woff2"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache") // it may be kept, but is asked for again each time
	if f.forever {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	body, etag := f.plain, f.etag
	if f.packed != nil {
		h.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header) {
			h.Set("Content-Encoding", "gzip")
			body, etag = f.packed, strings.TrimSuffix(f.etag, `"`)+`-gzip"`
		}
	}
	h.Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// acceptsGzip reports whether a request takes gzip, by name or by *.
func acceptsGzip(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h["Accept-Encoding"], ","), ",") {
		name, weight, weighted := strings.Cut(strings.TrimSpace(part), ";")
		if name = strings.ToLower(strings.TrimSpace(name)); name != "gzip" && name != "*" {
			continue
		}
		if !weighted {
			return true
		}
		_, q, _ := strings.Cut(weight, "=")
		value, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return err == nil && value > 0
	}
	return false
}
