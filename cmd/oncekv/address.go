package main

import (
	"strings"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/server"
)

// addSchemes makes URLs of nodes that a person named by host:port alone. What
// nodes tell one another (--advertise, --initial-cluster) is not completed.
func addSchemes(nodes []string) {
	for i, node := range nodes {
		nodes[i] = client.WithScheme(node)
	}
}

// checkEndpoints verifies the URLs at which a client command tries nodes.
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

// checkMemberURL verifies a URL by which a member is to be known.
func checkMemberURL(flag, u string) error {
	if _, err := nodeurl.WithPort(u); err != nil {
		return usageErrorf("--%s: %w", flag, err)
	}
	return nil
}

// parseCluster reads name=URL pairs. What they hold is for package server to
// check.
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

// atLeastOne refuses a size of nothing.
func atLeastOne(flag string, n byteSize) error {
	if n < 1 {
		return usageErrorf("--%s must be at least 1", flag)
	}
	return nil
}
