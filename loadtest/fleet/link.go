package fleet

import (
	"context"
	"fmt"
)

// A link carries one simulated car's messages to a node. Each message is sent
// in a slot, one of as many as the window has, and the ear is told by slot what
// became of it. After close the ear hears nothing more.
type link interface {
	// send takes a message over; it may keep it back until flush. The payload
	// is the caller's again when it returns.
	send(slot int, payload []byte) error
	flush() error
	close()
}

// An ear hears what became of a car's messages, from any goroutine.
type ear interface {
	// acknowledged: the node has it; or refused it, and says why.
	acknowledged(slot int, refusal string)
	// free: nothing more will be said about what is in the slot.
	free(slot int)
	// broken: the link is of no use any more.
	broken(err error)
}

// Protocols are the ways to a node that a load can take.
var Protocols = []string{"mqtt", "mqtt5", "http", "nats"}

// open makes a car's link.
func (l *Load) open(ctx context.Context, car, token string, e ear) (link, error) {
	switch l.Protocol {
	case "mqtt":
		return openMQTT(ctx, l.Node.MQTT, car, token, 4, l.QoS, l.Window, e)
	case "mqtt5":
		return openMQTT(ctx, l.Node.MQTT, car, token, 5, l.QoS, l.Window, e)
	case "http":
		return openHTTP(ctx, l.Node.HTTP, car, token, l.posts, e), nil
	case "nats":
		return openNATS(l.Node.NATS, car, token, l.Window, e)
	default:
		return nil, fmt.Errorf("protocol %q, want one of %q", l.Protocol, Protocols)
	}
}
