package node

import (
	"net"
	"strconv"
	"strings"
)

// Broken is closed when the node can go on only after Stop and another Start,
// with what Again returns: a write to its log has failed, to a disk that filled
// up faster than the guard looks, and there is room again. Until then it
// answers, and refuses.
func (n *Node) Broken() <-chan struct{} { return n.broken }

// Again is the configuration that finds the node's ports and data again.
func (n *Node) Again() Config {
	c := n.cfg
	c.Ports = "fixed"
	for address, port := range map[string]*int{
		n.addrs.MQTT: &c.MQTTPort, n.addrs.HTTP: &c.HTTPPort, n.addrs.ClickHouseNative: &c.ClickHouseNativePort,
	} {
		setPort(port, address)
	}
	if c.NATS == "" {
		setPort(&c.NATSPort, strings.TrimPrefix(n.addrs.NATS, "nats://"))
	}
	if len(c.ClickHouse) == 0 {
		setPort(&c.ClickHouseHTTPPort, n.addrs.ClickHouseHTTP)
	}
	return c
}

func setPort(port *int, address string) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return // it listens to none
	}
	if number, err := strconv.Atoi(text); err == nil {
		*port = number
	}
}
