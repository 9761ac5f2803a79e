package secure

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// authority returns an authority for the tests.
func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// node makes and opens the files of a node.
func node(t *testing.T, a *Authority, id ID, change ...func(*Config)) *Files {
	t.Helper()
	cfg := Config{Dir: t.TempDir()}
	if err := a.Issue(cfg.Dir, id, []string{"kv.example.com", "10.1.2.3"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&cfg)
	}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var n1, n2, c1 = ID{"prod", Database, "n1"}, ID{"prod", Database, "n2"}, ID{"prod", Cache, "c1"}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// meet connects a client to a server over a socket, and says whom each saw.
func meet(t *testing.T, server *Files, face Face, dial func(net.Conn) (*tls.Conn, error)) (conn *Conn, seen ID, node bool, err error) {
	t.Helper()
	ln, e := net.Listen("tcp", "127.0.0.1:0")
	if e != nil {
		t.Fatal(e)
	}
	defer ln.Close()
	accepted := make(chan *Conn, 1)
	failed := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			failed <- err
			return
		}
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		c := server.Accept(raw, face)
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			_ = c.Close()
			failed <- err
			return
		}
		_, _ = c.Write(b[:])
		accepted <- c
	}()
	raw, e := net.Dial("tcp", ln.Addr().String())
	if e != nil {
		t.Fatal(e)
	}
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	client, err := dial(raw)
	if err == nil {
		var b [1]byte
		_, err = client.Write([]byte("x"))
		if err == nil {
			_, err = io.ReadFull(client, b[:])
		}
		t.Cleanup(func() { _ = client.Close() })
	} else {
		_ = raw.Close()
	}
	select {
	case c := <-accepted:
		t.Cleanup(func() { _ = c.Close() })
		seen, node = c.Peer()
		return c, seen, node, err
	case e := <-failed:
		return nil, ID{}, false, errors.Join(err, e)
	}
}

func as(f *Files, want Want) func(net.Conn) (*tls.Conn, error) {
	return func(raw net.Conn) (*tls.Conn, error) { return f.Dial(context.Background(), raw, want) }
}

// browser is a client that knows the authority, and nothing of nodes.
func browser(f *Files, name string, change ...func(*tls.Config)) func(net.Conn) (*tls.Conn, error) {
	return func(raw net.Conn) (*tls.Conn, error) {
		cfg := &tls.Config{RootCAs: f.now.Load().authorities, ServerName: name}
		for _, c := range change {
			c(cfg)
		}
		c := tls.Client(raw, cfg)
		return c, c.Handshake()
	}
}

func TestNodes_SeeEachOther(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	for _, face := range []Face{Public, Peers} {
		_, seen, ok, err := meet(t, node(t, a, n1), face, as(node(t, a, c1), Want{Database, "n1"}))
		if err != nil || !ok || seen != c1 {
			t.Errorf("face %d: saw %v, %v, %v", face, seen, ok, err)
		}
	}
}

func TestNodes_WrongOnes(t *testing.T) {
	t.Parallel()
	a, other, foreign := authority(t, "prod"), authority(t, "prod"), authority(t, "stage")
	server := node(t, a, n1)
	for _, tt := range []struct {
		name   string
		client *Files
		want   Want
	}{
		{"another name than expected", node(t, a, c1), Want{Database, "n2"}},
		{"another role than expected", node(t, a, c1), Want{Cache, "n1"}},
		{"an authority of the same name, of a stranger", node(t, other, c1), Want{}},
		{"another cluster", node(t, foreign, ID{"stage", Cache, "c1"}), Want{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, seen, ok, err := meet(t, server, Public, as(tt.client, tt.want)); err == nil {
				t.Errorf("connected, and saw %v, %v", seen, ok)
			}
		})
	}
}

// TestServer_ChecksToo: a stranger's node would accept any server.
func TestServer_ChecksToo(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	server, rogue := node(t, a, n1), node(t, authority(t, "prod"), c1)
	careless := func(change func(*tls.Config)) func(net.Conn) (*tls.Conn, error) {
		return func(raw net.Conn) (*tls.Conn, error) {
			cfg := rogue.Client(Want{})
			cfg.VerifyConnection = nil
			change(cfg)
			c := tls.Client(raw, cfg)
			return c, c.Handshake()
		}
	}
	public, err := tls.LoadX509KeyPair(filepath.Join(server.cfg.Dir, ServerCertFile), filepath.Join(server.cfg.Dir, ServerKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tls.Config){
		"foreign authority":      func(*tls.Config) {},
		"no certificate":         func(c *tls.Config) { c.Certificates = nil },
		"a server's certificate": func(c *tls.Config) { c.Certificates = []tls.Certificate{public} },
		"TLS 1.2":                func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, seen, ok, err := meet(t, server, Public, careless(change)); err == nil {
				t.Errorf("connected, and was seen as %v, %v", seen, ok)
			}
		})
	}
}

