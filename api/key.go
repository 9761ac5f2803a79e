package api

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// JSONKey splits a key into the two fields that carry it in JSON: text when
// the key is UTF-8, base64 otherwise; the other is empty.
func JSONKey(key string) (text, b64 string) {
	if utf8.ValidString(key) {
		return key, ""
	}
	return "", base64.StdEncoding.EncodeToString([]byte(key))
}

// RawKey joins what JSONKey split. Exactly one of the two must be given.
func RawKey(text, b64 string) (string, error) {
	switch {
	case text != "" && b64 != "":
		return "", fmt.Errorf(`%w: both "key" and "key_base64" are given; send one of them`, ErrInvalid)
	case b64 == "":
		return text, nil
	}
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return "", fmt.Errorf(`%w: "key_base64" is not standard base64: %w`, ErrInvalid, err)
	}
	return string(raw), nil
}

// RawValue joins the two fields that carry a value in JSON.
func RawValue(text, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		return []byte(text), nil
	case EncodingBase64:
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf(`%w: "value" is not standard base64: %w`, ErrInvalid, err)
		}
		return raw, nil
	}
	return nil, fmt.Errorf(`%w: "encoding" is %q; the only one is %q`, ErrInvalid, encoding, EncodingBase64)
}

// KeyTarget returns the path and query that name a key, to be appended to a
// node's URL: the key is decoded from it exactly once, byte for byte.
//
// The readable form /key/{key} is used where nothing on the way can change
// it. A key that path cleaning would touch ("..", ".", an empty segment, a
// slash at either end) goes as /key?key=…, because browsers, curl and
// proxies collapse such paths even when they are escaped.
func KeyTarget(key string, query url.Values) string {
	if cleanPath(key) {
		target := "/key/" + escapeKey(key)
		if len(query) > 0 {
			target += "?" + query.Encode()
		}
		return target
	}
	target := "/key?key=" + url.QueryEscape(key)
	if len(query) > 0 {
		target += "&" + query.Encode()
	}
	return target
}

func cleanPath(key string) bool {
	return key != "" && path.Clean("/"+key) == "/"+key
}

// escapeKey escapes every byte that is not unreserved in RFC 3986, so that
// no two parsers can disagree about it. Slashes stay.
func escapeKey(key string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(key) {
		if c := key[i]; unreserved(c) || c == '/' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// keysTokenVersion is the first byte of a decoded token; what follows is a key.
const keysTokenVersion = 1

// KeysToken is what ?after= of GET /keys takes, to list what comes behind key in
// whatever history there is. Those that nodes make, as Next of a page, name the history
// too. Clients must not look inside: the form may change.
func KeysToken(key string) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{keysTokenVersion}, key...))
}
