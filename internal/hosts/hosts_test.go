package hosts_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/internal/hosts"
)

func newSet(t testing.TB, cfg hosts.Config) *hosts.Set {
	t.Helper()
	s, err := hosts.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSet_Allows(t *testing.T) {
	t.Parallel()
	s := newSet(t, hosts.Config{
		Allowed: []string{"kv.example.com", ".lab.example", " Oncekv_A ", "10.0.0.1"},
		URLs:    []string{"http://n1.example:11000", "http://N2.Example", "http://[fe80::1]:1", "no url", "://", ""},
		Members: func() []string { return []string{"http://member.example:1"} },
	})
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:11000": true, "10.1.2.3:80": true, "0.0.0.0": true, "127.0.0.1.": true,
		"[::1]": true, "[::1]:11000": true, "[fe80::1%eth0]:1": true, "[fe80::1%25eth0]": true, "[::ffff:127.0.0.1]:1": true,
		"localhost": true, "LocalHost:5551": true, "localhost.": true, "localhost.:1": true, "localhost:": true,
		"n1.example": true, "N1.EXAMPLE:9": true, "n2.example:1": true, "n1.example.": true,
		"kv.example.com": true, "a.lab.example": true, "b.A.lab.example:1": true, "lab.example": true, "oncekv_a:1": true, "member.example:2": true,

		"": false, ":80": false, ".": false, "..": false, "[": false, "[]": false, "[]:80": false, "[::1": false, "[::1]x": false, "[::1]:x": false,
		"::1": false, "::1:80": false, "[127.0.0.1]": false, "[localhost]": false, "[n1.example]:1": false,
		"attacker.example:11000": false, "n1.example.attacker.example": false, "xn1.example": false, "127.0.0.1.attacker.example": false,
		"localhost.attacker.example": false, "app.localhost": false, "localhost..": false, "localhost:abc": false, "localhost:1:2": false,
		"xlab.example": false, "kv.example.com.evil": false, "www.kv.example.com": false,
		"127.1": false, "2130706433": false, "0x7f.0.0.1": false, "127.0.0.01": false, "1.2.3.4.5": false, "user@127.0.0.1": false,
		"127.0.0.1, attacker.example": false, "*": false, "%00": false, strings.Repeat("a", 70_000): false,
	} {
		if got := s.Allows(host); got != want {
			t.Errorf("%.60q: %v, want %v", host, got, want)
		}
	}
}

func TestSet_EveryName(t *testing.T) {
	t.Parallel()
	s := newSet(t, hosts.Config{Allowed: []string{"*"}})
	for _, host := range []string{"attacker.example", "", "[", "a:b"} {
		if !s.Allows(host) {
			t.Errorf("%q is refused", host)
		}
	}
}

func TestSet_FollowsTheMembers(t *testing.T) {
	t.Parallel()
	var urls atomic.Pointer[[]string]
	urls.Store(&[]string{})
	s := newSet(t, hosts.Config{Members: func() []string { return *urls.Load() }})
	if s.Allows("n4.example:1") {
		t.Error("no member yet")
	}
	urls.Store(&[]string{"http://n4.example:1", "http://n4-peer.example:2"})
	if !s.Allows("n4.example:1") || !s.Allows("n4-peer.example") {
		t.Error("the names of a new member do not count at once")
	}
	urls.Store(&[]string{})
	if s.Allows("n5.example") || s.Allows("n4.example") { // any other name makes it look
		t.Error("the name of a member that is gone counts on")
	}
}

func TestNew_RefusesWhatIsNoName(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{"", ".", "..", "http://a.example", "a.example:80", "a.example/", "*.example", "a.*", "a b", "a..b", "ä.example", "a,b", "user@a", strings.Repeat("a.", 200) + "b"} {
		if _, err := hosts.New(hosts.Config{Allowed: []string{entry}}); !errors.Is(err, hosts.ErrEntry) {
			t.Errorf("%q: %v", entry, err)
		}
	}
	for _, entry := range []string{"*", "a", "A.example.", ".a.example", "[::1]", "::1", "10.0.0.1", "a_b"} {
		if _, err := hosts.New(hosts.Config{Allowed: []string{entry}}); err != nil {
			t.Errorf("%q: %v", entry, err)
		}
	}
}

// A name that is usual costs no memory, so that the check cannot be felt.
func BenchmarkSet_Allows(b *testing.B) {
	s := newSet(b, hosts.Config{
		Allowed: []string{"kv.example.com", ".lab.example"}, URLs: []string{"http://n1.example:11000"},
		Members: func() []string { return []string{"http://n2.example:1", "http://n3.example:1"} },
	})
	for _, host := range []string{"127.0.0.1:11000", "[::1]:11000", "localhost:11000", "n1.example:11000", "kv.example.com", "c1.lab.example:5551", "n2.example:1"} {
		s.Allows(host)
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.Allows(host) {
					b.Fatal("refused")
				}
			}
		})
	}
}

func TestSet_Allows_AllocatesNothing(t *testing.T) {
	s := newSet(t, hosts.Config{URLs: []string{"http://n1.example:11000"}})
	for _, host := range []string{"127.0.0.1:11000", "[::1]:11000", "localhost:11000", "n1.example:11000"} {
		if n := testing.AllocsPerRun(100, func() { s.Allows(host) }); n != 0 {
			t.Errorf("%s costs %v allocations", host, n)
		}
	}
}
