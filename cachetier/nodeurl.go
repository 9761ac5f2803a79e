package cachetier

import (
	"fmt"
	"net/url"
	"strings"
)

// nodeURL checks the URL of a node and gives it the one form that is compared:
// no path and no slash at its end.
func nodeURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || strings.Trim(u.Path, "/") != "" || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || len(s) > urlBytesMax {
		return "", fmt.Errorf("node URL %q must look like http://127.0.0.1:11000", s)
	}
	return strings.TrimRight(s, "/"), nil
}
