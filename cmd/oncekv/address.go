package main

import (
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/Focinfi/oncekv/internal/server"
)

var nodeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

func checkName(name string) error {
	if !nodeName.MatchString(name) {
		return usageErrorf("--name %q is no name for a node: use 1 to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-'", name)
	}
	return nil
}

// checkListen verifies an address to listen on. Others cannot reach a wildcard
// address, so then the one to advertise must be given.
func checkListen(flag, listen, advertiseFlag, advertise string) error {
	if err := checkAddress(flag, listen); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	if advertise == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		return usageErrorf("--%s %s means every interface; say with --%s URL how others reach this node", flag, listen, advertiseFlag)
	}
	return nil
}

// checkAddress verifies an address that nobody else need be told.
func checkAddress(flag, listen string) error {
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return usageErrorf("--%s %q is not an address: write host:port, such as 127.0.0.1:11000", flag, listen)
	}
	return nil
}

// checkURL verifies the URL of a node. An empty one is not given.
func checkURL(flag, s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return usageErrorf("--%s %q is not the URL of a node: write it like http://127.0.0.1:11000", flag, s)
	}
	return nil
}

func checkURLs(flag string, urls []string) error {
	if len(urls) == 0 {
		return usageErrorf("--%s is empty: give at least one URL, such as http://127.0.0.1:11000", flag)
	}
	for _, u := range urls {
		if u == "" {
			return usageErrorf("--%s has an empty entry", flag)
		}
		if err := checkURL(flag, u); err != nil {
			return err
		}
	}
	return nil
}

// parseCluster reads name=URL pairs.
func parseCluster(pairs []string) ([]server.Peer, error) {
	const flag = "initial-cluster"
	var peers []server.Peer
	names, urls := map[string]bool{}, map[string]bool{}
	for _, pair := range pairs {
		name, u, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || !nodeName.MatchString(name) || u == "" {
			return nil, usageErrorf("--%s: %q is not name=URL, such as n1=http://127.0.0.1:12000", flag, pair)
		}
		if err := checkURL(flag, u); err != nil {
			return nil, err
		}
		if names[name] || urls[u] {
			return nil, usageErrorf("--%s names %s or its URL twice", flag, name)
		}
		names[name], urls[u] = true, true
		peers = append(peers, server.Peer{Name: name, URL: u})
	}
	return peers, nil
}
