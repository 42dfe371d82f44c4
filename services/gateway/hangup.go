package gateway

import "github.com/tachograph/tachograph/services/gateway/packet"

// Hangup ends the device's newest connection that listens to a topic, as one
// that does not acknowledge what it is sent: its session is kept, and a device
// that is well comes back. It doesn't block.
func (g *Gateway) Hangup(device, topic, detail string) {
	conns := g.sessions.connected(device)
	for i := len(conns) - 1; i >= 0; i-- {
		if _, ok := conns[i].sess.subscribed(topic); ok {
			conns[i].finish(ending{code: packet.UnspecifiedError, detail: detail, label: "not acknowledging"})
			return
		}
	}
}