func TestBrowser(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	server := node(t, a, n1)
	for _, name := range []string{"localhost", "127.0.0.1", "kv.example.com", "10.1.2.3"} {
		asked := false
		_, _, isNode, err := meet(t, server, Public, browser(server, name, func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			}
		}))
		if err != nil || isNode || asked {
			t.Errorf("%s: node %v, asked for a certificate %v, %v", name, isNode, asked, err)
		}
	}
	if _, _, _, err := meet(t, server, Public, browser(server, "evil.example.com")); err == nil {
		t.Error("a name that the certificate does not have was good")
	}
	if _, _, _, err := meet(t, server, Peers, browser(server, "localhost")); err == nil {
		t.Error("a port for nodes let a browser in")
	}
	// A node's certificate without the protocol is nobody's.
	if _, _, isNode, err := meet(t, server, Public, browser(server, "localhost", func(c *tls.Config) {
		c.Certificates = []tls.Certificate{server.now.Load().node}
	})); err != nil || isNode {
		t.Errorf("node %v, %v", isNode, err)
	}
	resumed := tls.NewLRUClientSessionCache(4)
	for range 2 {
		_, _, _, err := meet(t, server, Public, func(raw net.Conn) (*tls.Conn, error) {
			c := tls.Client(raw, &tls.Config{RootCAs: server.now.Load().authorities, ServerName: "localhost", ClientSessionCache: resumed})
			if err := c.Handshake(); err != nil {
				return nil, err
			}
			if c.ConnectionState().DidResume {
				t.Error("a session was resumed")
			}
			return c, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestExpired_BetweenNodesOnly(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	dir := t.TempDir()
	if err := a.Issue(dir, c1, nil, nil); err != nil {
		t.Fatal(err)
	}
	cert, key, err := a.sign(&x509.Certificate{URIs: []*url.URL{c1.url()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}})
	if err != nil {
		t.Fatal(err)
	}
	own, err := pair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	signed := own.Leaf
	old := *signed
	old.NotBefore, old.NotAfter = time.Now().Add(-30*time.Minute), time.Now().Add(-10*time.Minute)
	younger := *signed
	younger.NotBefore = time.Now().Add(24 * time.Hour)
	for name, tt := range map[string]struct {
		cert x509.Certificate
		fine bool
	}{"expired": {old, true}, "not yet valid": {younger, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			der, err := x509.CreateCertificate(nil, &tt.cert, a.cert, signed.PublicKey, a.key)
			if err != nil {
				t.Fatal(err)
			}
			f := node(t, a, n1)
			now := *f.now.Load()
			now.node = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own.PrivateKey}
			f.now.Store(&now)
			var logged strings.Builder
			server := node(t, a, n2, func(c *Config) { c.Logger = logTo(&logged) })
			_, seen, ok, err := meet(t, server, Public, as(f, Want{}))
			if tt.fine && (err != nil || !ok || seen != c1 || !strings.Contains(logged.String(), "cert renew")) || !tt.fine && err == nil {
				t.Errorf("saw %v, %v, %v; logged %q", seen, ok, err, logged.String())
			}
		})
	}
}

func TestRevoked(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	cache := node(t, a, c1)
	key := KeyHash(cache.now.Load().node.Leaf)
	var revoked atomic.Bool
	server := node(t, a, n1, func(c *Config) { c.Revoked = func(k [sha256.Size]byte) bool { return revoked.Load() && k == key } })
	conn, _, ok, err := meet(t, server, Public, as(cache, Want{}))
	if err != nil || !ok {
		t.Fatal(err)
	}
	revoked.Store(true)
	if _, ok := conn.Peer(); ok {
		t.Error("a connection that is open outlives the revocation")
	}
	if _, _, _, err := meet(t, server, Public, as(cache, Want{})); err == nil {
		t.Error("a revoked certificate connects")
	}
	if _, _, _, err := meet(t, cache, Public, as(server, Want{})); err == nil {
		t.Error("a node connects to one with a revoked certificate")
	}
}

// TestReload replaces an authority while nodes run, as docs/access.md says: both are trusted,
// then certificates are renewed, then the old one goes.
func TestReload(t *testing.T) {
	t.Parallel()
	before, after := authority(t, "prod"), authority(t, "prod")
	both := append(before.PEM(), after.PEM()...)
	server, client := node(t, before, n1), node(t, before, c1)
	good := func() *Conn {
		t.Helper()
		conn, seen, ok, err := meet(t, server, Public, as(client, Want{Database, "n1"}))
		if err != nil || !ok || seen != c1 {
			t.Fatalf("saw %v, %v, %v", seen, ok, err)
		}
		return conn
	}
	reload := func(f *Files) {
		t.Helper()
		if err := f.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	good()
	for _, f := range []*Files{server, client} {
		if err := os.WriteFile(filepath.Join(f.cfg.Dir, CAFile), both, 0o600); err != nil {
			t.Fatal(err)
		}
		reload(f)
	}
	old := good()
	for _, f := range []*Files{server, client} {
		if err := after.Issue(f.cfg.Dir, f.ID(), nil, both); err != nil {
			t.Fatal(err)
		}
		reload(f)
		good()
	}
	if err := os.WriteFile(filepath.Join(server.cfg.Dir, CAFile), after.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	reload(server)
	good()
	if _, ok := old.Peer(); ok {
		t.Error("a connection outlives the authority that had signed for it")
	}
	stale := node(t, before, n2)
	if _, _, _, err := meet(t, server, Public, as(stale, Want{})); err == nil {
		t.Error("a certificate of the retired authority connects")
	}
}

func TestReload_WholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	a := authority(t, "prod")
	for name, spoil := range map[string]func(dir string) error{
		"key of another": func(dir string) error { return a.Issue(filepath.Join(dir, "x"), n1, nil, nil) },
		"cut":            func(dir string) error { return os.Truncate(filepath.Join(dir, NodeCertFile), 20) },
		"gone":           func(dir string) error { return os.Remove(filepath.Join(dir, ServerKeyFile)) },
		"another's name": func(dir string) error { return a.Issue(dir, n2, nil, nil) },
		"no authority":   func(dir string) error { return os.WriteFile(filepath.Join(dir, CAFile), []byte("hello"), 0o600) },
		"not an authority": func(dir string) error {
			b, _ := os.ReadFile(filepath.Join(dir, NodeCertFile))
			return os.WriteFile(filepath.Join(dir, CAFile), b, 0o600)
		},
		"stranger's": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, CAFile), authority(t, "prod").PEM(), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := node(t, a, n1)
			before := f.now.Load()
			if err := spoil(f.cfg.Dir); err != nil {
				t.Fatal(err)
			}
			if name == "key of another" {
				if err := os.Rename(filepath.Join(f.cfg.Dir, "x", NodeKeyFile), filepath.Join(f.cfg.Dir, NodeKeyFile)); err != nil {
					t.Fatal(err)
				}
			}
			err := f.Reload()
			if err == nil || f.now.Load() != before {
				t.Fatalf("taken in: %v", err)
			}
			if strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the error quotes a key: %v", err)
			}
		})
	}
}

