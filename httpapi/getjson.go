package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// jsonValueBytesMax is the largest value that ?format=json answers; it is
// held in memory, several times.
const jsonValueBytesMax = 4 << 20

// serveJSON answers with the value inside a document. The document is another
// representation than the bytes: its ETag is its own SHA-256, and Repr-Digest,
// which would be taken for the value's, is left out.
func (g *reads) serveJSON(w http.ResponseWriter, r *http.Request, v *kvstore.Value, source string) error {
	if v.Size > jsonValueBytesMax {
		return invalid("the value has %d bytes and ?format=json answers values up to %d; read it without format=json", v.Size, jsonValueBytesMax)
	}
	need := jsonCopies * (v.Size + 1<<10)
	paced := newPacedWriter(w, g.idle)
	release, err := paced.hold(r, g.memory, need)
	defer release()
	if err != nil {
		return err
	}
	document, err := documentOf(r, v)
	if err != nil {
		return err
	}
	paced.held.Keep(int64(len(document)))
	h := w.Header()
	g.headers.setShared(h, v.Key)
	g.headers.setSource(h, source)
	sum := sha256.Sum256(document)
	h.Set("Etag", `"`+hex.EncodeToString(sum[:])+`"`)
	h.Set("Content-Type", contentTypeJSON)
	h.Set(api.HeaderRevision, strconv.FormatUint(uint64(v.Revision), 10))

	served := g.serving(paced, r)
	http.ServeContent(served, withUsableRange(r, int64(len(document))), "", v.Time, bytes.NewReader(document))
	if served.refused != 0 {
		return refusedProblem(served.refused, h.Get("Content-Range"), int64(len(document)))
	}
	return nil
}

// documentOf renders a value as JSON. The same value gives the same bytes on
// every node.
func documentOf(r *http.Request, v *kvstore.Value) ([]byte, error) {
	raw, err := wholeOf(r, v)
	if err != nil {
		return nil, err
	}
	at := v.Time.UTC()
	document := api.Document{Record: recordOf(&v.Meta)}
	document.Time = &at
	document.Value, document.Encoding = textOf(raw)
	return marshal(&document)
}

// wholeOf returns all bytes of a value.
func wholeOf(r *http.Request, v *kvstore.Value) ([]byte, error) {
	if raw, inline := v.Bytes(); inline {
		return raw, nil
	}
	from := v.Open(r.Context())
	defer from.Close()
	raw := make([]byte, v.Size)
	if _, err := io.ReadFull(from, raw); err != nil {
		return nil, fmt.Errorf("read key %q: %w", string(v.Key), err)
	}
	return raw, nil
}
