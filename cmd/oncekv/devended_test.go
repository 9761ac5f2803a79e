package main

import (
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/server"
)

// dev empties the directory of a node that was removed, since the others have all of
// it, and never that of one whose cluster has ended: it may hold what they do not.
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
