//go:build !linux

package hostile

import "time"

// othersTime needs Linux.
func othersTime() (time.Duration, bool) { return 0, false }
