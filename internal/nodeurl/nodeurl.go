package nodeurl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	urlBytesMax   = 2048 // as it is written
	nameBytesMax  = 253
	labelBytesMax = 63
)

// Parse checks the URL of a node and returns it in the one form that is compared. The port may
// be left out.
func Parse(s string) (string, error) { return parse(s, "http") }

// WithPort is Parse for a URL that must name its port: one that a node advertises and a cluster
// keeps.
func WithPort(s string) (string, error) {
	u, err := parse(s, "http")
	if err == nil && !hasPort(u) {
		return "", wrong(s, "it names no port")
	}
	return u, err
}

// Endpoint is Parse for the URL at which a person reaches a node, which may be that of a proxy
// that speaks https.
func Endpoint(s string) (string, error) { return parse(s, "http", "https") }

func parse(s string, schemes ...string) (string, error) {
	if len(s) > urlBytesMax {
		return "", fmt.Errorf("a node's URL has at most %d bytes, this one has %d", urlBytesMax, len(s))
	}
	u, err := url.Parse(s)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err // without the URL
		}
		return "", wrong(s, err.Error())
	}
	if reason := faults(s, u, schemes); reason != "" {
		return "", wrong(s, reason)
	}
	host, reason := canonicalHost(u.Hostname())
	if reason != "" {
		return "", wrong(s, reason)
	}
	port, reason := canonicalPort(u)
	if reason != "" {
		return "", wrong(s, reason)
	}
	return u.Scheme + "://" + host + port, nil
}

// faults names a part that a node's URL must not have, or lacks.
func faults(s string, u *url.URL, schemes []string) string {
	known := slices.Contains(schemes, u.Scheme)
	switch {
	case !known && u.Scheme == "https":
		return "nodes speak http, not https"
	case !known || u.Opaque != "":
		return "it does not begin with http://"
	case u.User != nil:
		return "it holds user information"
	case u.Hostname() == "":
		return "it names no host"
	case strings.Trim(u.Path, "/") != "":
		return "it has a path"
	case u.RawQuery != "" || u.ForceQuery:
		return "it has a query"
	case strings.Contains(s, "#"): // url.Parse does not tell of an empty one
		return "it has a fragment"
	}
	return ""
}

// wrong is the sentence about a URL. It does not repeat a URL with an "@": what stands before
// may be a password.
func wrong(s, reason string) error {
	const example = "write it like http://10.0.0.1:11000"
	if strings.Contains(s, "@") {
		return fmt.Errorf("this is not the URL of a node: %s; %s", reason, example)
	}
	return fmt.Errorf("%.200q is not the URL of a node: %s; %s", s, reason, example)
}

// canonicalPort returns the port with its colon, "" for none.
func canonicalPort(u *url.URL) (port, reason string) {
	if u.Port() == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", "it names no port after the colon"
		}
		return "", ""
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || n == 0 {
		return "", "its port is not one of 1 to 65535"
	}
	return ":" + strconv.FormatUint(n, 10), ""
}

func hasPort(canonical string) bool {
	u, err := url.Parse(canonical)
	return err == nil && u.Port() != ""
}

// canonicalHost returns the host as it stands in a URL.
func canonicalHost(host string) (canonical, reason string) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return strings.ToLower(host), nameFault(host)
	}
	if err := CheckAddr(addr); err != nil {
		return "", err.Error()
	}
	if addr.Is6() {
		return "[" + addr.String() + "]", ""
	}
	return addr.String(), ""
}

// nameFault says why a host is not a name that resolves everywhere alike.
func nameFault(host string) string {
	name := strings.TrimSuffix(host, ".")
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > labelBytesMax || strings.ContainsFunc(label, notInName) || label[0] == '-' || label[len(label)-1] == '-' {
			return "its host is neither a name nor an address"
		}
	}
	switch {
	case len(name) > nameBytesMax:
		return fmt.Sprintf("its host has more than %d bytes", nameBytesMax)
	case isNumber(labels[len(labels)-1]):
		return "its host is a single number; an address has four, such as 10.0.0.1"
	}
	return ""
}

// notInName allows underscores, which names of containers have.
func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isNumber reports whether a resolver may take a name that ends in this label for an IPv4
// address in one of its old forms.
func isNumber(label string) bool {
	if rest, hex := strings.CutPrefix(strings.ToLower(label), "0x"); hex {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// SplitListen checks an address to listen on and returns its parts. The host may be empty, for
// every interface. Port 0 means any free port.
func SplitListen(s string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not an address to listen on: write host:port, such as 127.0.0.1:11000", s)
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q has no port of 0 to 65535: write host:port, such as 127.0.0.1:11000", s)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		if reason := nameFault(host); reason != "" {
			return "", 0, fmt.Errorf("%q is not an address to listen on: %s; write host:port, such as 127.0.0.1:11000", s, reason)
		}
	}
	return host, uint16(n), nil
}

// Wildcard reports whether a host to listen on means every interface.
func Wildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.Unmap().WithZone("").IsUnspecified()
}
