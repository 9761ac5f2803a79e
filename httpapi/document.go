package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

const contentTypeJSON = "application/json"

// marshal renders JSON as it is read by people too: < and & as they are.
func marshal(document any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(document); err != nil {
		return nil, fmt.Errorf("render the answer as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// writeJSON answers with a document that is true only now.
func writeJSON(w http.ResponseWriter, status int, document any) error {
	body, err := marshal(document)
	if err != nil {
		return err
	}
	return writeBody(w, status, contentTypeJSON, body)
}

// writeBody answers with bytes that are true only now.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body) // an error here is the client's going away
	return nil
}

// appendJSONString appends text, which is UTF-8, as marshal renders it.
func appendJSONString(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := marshal(text)
			if err != nil {
				panic(fmt.Sprintf("httpapi: a string does not marshal: %v", err))
			}
			return append(b, bytes.TrimSuffix(quoted, []byte("\n"))...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

// present makes an empty list of an absent one: [] in JSON, never null.
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// textOf returns a value as JSON carries it: text, or base64 when it is not
// UTF-8.
func textOf(raw []byte) (text, encoding string) {
	if utf8.Valid(raw) {
		return string(raw), ""
	}
	return base64.StdEncoding.EncodeToString(raw), api.EncodingBase64
}

// recordOf is what lists say about a key, but for its time.
func recordOf(m *kvstore.Meta) api.Record {
	record := api.Record{Revision: uint64(m.Revision), SHA256: m.SHA256.String(), Size: m.Size, ContentType: mediaTypeOf(m), By: m.By, Meta: m.UserMeta.Map()}
	record.Key, record.KeyBase64 = api.JSONKey(string(m.Key))
	return record
}

// mediaTypeOf is a value's content type, never empty: net/http would guess.
func mediaTypeOf(m *kvstore.Meta) string {
	if m.ContentType == "" {
		return kvstore.DefaultContentType
	}
	return m.ContentType
}

// HistoryDocument is what documents say of a history, nil for none.
func HistoryDocument(h kvstore.History) *api.History {
	if h.ID.IsZero() {
		return nil
	}
	document := &api.History{ID: h.ID.String()}
	for i := range h.Parents {
		document.Parents = append(document.Parents, originOf(&h.Parents[i]))
	}
	return document
}

func originOf(o *kvstore.Origin) api.Origin {
	return api.Origin{ID: o.ID.String(), Revision: uint64(o.Revision), Head: o.Head.String()}
}
