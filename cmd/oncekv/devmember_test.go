package main

import (
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/server"
)

// dev empties the directory of a removed node, because the others have all its data. It never
// empties that of a node whose cluster has ended: it may hold data that the others lack.
func TestBeginsAnew(t *testing.T) {
	for err, want := range map[error]bool{
		server.ErrRemoved: true, server.ErrLostData: true, errDirLost: true,
		server.ErrEnded: false, server.ErrDiskFailed: false,
	} {
		if got := beginsAnew(fmt.Errorf("n2: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
