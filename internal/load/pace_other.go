//go:build !linux

package load

import (
	"context"
	"time"
)

// waitPrecisely is as precise as Go's timers are here.
func waitPrecisely(ctx context.Context, t time.Time) bool { return waitUntil(ctx, t) }
