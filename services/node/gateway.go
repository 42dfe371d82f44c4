package node

import (
	"context"

	"github.com/tachograph/tachograph/services/gateway"
)

// startGateway opens the doors for devices: MQTT and NATS here, HTTP with the API.
func (n *Node) startGateway(context.Context) error {
	if !n.cfg.Has("gateway") {
		return nil
	}
	n.gateway = gateway.New(gateway.Config{
		Log: n.log, Catalog: n.catalog, Auth: n.auth, Logger: n.logger, Metrics: n.metrics,
		Limits: gateway.Limits{MaxPayload: n.cfg.MaxPayload, MaxConnections: n.cfg.MaxConnections},
	})
	l, err := n.listen("mqtt-port", n.cfg.MQTTPort)
	if err != nil {
		return err
	}
	n.addrs.MQTT = l.Addr().String()
	n.run("NATS ingest", func(ctx context.Context) error { return n.gateway.ServeNATS(ctx, n.natsConn) })
	n.run("MQTT", func(ctx context.Context) error { return n.gateway.ServeMQTT(ctx, l) })
	return nil
}