func TestFiles_OnlyForTheOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "n1")
	if err := authority(t, "prod").Issue(dir, n1, nil, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, NodeKeyFile: 0o600, ServerKeyFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestAuthority_SavedAndOpened(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	a := authority(t, "prod")
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := meet(t, node(t, a, n1), Public, as(node(t, b, c1), Want{})); err != nil || !ok {
		t.Error(err)
	}
}

func TestID_Check(t *testing.T) {
	t.Parallel()
	for _, id := range []ID{{"", Database, "n1"}, {"Prod", Database, "n1"}, {"a/b", Database, "n1"}, {"prod", "boss", "n1"}, {"prod", Database, ""}, {"prod", Database, "../n1"}, {"prod", Database, "a b"}} {
		if err := id.Check(); err == nil {
			t.Errorf("%v is fine", id)
		}
		if err := authority(t, "prod").Issue(t.TempDir(), id, nil, nil); err == nil {
			t.Errorf("%v gets a certificate", id)
		}
	}
	for _, uri := range []string{"spiffe://prod/db/n1?x", "spiffe://prod/db/n1#x", "spiffe://u@prod/db/n1", "spiffe://prod/db/n%31", "https://prod/db/n1", "spiffe://prod/db", "spiffe://prod/db/n1/", "spiffe://prod//db/n1", "spiffe://prod:1/db/n1"} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := parseID(&x509.Certificate{URIs: []*url.URL{u}}); err == nil {
			t.Errorf("%s is %v", uri, id)
		}
	}
	if id, err := parseID(&x509.Certificate{URIs: []*url.URL{n1.url(), n2.url()}}); err == nil {
		t.Errorf("a certificate with two names is %v", id)
	}
}
