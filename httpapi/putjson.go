package httpapi

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// byDocument answers POST /key: a put whose key, value and content type are
// in a JSON document. Everything else about it is as with PUT.
func (p *puts) byDocument(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "on-conflict")
	if err != nil {
		return err
	}
	terms, err := termsOf(r, q)
	if err != nil {
		return err
	}
	if len(r.Header["Repr-Digest"]) > 0 {
		return invalid("Repr-Digest goes with PUT /key/{key}, whose body is the value; here the value is inside a document")
	}
	if part := r.Header.Get("Content-Range"); part != "" {
		return invalid("the body is a part (Content-Range: %s); send the whole document without Content-Range", part)
	}
	if err := refuseUnframed(r); err != nil {
		return err
	}
	var document client.PutDocument
	release, err := p.documents.decode(w, r, &document)
	defer release()
	if err != nil {
		return err
	}
	request, err := p.requestIn(&document, terms)
	if err != nil {
		return err
	}
	if err := p.mayMatch(r.Context(), request.Key, terms); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.answer)
	defer cancel()
	result, err := p.db.Put(ctx, request)
	if err != nil {
		return err
	}
	return p.decided(w, request.Key, result, terms, locationOf(request.Key))
}

// requestIn reads the put out of its document.
func (p *puts) requestIn(d *client.PutDocument, t terms) (kvstore.PutRequest, error) {
	request := kvstore.PutRequest{PutID: t.putID, ContentType: contentTypeText}
	key, err := keyIn(d)
	if err != nil {
		return request, err
	}
	value, err := valueIn(d)
	if err != nil {
		return request, err
	}
	if int64(len(value)) > p.limit {
		return request, &kvstore.TooLargeError{LimitBytes: p.limit}
	}
	if d.ContentType != "" {
		if _, err := checkContentType(d.ContentType); err != nil {
			return request, err
		}
		request.ContentType = strings.TrimSpace(d.ContentType)
	}
	request.Key, request.Body, request.Size = key, strings.NewReader(value), int64(len(value))
	return request, nil
}

func keyIn(d *client.PutDocument) (kvstore.Key, error) {
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

func valueIn(d *client.PutDocument) (string, error) {
	switch {
	case d.Value == nil:
		return "", invalid(`the JSON document has no "value"; an empty value is ""`)
	case d.Encoding == "":
		return *d.Value, nil
	case d.Encoding == client.EncodingBase64:
		return decodeBase64("value", *d.Value)
	}
	return "", invalid(`"encoding" is %q; it takes "base64", or is left out for text`, d.Encoding)
}

// decodeBase64 takes standard base64 with its padding and without line breaks,
// which encoding/base64 would pass over.
func decodeBase64(field, text string) (string, error) {
	if at := strings.IndexAny(text, "\r\n"); at >= 0 {
		return "", invalid("%q is not standard base64: it has a line break at byte %d", field, at)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", invalid("%q is not standard base64 with padding: %v", field, err)
	}
	return string(raw), nil
}
