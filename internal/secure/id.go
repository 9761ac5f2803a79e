package secure

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// Role is what a node is.
type Role string

// The roles.
const (
	Database Role = "db"
	Cache    Role = "cache"
	Admin    Role = "admin"
	Mirror   Role = "mirror"
)

// roles are all of them.
var roles = []Role{Database, Cache, Admin, Mirror}

// ParseRole returns the role with this name.
func ParseRole(name string) (Role, error) {
	for _, r := range roles {
		if string(r) == name {
			return r, nil
		}
	}
	return "", fmt.Errorf("there is no role %q: the roles are db, cache, admin and mirror", name)
}

// ID is who a node is. The zero value is nobody.
type ID struct {
	Cluster string // name of the cluster, as given to `oncekv init`
	Role    Role
	Name    string
}

const scheme = "spiffe"

// String returns the ID's URI, spiffe://CLUSTER/ROLE/NAME.
func (id ID) String() string { return id.url().String() }

func (id ID) url() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Cluster, Path: "/" + string(id.Role) + "/" + id.Name}
}

// Check returns an error unless all parts of the ID are valid. Names are those of nodes.
func (id ID) Check() error {
	if err := nodeurl.CheckName(id.Cluster); err != nil {
		return fmt.Errorf("name of the cluster: %w", err)
	}
	if id.Cluster != strings.ToLower(id.Cluster) || strings.ContainsRune(id.Cluster, '_') {
		return fmt.Errorf("name of the cluster: %q must have lower-case letters, digits, dots and hyphens only: it stands where a URL has its host", id.Cluster)
	}
	if _, err := ParseRole(string(id.Role)); err != nil {
		return err
	}
	return nodeurl.CheckName(id.Name)
}

var errNotNode = errors.New("the certificate is not one of a node: it has no URI such as spiffe://CLUSTER/db/n1")

// parseID reads the ID of a certificate. It must have exactly one URI.
func parseID(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, errNotNode
	}
	u := cert.URIs[0]
	parts := strings.Split(u.Path, "/")
	if u.Scheme != scheme || len(parts) != 3 || parts[0] != "" {
		return ID{}, errNotNode
	}
	id := ID{Cluster: u.Host, Role: Role(parts[1]), Name: parts[2]}
	if err := id.Check(); err != nil {
		return ID{}, fmt.Errorf("%w: %w", errNotNode, err)
	}
	if id.String() != u.String() { // a user, a query, an escape, a fragment
		return ID{}, errNotNode
	}
	return id, nil
}
