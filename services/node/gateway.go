package node

import (
	"context"

	"github.com/tachograph/tachograph/services/gateway"
)

// disconnectNATS ends the NATS connections of a device whose token no longer
// counts: the server looked at it only once.
func (n *Node) disconnectNATS(device string) {
	go func() {
		if err := gateway.DisconnectNATS(n.embedded.server, device); err != nil {
			n.logger.Warn("a revoked device may still be connected to NATS", "device", device, "error", err)
		}
	}()
}

// startGateway opens the doors: MQTT and NATS here, HTTP with the API.
func (n *Node) startGateway(context.Context) error {
	if n.gateway == nil {
		return nil
	}
	l, err := n.listen("mqtt-port", n.cfg.MQTTPort)
	if err != nil {
		return err
	}
	n.addrs.MQTT = l.Addr().String()
	n.run("NATS ingest", func(ctx context.Context) error { return n.gateway.ServeNATS(ctx, n.natsConn) })
	n.run("MQTT", func(ctx context.Context) error { return n.gateway.ServeMQTT(ctx, l) })
	return nil
}
