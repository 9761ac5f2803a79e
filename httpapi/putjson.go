package httpapi

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// keyPosted refuses a POST /key with its key in the query, which is how PUT takes it.
func keyPosted(r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "key", "on-conflict")
	if _, given := q.lookup("key"); err != nil || !given {
		return nil // what else is wrong is the route's to say
	}
	key, err := keyInQuery(q)
	if err != nil {
		return err
	}
	return invalid("a POST has its key in the JSON document; to set the key in the query, use PUT %s?key=%s with the value as its body", r.URL.EscapedPath(), url.QueryEscape(string(key)))
}

// byDocument answers POST /key: a put whose key, value, content type and metadata
// are in a JSON document. Everything else about it is as with PUT.
func (p *puts) byDocument(w http.ResponseWriter, r *http.Request) error {
	if err := keyPosted(r); err != nil {
		return err
	}
	q, err := parseQuery(r.URL.RawQuery, "on-conflict")
	if err != nil {
		return err
	}
	c, err := conditionsOf(r, q)
	if err != nil {
		return err
	}
	if len(r.Header["Repr-Digest"]) > 0 {
		return invalid("Repr-Digest goes with PUT /key/{key}, whose body is the value; here the value is inside a document")
	}
	if header := givenUserMeta(r.Header); header != "" {
		return invalid("%s goes with PUT /key/{key}; here metadata is in the document, as \"meta\"", header)
	}
	if part := r.Header.Get("Content-Range"); part != "" {
		return invalid("the body is only a part of a document (Content-Range: %s); send all of it, without Content-Range", part)
	}
	if err := refuseUnframed(r); err != nil {
		return err
	}
	var document api.PutDocument
	release, err := p.documents.decode(w, r, &document)
	defer release()
	if err != nil {
		return err
	}
	request, err := p.requestIn(&document, c)
	if err != nil {
		return err
	}
	if err := p.mayMatch(r.Context(), request.Key, c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.answer)
	defer cancel()
	result, err := p.db.Put(ctx, request)
	if err != nil {
		return err
	}
	return p.decided(w, request.Key, result, c, locationOf(request.Key))
}

// requestIn reads the put out of its document.
func (p *puts) requestIn(d *api.PutDocument, c conditions) (kvstore.PutRequest, error) {
	request := kvstore.PutRequest{PutID: c.putID}
	parts, err := partsOf(d)
	if err != nil {
		return request, err
	}
	size := int64(len(parts.value))
	if size > p.limit {
		return request, &kvstore.TooLargeError{LimitBytes: p.limit}
	}
	request.Key, request.ContentType, request.UserMeta, request.Body, request.Size = parts.key, parts.contentType, parts.meta, strings.NewReader(parts.value), size
	return request, nil
}

// smallPutIn is requestIn for a value that is in memory anyway.
func (p *puts) smallPutIn(d *api.PutDocument) (kvstore.SmallPut, error) {
	parts, err := partsOf(d)
	if err != nil {
		return kvstore.SmallPut{}, err
	}
	if int64(len(parts.value)) > p.limit {
		return kvstore.SmallPut{}, &kvstore.TooLargeError{LimitBytes: p.limit}
	}
	return kvstore.SmallPut{Key: parts.key, ContentType: parts.contentType, UserMeta: parts.meta, Value: []byte(parts.value)}, nil
}

// putParts is what a document says, checked and decoded.
type putParts struct {
	key                kvstore.Key
	value, contentType string
	meta               kvstore.UserMeta
}

func partsOf(d *api.PutDocument) (parts putParts, err error) {
	if parts.key, err = keyIn(d); err != nil {
		return parts, err
	}
	if parts.value, err = valueIn(d); err != nil {
		return parts, err
	}
	if parts.meta, err = kvstore.MakeUserMeta(d.Meta); err != nil {
		return parts, err
	}
	if d.ContentType == "" {
		parts.contentType = contentTypeText
		return parts, nil
	}
	_, err = checkContentType(d.ContentType)
	parts.contentType = strings.TrimSpace(d.ContentType)
	return parts, err
}

// ParsePut reads the body of POST /key, or a line of POST /keys, as strictly as
// a node does, and returns what it would put, with the content type that it has
// without one of its own. The error is a sentence about the document. A limit on
// values, which is a node's own, is not checked.
func ParsePut(document []byte) (client.PutItem, error) {
	var d api.PutDocument
	if err := decodeStrict(document, &d); err != nil {
		return client.PutItem{}, err
	}
	parts, err := partsOf(&d)
	if err != nil {
		return client.PutItem{}, err
	}
	return client.PutItem{Key: string(parts.key), Value: []byte(parts.value), ContentType: parts.contentType, Meta: parts.meta.Map()}, nil
}

func keyIn(d *api.PutDocument) (kvstore.Key, error) {
	var key kvstore.Key
	switch {
	case d.Key != nil && d.KeyBase64 != nil:
		return "", invalid(`the JSON document has both "key" and "key_base64"; send one of them`)
	case d.Key != nil:
		key = kvstore.Key(*d.Key)
	case d.KeyBase64 != nil:
		raw, err := decodeBase64("key_base64", *d.KeyBase64)
		if err != nil {
			return "", err
		}
		key = kvstore.Key(raw)
	default:
		return "", invalid(`the JSON document has no "key" (or "key_base64" for a key that is not UTF-8)`)
	}
	return key, key.Validate()
}

func valueIn(d *api.PutDocument) (string, error) {
	switch {
	case d.Value == nil:
		return "", invalid(`the JSON document has no "value"; an empty value is ""`)
	case d.Encoding == "":
		return *d.Value, nil
	case d.Encoding == api.EncodingBase64:
		return decodeBase64("value", *d.Value)
	}
	return "", invalid(`"encoding" is %q; it takes "base64", or is left out for text`, d.Encoding)
}

// strictBase64 never changes.
var strictBase64 = base64.StdEncoding.Strict()

// decodeBase64 takes standard base64 with its padding and without line breaks,
// which encoding/base64 would pass over.
func decodeBase64(field, text string) (string, error) {
	if at := strings.IndexAny(text, "\r\n"); at >= 0 {
		return "", invalid("%q is not standard base64: it has a line break at byte %d", field, at)
	}
	raw, err := strictBase64.DecodeString(text)
	if err != nil {
		return "", invalid("%q is not standard base64 with padding: %v", field, err)
	}
	return string(raw), nil
}
