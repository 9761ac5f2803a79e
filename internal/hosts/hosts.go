package hosts

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Config says which names are a node's.
type Config struct {
	// Allowed is what the operator adds: names, ".suffix" for a name and
	// everything below it, or "*" for every name.
	Allowed []string
	// URLs have the names that the node was started with.
	URLs []string
	// Members returns the URLs of the members. It is called concurrently, for names that are
	// not among the others. Nil: there are none.
	Members func() []string
}

// Set is the names of a node. It is safe for concurrent use.
type Set struct {
	every    bool
	names    map[string]struct{}
	suffixes []string // with the dot
	urls     func() []string
	members  atomic.Pointer[memberNames]
}

// memberNames are the names of the members at a time.
type memberNames struct {
	names map[string]struct{}
	at    time.Time
}

// memberNamesFresh is how long they are used.
const memberNamesFresh = time.Second

// ErrEntry is the kind of every error about an entry of Config.Allowed.
var ErrEntry = errors.New("not a name of a host")

// New returns the names that cfg describes. An error names the entry of Allowed that is wrong.
func New(cfg Config) (*Set, error) {
	s := &Set{names: namesOf(cfg.URLs), urls: cfg.Members}
	s.names["localhost"] = struct{}{}
	for _, entry := range cfg.Allowed {
		if err := s.allow(strings.TrimSpace(entry)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Set) allow(entry string) error {
	name := strings.ToLower(strings.TrimSuffix(entry, "."))
	_, notIP := netip.ParseAddr(strings.Trim(name, "[]"))
	switch {
	case entry == "*":
		s.every = true
	case notIP == nil: // allowed anyway
	case strings.HasPrefix(name, "*."):
		return fmt.Errorf("%w: %q; write %q for everything below a name", ErrEntry, entry, name[1:])
	case !isName(strings.TrimPrefix(name, ".")):
		return fmt.Errorf("%w: %q; write a name without scheme, port or path, such as oncekv.example.com, .example.com for everything below it, or * for every name", ErrEntry, entry)
	case name[0] == '.':
		s.suffixes = append(s.suffixes, name)
	default:
		s.names[name] = struct{}{}
	}
	return nil
}

// isName reports whether a browser could put a name, in lower case, into Host. Many names
// inside of networks have underscores.
func isName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(name) <= 253
}

// namesOf returns the names of the hosts in URLs. What is no URL has none.
func namesOf(urls []string) map[string]struct{} {
	names := make(map[string]struct{}, len(urls)+1)
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			continue
		}
		if name, ok := nameOf(u.Host); ok && name != "" {
			names[name] = struct{}{}
		}
	}
	return names
}

// Allows reports whether a request with this Host may be answered. The port does not matter.
func (s *Set) Allows(host string) bool {
	name, ok := nameOf(host)
	if s.every || !ok {
		return s.every
	}
	if host[0] == '[' {
		return isIP(name, true)
	}
	if _, found := s.names[name]; found || isIP(name, false) {
		return true
	}
	for _, suffix := range s.suffixes {
		if strings.HasSuffix(name, suffix) || name == suffix[1:] {
			return true
		}
	}
	return s.urls != nil && s.isMember(name)
}

// isMember looks among the members' names. It asks who the members are, unless it has found the
// name among those of the last second.
func (s *Set) isMember(name string) bool {
	known := s.members.Load()
	if known != nil {
		if _, found := known.names[name]; found && time.Since(known.at) < memberNamesFresh {
			return true
		}
	}
	now := &memberNames{at: time.Now()} // before the question: the names may be newer, never older
	now.names = namesOf(s.urls())
	s.members.Store(now)
	_, found := now.names[name]
	return found
}

// nameOf returns the name in a Host, in lower case, without the port, the brackets of an
// address, and the dot of the root. It reports whether the Host is well formed.
func nameOf(host string) (string, bool) {
	name, port := host, ""
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", false
		}
		name, port = host[1:end], host[end+1:]
	} else if colon := strings.IndexByte(host, ':'); colon >= 0 {
		name, port = host[:colon], host[colon:]
	}
	if port != "" && (port[0] != ':' || !digits(port[1:])) {
		return "", false
	}
	return strings.ToLower(strings.TrimSuffix(name, ".")), name != ""
}

// digits reports whether s has only digits. It runs for every request, so it does without
// package strings, which would prepare for any set of characters.
func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// isIP reports whether a name is an address, of version 6 or 4.
func isIP(name string, six bool) bool {
	if !six && (name == "" || name[0] < '0' || name[0] > '9') {
		return false // most names; parsing them would cost an error
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Is4() != six
}
