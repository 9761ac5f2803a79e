package client

import (
	"fmt"
	"net/url"
	"path"
	"strings"
)

// maxKeyBytes is the API's limit of a key.
const maxKeyBytes = 1024

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

// checkKey refuses what no server would take, before anything is sent.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: a key has 1 to %d bytes, this one is empty", ErrInvalid, maxKeyBytes)
	case len(key) > maxKeyBytes:
		return fmt.Errorf("%w: a key has 1 to %d bytes, this one has %d", ErrInvalid, maxKeyBytes, len(key))
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("%w: a key may hold any byte but NUL, this one has one", ErrInvalid)
	}
	return nil
}

// WithScheme makes a URL of a node's address: host:port is http://host:port.
func WithScheme(address string) string {
	if strings.Contains(address, "://") {
		return address
	}
	return "http://" + address
}

// parseEndpoint checks a node's URL and cuts the slash at its end.
func parseEndpoint(endpoint string) (string, error) {
	endpoint = WithScheme(endpoint)
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("%w: endpoint %q is not a URL: %w", ErrInvalid, endpoint, err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%w: endpoint %q must look like http://127.0.0.1:11000", ErrInvalid, endpoint)
	}
	return strings.TrimRight(endpoint, "/"), nil
}
