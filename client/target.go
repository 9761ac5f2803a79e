package client

import (
	"fmt"
	"net/url"
	"strings"
)

// maxKeyBytes is the API's limit of a key.
const maxKeyBytes = 1024

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
