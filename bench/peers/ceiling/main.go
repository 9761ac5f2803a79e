// Ceiling does the least that a Go program with chi can do for a request of oncekv's: it reads
// the body of a PUT and forgets it, and has one value for every GET. Status, headers and sizes
// are those of a database node. So the rate of a node divided by this program's rate is the
// part of the machine that is left for being a database.
//
//	ceiling -listen 127.0.0.1:9000 -value-bytes 256
package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "address")
	size := flag.Int("value-bytes", 256, "bytes of the value of every GET")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen, *size); err != nil {
		fmt.Fprintln(os.Stderr, "ceiling:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen string, size int) error {
	server := &http.Server{Addr: listen, Handler: handler(size), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if err := server.Close(); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler answers like a database node, with a value of size bytes.
func handler(size int) http.Handler {
	value := []byte(strings.Repeat("v", size))
	sum := sha256.Sum256(value)
	digest, now := hex.EncodeToString(sum[:]), time.Now().UTC()
	noStore, etag, revision := []string{"no-store"}, []string{`"` + digest + `"`}, []string{"1000000"}
	ofValue := map[string][]string{
		"Accept-Ranges":           {"bytes"},
		"Cache-Control":           {"public, max-age=31536000, immutable"},
		"Content-Length":          {strconv.Itoa(size)},
		"Content-Security-Policy": {"sandbox"},
		"Content-Type":            {"application/octet-stream"},
		"Etag":                    etag,
		"Last-Modified":           {now.Format(http.TimeFormat)},
		"Oncekv-Revision":         revision,
		"Oncekv-Time":             {now.Format(time.RFC3339Nano)},
		"Repr-Digest":             {"sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"},
		"X-Content-Type-Options":  {"nosniff"},
	}
	json, history := []string{"application/json"}, []string{digest[:32]}

	router := chi.NewRouter()
	router.Get("/key/*", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, values := range ofValue {
			h[name] = values
		}
		_, _ = w.Write(value) // an error is the client's going away
	})
	router.Put("/key/*", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body := make([]byte, 0, 256)
		body = append(append(body, `{"key":"`...), strings.TrimPrefix(r.URL.Path, "/key/")...)
		body = append(append(body, `","revision":1000000,"sha256":"`...), digest...)
		body = append(strconv.AppendInt(append(body, `","size":`...), n, 10), `,"created":true}`...)
		h := w.Header()
		h["Cache-Control"], h["Content-Type"], h["Etag"], h["Oncekv-History"], h["Oncekv-Revision"] = noStore, json, etag, history, revision
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body) // an error is the client's going away
	})
	return router
}
