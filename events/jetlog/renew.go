package jetlog

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// errRenewed ends a scan whose server, or whose consumer, is another one. The
// client goes on by sequence alone; but a log that comes back from a restart
// without its newest part has other events in the places of those that are gone,
// or none, and a reader that is not told goes on with them.
var errRenewed = errors.New("the server delivers anew")

// whileConnected returns a context that ends with ctx and when the connection
// that is read from was made anew since it had been so often: where nothing comes,
// no delivery tells.
func (l *Log) whileConnected(ctx context.Context, reconnects uint64) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	connected := l.cfg.Read.StatusChanged(nats.CONNECTED)
	if l.cfg.Read.Stats().Reconnects != reconnects {
		cancel()
	}
	go func() {
		defer cancel()
		defer l.cfg.Read.RemoveStatusListener(connected)
		select {
		case <-connected:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// A startError is what kept a scan from beginning.
type startError struct{ error }

func (e startError) Unwrap() error { return e.error }

// mends tells whether waiting mends what a reader met that has read before: a
// server that has just come back, or is gone again, may not have its streams yet.
func mends(err error) bool {
	var truncated *events.TruncatedError
	return !errors.Is(err, events.ErrDiverged) && !errors.As(err, &truncated)
}

// verifyAgain is verify for a reader in mid-stream, which is as patient as the
// client is: until ctx ends.
func (l *Log) verifyAgain(ctx context.Context, partition uint16, epoch uint32, after events.Cursor) error {
	for {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := l.verify(short, partition, epoch, after)
		cancel()
		if err == nil || !mends(err) || pause(ctx) != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}
