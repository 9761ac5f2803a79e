//go:build !linux

package load

import (
	"context"
	"time"
)

// waitPrecisely is only as precise as Go's timers here.
func waitPrecisely(ctx context.Context, t time.Time) bool { return waitUntil(ctx, t) }
