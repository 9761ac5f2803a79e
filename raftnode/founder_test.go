package raftnode

import (
	"fmt"
)

// testFounders are n1, n2 and so on.
func testFounders(size int) (founders []founder) {
	for id := ID(1); id <= ID(size); id++ {
		founders = append(founders, founder{
			Member{ID: id, Name: fmt.Sprintf("n%d", id), PeerURL: fmt.Sprintf("http://h%d:1", id), ClientURL: fmt.Sprintf("http://h%d:2", id)},
			birth{Nonce: nonce{byte(id)}, Level: 1},
		})
	}
	return founders
}
