package node

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/shadows"
)

// makeGateway makes the doors for devices, still shut: what serves behind them
// must be there first.
func (n *Node) makeGateway(context.Context) error {
	if n.cfg.Has("gateway") {
		n.gateway = gateway.New(gateway.Config{
			Log: n.appends, Catalog: n.catalog, Auth: n.auth, Logger: n.logger, Metrics: n.metrics,
			Limits: gateway.Limits{MaxPayload: n.cfg.MaxPayload, MaxConnections: n.cfg.MaxConnections},
		})
	}
	return nil
}

// shadowTable makes ClickHouse's table of changes of the shadows' facts.
func shadowTable() (columnar.FactTable, error) {
	s, err := schemas.Own(shadow.TableName, schemas.Source{Format: schemas.FormatProto, Text: shadow.TableSchema})
	return columnar.FactTable{
		Kind: events.Shadow, Schema: s,
		Rows: func(e events.Event) ([]byte, error) { return shadow.TableRows(e.Stream.Name, e.Type, e.Payload) },
	}, err
}

// startShadows folds the shadows, gives them to the devices of this process,
// and keeps their view where projections run.
func (n *Node) startShadows(ctx context.Context) (err error) {
	if n.shadows, err = shadows.Open(ctx, shadows.Config{
		Log: n.appends, Logger: n.logger, Metrics: n.metrics,
		Connected: func(device string) bool { return n.roster.Get(device).Connected },
		Limits:    shadows.Limits{Document: shadow.Limits{Bytes: n.cfg.ShadowBytes, Depth: n.cfg.ShadowDepth}},
	}); err != nil {
		return err
	}
	if n.gateway != nil {
		n.gateway.Serve(dialect.Shadow, n.shadows)
		n.shadows.Tell(n.gateway)
		n.run("shadow deltas", n.shadows.PayDebts)
	}
	if n.cfg.Has("project") {
		js, err := jetstream.New(n.services)
		if err != nil {
			return err
		}
		kv, err := js.CreateOrUpdateKeyValue(ctx, shadows.BucketConfig(n.cfg.Replicas))
		if err != nil {
			return fmt.Errorf("open view %s: %w", shadows.Bucket, err)
		}
		view := n.shadows.View(kv)
		n.startRunner(view, view.Run)
		n.replayable("shadow", n.shadows.Replay(js, n.cfg.Replicas))
	}
	n.run("shadows", n.shadows.Run)
	return nil
}
