package gateway

import "time"

// Limits bound what devices may cost. A zero field is its default.
type Limits struct {
	MaxPayload int // bytes of one message; 1,000,000. The log must take as much.
	Window     int // messages of one MQTT connection on their way to the log; 256

	// A device's rates. Over MQTT and NATS a faster device waits, over HTTP it is
	// refused.
	MessagesPerSecond float64 // 20,000, and as many at once
	BytesPerSecond    float64 // 32 MiB, and as many at once

	MaxConnections          int     // MQTT; 100,000
	MaxConnectionsPerDevice int     // 256
	ConnectionsPerSecond    float64 // accepted; 2,000. More wait in the listener's backlog.

	Handshake time.Duration // from accept to a whole CONNECT, TLS included; 10 s
	Stall     time.Duration // for the rest of a packet that began, plus 1 s a KiB; 20 s
	Write     time.Duration // for a client to take what it is sent; 20 s
	Drain     time.Duration // for appends on their way when the gateway stops; 10 s
	FullDelay time.Duration // before an MQTT 3.1.1 connection is closed because the log is full; 2 s

	SessionExpiry     time.Duration // longest that a session outlives its connection; 24 h
	MaxSessions       int           // kept without a connection; 200,000
	SessionsPerDevice int           // kept without a connection; 8
	Subscriptions     int           // of one session; 64
	Deliveries        int           // to one connection, sent and not acknowledged; 64

	MaxBody  int // bytes of an HTTP request, decompressed; 32 MiB
	MaxLines int // of an NDJSON body; 100,000
}

const (
	aliasMaximum     = 16        // topic aliases of a connection (version 5)
	packetOverhead   = 1024      // topic and properties beside a payload
	connectBytes     = 160 << 10 // a CONNECT has at most five fields of 65,535 bytes; few need one
	clientIDBytes    = 256
	releasesUnasked  = 4096 // QoS 2 ids that a session may leave unreleased
	outBytes         = 64 << 10
	readBufferBytes  = 2 << 10
	keptBufferBytes  = 4 << 10 // of a slot's payload buffer
	topicsRemembered = 32
)

func (l *Limits) complete() {
	or(&l.MaxPayload, 1_000_000)
	or(&l.Window, 256)
	l.Window = min(l.Window, 65535)
	or(&l.MessagesPerSecond, 20_000)
	or(&l.BytesPerSecond, 32<<20)
	or(&l.MaxConnections, 100_000)
	or(&l.MaxConnectionsPerDevice, 256)
	or(&l.ConnectionsPerSecond, 2_000)
	or(&l.Handshake, 10*time.Second)
	or(&l.Stall, 20*time.Second)
	or(&l.Write, 20*time.Second)
	or(&l.Drain, 10*time.Second)
	or(&l.FullDelay, 2*time.Second)
	or(&l.SessionExpiry, 24*time.Hour)
	or(&l.MaxSessions, 200_000)
	or(&l.SessionsPerDevice, 8)
	or(&l.Subscriptions, 64)
	or(&l.Deliveries, 64)
	or(&l.MaxBody, 32<<20)
	or(&l.MaxLines, 100_000)
}

func or[T int | float64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}
