package node

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/roster"
)

// startRoster folds who is connected; a gateway's process tells it of its own
// connections, and every process says for gateways that died who is gone.
func (n *Node) startRoster(ctx context.Context) (err error) {
	cfg := roster.Config{Log: n.appends, Gateway: n.gateway != nil, Grace: n.cfg.PresenceGrace, Logger: n.logger}
	js, err := jetstream.New(n.services)
	if err != nil {
		return err
	}
	if cfg.Beats, err = js.CreateOrUpdateKeyValue(ctx, roster.BucketConfig(n.cfg.Replicas)); err != nil {
		return fmt.Errorf("open bucket %s: %w", roster.Bucket, err)
	}
	cfg.Remake = func(ctx context.Context) error {
		_, err := js.CreateOrUpdateKeyValue(ctx, roster.BucketConfig(n.cfg.Replicas))
		return err
	}
	if n.roster, err = roster.Open(ctx, cfg); err != nil {
		return err
	}
	if n.gateway != nil {
		n.gateway.Watch(n.roster)
	}
	n.run("roster", n.roster.Run)
	return nil
}

// presenceTable makes ClickHouse's table of the facts of presence.
func presenceTable() (columnar.FactTable, error) {
	s, err := schemas.Own(presence.TableName, schemas.Source{Format: schemas.FormatProto, Text: presence.TableSchema})
	return columnar.FactTable{
		Kind: events.Presence, Schema: s,
		Rows: func(e events.Event) ([]byte, error) { return presence.TableRows(e.Payload) },
	}, err
}
