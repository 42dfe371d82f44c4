package projections

import (
	"context"
	"time"
)

// Graceful returns a context that ends d after ctx does, so that what was begun can
// be brought to its end.
func Graceful(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-out.Done():
		case <-time.After(d):
			cancel()
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}
