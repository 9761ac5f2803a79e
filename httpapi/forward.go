package httpapi

import (
	"net/http"
	"strings"
	"time"
)

// forwarder hands a put on as it came. Its body is read at the pace of both
// sides, and by a goroutine of the transport that may outlive the answer;
// closing the body keeps that one off the connection.
func forwarder(next http.Handler, idle time.Duration) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := refuseUnframed(r); err != nil { // a proxy would give it a length
			return err
		}
		if r.ContentLength != 0 {
			body := newPacedBody(w, r, idle, bodyUnlimited)
			defer body.Close()
			r = r.WithContext(r.Context())
			r.Body = body
		}
		handOn(next, w, r)
		return nil
	}
}

// handOn hands a request on under one name on both nodes.
func handOn(next http.Handler, w http.ResponseWriter, r *http.Request) {
	r.Header.Set(headerRequestID, requestID(w))
	next.ServeHTTP(w, r)
}

// changeForwarder hands a change of the cluster on. Unlike a put it may have no
// body, and no length then.
func changeForwarder(next http.Handler, idle time.Duration) handler {
	put := forwarder(next, idle)
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.ContentLength == 0 && len(r.TransferEncoding) == 0 {
			r = r.WithContext(r.Context())
			r.Body = http.NoBody
			handOn(next, w, r)
			return nil
		}
		return put(w, r)
	}
}

// readForwarder hands a read on. Its answer may never end: it goes to the
// client at the client's pace, and is broken off when closing is closed. Where
// it broke off is for the client to see: in its last line.
func readForwarder(next http.Handler, idle time.Duration, closing <-chan struct{}) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, end := untilClosed(r.Context(), closing)
		defer end()
		r = r.WithContext(ctx)
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil // a read has none
		next.ServeHTTP(newPacedWriter(w, idle), r)
		return nil
	}
}

// duplexForwarder hands a request on whose answer comes while its body is being
// sent. A client that asked for a go-ahead gets it from this node: the answer
// may begin before anything of the body is needed.
func duplexForwarder(next http.Handler, idle time.Duration) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := refuseUnframed(r); err != nil {
			return err
		}
		d := newDuplex(w, r, 2*idle) // so that the database node, which can say so in its answer, is first
		defer d.Close()
		if r.ContentLength != 0 {
			r = r.WithContext(r.Context())
			r.Body = d
		}
		next.ServeHTTP(d, r)
		return nil
	}
}

// bodyUnlimited leaves the limit to the database node.
const bodyUnlimited = 1<<63 - 1

// stripAPI takes pathAPI off a path. A path that is escaped in an unusual way goes
// on as it was decoded, which is what a key is.
func stripAPI(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stripped := *r.URL
		stripped.Path = strings.TrimPrefix(r.URL.Path, pathAPI)
		escaped, usual := strings.CutPrefix(r.URL.RawPath, pathAPI)
		if stripped.RawPath = ""; usual {
			stripped.RawPath = escaped
		}
		r = r.WithContext(r.Context())
		r.URL = &stripped
		next.ServeHTTP(w, r)
	})
}

// located makes the Location of an answer one of this server's.
func located(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&locatedWriter{ResponseWriter: w}, r)
	})
}

type locatedWriter struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *locatedWriter) WriteHeader(status int) {
	if at := w.Header().Get("Location"); strings.HasPrefix(at, "/") {
		w.Header().Set("Location", pathAPI+at)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (w *locatedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
