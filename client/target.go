package client

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// checkKey refuses what no server would take, before anything is sent.
func checkKey(key string) error {
	if err := api.CheckKey(key); err != nil {
		return fmt.Errorf("%w: invalid key: %w", ErrInvalid, err)
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
