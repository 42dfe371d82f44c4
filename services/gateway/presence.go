package gateway

import "github.com/tachograph/tachograph/projections/presence"

// A Connection is one MQTT connection of a device, as others hear of it.
type Connection struct {
	ID     string // of this connection alone
	Device string
	Client string // MQTT client id
}

// A Watcher hears of connections' beginnings and ends, each once and in that
// order. It must not block.
type Watcher interface {
	Connected(Connection)
	Disconnected(c Connection, reason string) // one of package presence's reasons
}

// Watch has the connections told to w. It is called before the first listener
// is opened.
func (g *Gateway) Watch(w Watcher) { g.watcher = w }

// reasonOf makes a presence's reason of a connection's ending.
func (e *ending) reason() string {
	switch e.label {
	case "client":
		return presence.Clean
	case "keep alive timeout":
		return presence.KeepAlive
	case "session taken over":
		return presence.TakenOver
	case "revoked":
		return presence.Revoked
	case "server shutting down":
		return presence.Stopped
	case "network", "closed by peer", "stalled", "not acknowledging":
		return presence.Network
	}
	return presence.Refused
}
