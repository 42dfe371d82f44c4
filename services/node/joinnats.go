package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events/jetlog"
)

// joinNATS connects to an existing NATS cluster. It waits for one that is not
// there yet, or whose JetStream has no leader yet; what waiting does not mend,
// such as a wrong password, it returns at once.
func (n *Node) joinNATS(ctx context.Context) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("tacho"), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				n.logger.Error("NATS is gone; connecting again, nothing is acknowledged meanwhile", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { n.logger.Warn("NATS", "error", err) }),
		nats.ReconnectHandler(func(*nats.Conn) { n.logger.Info("NATS is back") }),
	}
	if n.cfg.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(n.cfg.NATSCreds))
	}
	opts = append(opts, jetlog.Tapped())
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		nc, err := nats.Connect(n.cfg.NATS, opts...)
		if err == nil {
			if err = usable(ctx, nc); err == nil {
				return nc, nil
			}
			nc.Close()
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
			return nil, fmt.Errorf("%w: look at the user and password of --nats, or at --nats-creds", err)
		case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return nil, fmt.Errorf("%w: enable JetStream for the account of the user", err)
		}
		n.logger.Warn("waiting for NATS", "url", redacted(n.cfg.NATS), "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// usable asks for what the log needs.
func usable(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	return nil
}
