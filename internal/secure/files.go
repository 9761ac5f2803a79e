package secure

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Names of the files in a node's directory.
const (
	CAFile         = "ca.crt"
	NodeCertFile   = "node.crt"
	NodeKeyFile    = "node.key"
	ServerCertFile = "server.crt"
	ServerKeyFile  = "server.key"
)

// Config says where a node's files are.
type Config struct {
	Dir string // the node's directory
	// ServerCert and ServerKey replace server.crt and server.key, if not empty.
	ServerCert, ServerKey string
	// Revoked reports whether a certificate with this key, see KeyHash, is revoked; nil: none
	// is. It must not block.
	Revoked func(key [sha256.Size]byte) bool
	// Reload is how often Run looks for changed files, default 5 s.
	Reload time.Duration
	Logger *slog.Logger
}

// Files are a node's certificates, keys and authorities, as its files say. Methods may be
// called from any goroutine.
type Files struct {
	cfg    Config
	logger *slog.Logger
	now    atomic.Pointer[content]
	told   tellings // of expired certificates
}

// content is what the files say together.
type content struct {
	id          ID
	node        tls.Certificate
	server      tls.Certificate
	authorities *x509.CertPool
	cas         []*x509.Certificate
	read        [5][]byte // the files' bytes
}

// Open reads a node's files. An error names the file, and says what to do.
func Open(cfg Config) (*Files, error) {
	cfg.Reload = cmp.Or(cfg.Reload, 5*time.Second)
	f := &Files{cfg: cfg, logger: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))}
	read, err := f.read()
	if err != nil {
		return nil, err
	}
	c, err := f.parse(read)
	if err != nil {
		return nil, err
	}
	f.now.Store(c)
	return f, nil
}

// paths are the files that are read, in the order of content.read.
func (f *Files) paths() [5]string {
	in := func(name string) string { return filepath.Join(f.cfg.Dir, name) }
	return [5]string{
		in(CAFile), in(NodeCertFile), in(NodeKeyFile),
		cmp.Or(f.cfg.ServerCert, in(ServerCertFile)), cmp.Or(f.cfg.ServerKey, in(ServerKeyFile)),
	}
}

func (f *Files) read() (read [5][]byte, err error) {
	for i, path := range f.paths() {
		if read[i], err = os.ReadFile(path); err != nil {
			return read, fmt.Errorf("%w: `oncekv init` and `oncekv cert issue` make the files of a node", err)
		}
	}
	return read, nil
}

func (f *Files) parse(read [5][]byte) (*content, error) {
	paths := f.paths()
	c := &content{read: read, authorities: x509.NewCertPool()}
	var err error
	if c.cas, err = certificates(read[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", paths[0], err)
	}
	for _, ca := range c.cas {
		if !ca.IsCA {
			return nil, fmt.Errorf("%s: the certificate of %s is not one of an authority", paths[0], ca.Subject)
		}
		c.authorities.AddCert(ca)
	}
	if c.node, err = pair(read[1], read[2]); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", paths[1], paths[2], err)
	}
	if c.id, err = parseID(c.node.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", paths[1], err)
	}
	if err := c.verify(c.node.Leaf, chainOf(&c.node), time.Now()); err != nil && !expired(err) {
		return nil, fmt.Errorf("%s: %w: does %s belong to it?", paths[1], err, paths[0])
	}
	if c.server, err = pair(read[3], read[4]); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", paths[3], paths[4], err)
	}
	return c, nil
}

// pair parses a certificate and its key. Errors do not quote the key.
func pair(cert, key []byte) (tls.Certificate, error) {
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return c, err
	}
	if c.Leaf == nil {
		c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	}
	return c, err
}

func chainOf(c *tls.Certificate) (rest []*x509.Certificate) {
	for _, der := range c.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			rest = append(rest, cert)
		}
	}
	return rest
}

// certificates parses all certificates of a PEM file; there must be one.
func certificates(text []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a %s, and must have certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return certs, nil
}

// ID returns who this node is.
func (f *Files) ID() ID { return f.now.Load().id }

// Run takes in files that have changed, until ctx ends. Connections that are open stay.
func (f *Files) Run(ctx context.Context) {
	tick := time.NewTicker(f.cfg.Reload)
	defer tick.Stop()
	var failed string
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := f.Reload()
		switch {
		case err == nil:
			failed = ""
		case err.Error() != failed:
			failed = err.Error()
			f.logger.Warn("the changed certificates are not used, the node goes on with those it has", "err", err)
		}
	}
}

// Reload takes in files that have changed. An error means that nothing was.
func (f *Files) Reload() error {
	read, err := f.read()
	if err != nil {
		return err
	}
	old := f.now.Load()
	same := true
	for i := range read {
		same = same && bytes.Equal(read[i], old.read[i])
	}
	if same {
		return nil
	}
	c, err := f.parse(read)
	if err != nil {
		return err
	}
	if c.id != old.id {
		return fmt.Errorf("%s names %s, and this node is %s: start it anew to change its name", f.paths()[1], c.id, old.id)
	}
	f.now.Store(c)
	f.logger.Info("took in changed certificates", "node_until", c.node.Leaf.NotAfter, "server_until", c.server.Leaf.NotAfter, "authorities", len(c.cas))
	return nil
}

// Certificate is one that the node uses.
type Certificate struct {
	File  string
	Until time.Time // when it expires
}

// Certificates returns those in use, for metrics: the node's, the server's, and of the
// authorities the one that expires first.
func (f *Files) Certificates() []Certificate {
	c := f.now.Load()
	ca := c.cas[0].NotAfter
	for _, cert := range c.cas {
		if cert.NotAfter.Before(ca) {
			ca = cert.NotAfter
		}
	}
	return []Certificate{{CAFile, ca}, {NodeCertFile, c.node.Leaf.NotAfter}, {ServerCertFile, c.server.Leaf.NotAfter}}
}

// KeyHash is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo), by which it is
// revoked. Renewed certificates with the same key have the same.
func KeyHash(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}
