package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Protocol is what nodes offer by ALPN to be spoken to as nodes.
const Protocol = "oncekv-node"

// ErrPeer is why a node is not spoken to: its certificate is not the one that belongs there.
var ErrPeer = errors.New("the other node's certificate is refused")

// Want is whom a node expects at the other end. Empty fields are not checked.
type Want struct {
	Role Role
	Name string
}

// Check returns an ErrPeer if id is somebody else.
func (w Want) Check(id ID) error {
	if w.Role != "" && id.Role != w.Role || w.Name != "" && id.Name != w.Name {
		return fmt.Errorf("%w: it is %s, where %s/%s was expected", ErrPeer, id, orAny(string(w.Role)), orAny(w.Name))
	}
	return nil
}

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}

// verify checks the chain of a node's certificate at a time.
func (c *content) verify(leaf *x509.Certificate, rest []*x509.Certificate, at time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range rest {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.authorities, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// peer returns who a node at the other end of a connection is, or an ErrPeer.
func (f *Files) peer(s *tls.ConnectionState) (ID, error) {
	if s.NegotiatedProtocol != Protocol || len(s.PeerCertificates) == 0 {
		return ID{}, fmt.Errorf("%w: it does not speak as a node", ErrPeer)
	}
	c := f.now.Load()
	leaf, now := s.PeerCertificates[0], time.Now()
	id, err := parseID(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	if id.Cluster != c.id.Cluster {
		return ID{}, fmt.Errorf("%w: it is of the cluster %s, this node of %s", ErrPeer, id.Cluster, c.id.Cluster)
	}
	at := now
	if now.After(leaf.NotAfter) {
		at = leaf.NotAfter // see the package's invariants
	}
	if err := c.verify(leaf, s.PeerCertificates[1:], at); err != nil {
		return ID{}, fmt.Errorf("%w: %s: %w", ErrPeer, id, err)
	}
	if f.revoked(leaf) {
		return ID{}, fmt.Errorf("%w: that of %s is revoked", ErrPeer, id)
	}
	if at != now {
		f.told.expired(f, id, leaf.NotAfter)
	}
	return id, nil
}

func (f *Files) revoked(leaf *x509.Certificate) bool {
	return f.cfg.Revoked != nil && f.cfg.Revoked(KeyHash(leaf))
}

// tellEvery is how often an expired certificate is logged.
const tellEvery = time.Minute

// tellings remembers when the expiry of whose certificate was logged.
type tellings struct {
	mu   sync.Mutex
	last map[ID]time.Time
}

func (t *tellings) expired(f *Files, id ID, until time.Time) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, told := t.last[id]; told && now.Sub(last) < tellEvery {
		return
	}
	if t.last == nil || len(t.last) > 1024 {
		t.last = make(map[ID]time.Time)
	}
	t.last[id] = now
	f.logger.Warn("a node's certificate has expired: renew it with `oncekv cert renew`; it is accepted meanwhile", "peer", id.String(), "expired", until)
}

// Face is what a port shows.
type Face int

const (
	Public Face = iota // both faces: nodes are told by their protocol
	Peers              // nodes only: everybody else fails to connect
)

// Server returns the configuration of a listener. It follows the files.
func (f *Files) Server(face Face) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c := f.now.Load()
			for _, p := range hello.SupportedProtos {
				if p == Protocol {
					return f.nodeFace(c), nil
				}
			}
			if face == Peers {
				return nil, fmt.Errorf("%w: this port is for nodes", ErrPeer)
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{c.server}, NextProtos: []string{"http/1.1"},
			}, nil
		},
	}
}

// nodeFace is the server's side between nodes. net/http knows the certificate's owner from
// Peer.
func (f *Files) nodeFace(c *content) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{c.node}, NextProtos: []string{Protocol},
		ClientAuth: tls.RequireAnyClientCert, // checked by VerifyConnection: crypto/tls refuses expired ones
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := f.peer(&s)
			return err
		},
	}
}

// Client returns the configuration with which this node speaks to another.
func (f *Files) Client(want Want) *tls.Config {
	c := f.now.Load()
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{c.node},
		NextProtos:         []string{Protocol},
		InsecureSkipVerify: true, // VerifyConnection checks the chain, and the name in the URI instead of the host's
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := f.peer(&s)
			if err != nil {
				return err
			}
			return want.Check(id)
		},
	}
}
