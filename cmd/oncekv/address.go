package main

import (
	"strings"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/server"
)

// addSchemes completes nodes that a person named by host:port. URLs that nodes tell one
// another (--advertise, --initial-cluster) are not completed.
func addSchemes(nodes []string) {
	for i, node := range nodes {
		nodes[i] = client.WithScheme(node)
	}
}

// checkEndpoints checks the URLs at which a client command tries nodes.
func checkEndpoints(urls []string) error {
	if len(urls) == 0 {
		return usageErrorf("--endpoints is empty: give at least one URL, such as http://127.0.0.1:11000")
	}
	for _, u := range urls {
		if _, err := nodeurl.Endpoint(u); err != nil {
			return usageErrorf("--endpoints: %w", err)
		}
	}
	return nil
}

// checkMemberURL checks a URL under which the cluster will know a member.
func checkMemberURL(flag, u string) error {
	if _, err := nodeurl.WithPort(u); err != nil {
		return usageErrorf("--%s: %w", flag, err)
	}
	return nil
}

// parseCluster reads name=URL pairs. Package server checks the names and URLs.
func parseCluster(pairs []string) ([]server.Peer, error) {
	var peers []server.Peer
	for _, pair := range pairs {
		name, u, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || name == "" || u == "" {
			return nil, usageErrorf("--initial-cluster: %.200q is not name=URL, such as n1=http://127.0.0.1:12000", pair)
		}
		peers = append(peers, server.Peer{Name: name, URL: u})
	}
	return peers, nil
}

// atLeastOne refuses a size of zero.
func atLeastOne(flag string, n byteSize) error {
	if n < 1 {
		return usageErrorf("--%s must be at least 1", flag)
	}
	return nil
}
