package secure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/Focinfi/oncekv/internal/fsync"
)

// How long certificates are good for.
const (
	LeafTime      = 365 * 24 * time.Hour
	AuthorityTime = 10 * LeafTime
	backdated     = time.Hour // clocks differ
)

// AuthorityKeyFile is the authority's key. It stays with the operator: no node needs it.
const AuthorityKeyFile = "ca.key"

// Authority signs the certificates of a cluster.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority returns an authority for a cluster, with a key of its own (P-256).
func NewAuthority(cluster string) (*Authority, error) {
	if err := (ID{Cluster: cluster, Role: Database, Name: "x"}).Check(); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "oncekv " + cluster + " " + now.UTC().Format("2006-01-02")},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(AuthorityTime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert, key}, err
}

// OpenAuthority reads an authority from a directory with ca.crt and ca.key. ca.crt may have
// others too, as while one replaces another.
func OpenAuthority(dir string) (*Authority, error) {
	text, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	certs, err := certificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAFile), err)
	}
	path := filepath.Join(dir, AuthorityKeyFile)
	if text, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: there is no key in it", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: it is not an EC key in PKCS #8", path)
	}
	for _, cert := range certs {
		if key.PublicKey.Equal(cert.PublicKey) {
			return &Authority{cert, key}, nil
		}
	}
	return nil, fmt.Errorf("%s: it is the key of no certificate in %s", path, filepath.Join(dir, CAFile))
}

// Save writes ca.crt and ca.key into a directory, which it makes.
func (a *Authority) Save(dir string) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	return save(dir, map[string][]byte{CAFile: a.PEM(), AuthorityKeyFile: key})
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return certPEM(a.cert.Raw) }

// Issue makes the files of a node: certificates and keys of their own. hosts are the names
// and addresses at which clients reach it, besides localhost and loopback addresses. ca is
// what the node trusts; nil: this authority.
func (a *Authority) Issue(dir string, id ID, hosts []string, ca []byte) error {
	if err := id.Check(); err != nil {
		return err
	}
	node, nodeKey, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: string(id.Role) + "/" + id.Name},
		URIs:        []*url.URL{id.url()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	public := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.Name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			public.IPAddresses = append(public.IPAddresses, ip)
		} else if host != "localhost" {
			public.DNSNames = append(public.DNSNames, host)
		}
	}
	server, serverKey, err := a.sign(public)
	if err != nil {
		return err
	}
	if ca == nil {
		ca = a.PEM()
	}
	return save(dir, map[string][]byte{CAFile: ca, NodeCertFile: node, NodeKeyFile: nodeKey, ServerCertFile: server, ServerKeyFile: serverKey})
}

// sign completes a template and signs it, with a new key.
func (a *Authority) sign(template *x509.Certificate) (cert, key []byte, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template.SerialNumber, template.NotBefore, template.NotAfter = serial(), now.Add(-backdated), now.Add(LeafTime)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, nil, errors.New("the authority has expired: nodes need certificates of another")
	}
	template.KeyUsage, template.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, own.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(own)
	return certPEM(der), key, err
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f    // positive
	return new(big.Int).SetBytes(b[:])
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// save writes files into a directory that only its owner can read. Each file is replaced in
// one step; a certificate follows its key.
func save(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, suffix := range []string{".key", ".crt"} {
		for name, text := range files {
			if filepath.Ext(name) != suffix {
				continue
			}
			mode := os.FileMode(0o644)
			if suffix == ".key" {
				mode = 0o600
			}
			if err := replace(filepath.Join(dir, name), text, mode); err != nil {
				return err
			}
		}
	}
	return fsync.SyncDir(dir)
}

func replace(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new")
	}
	return err
}
