package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
)

// A Via is the protocol that a message came by.
type Via uint8

// The protocols.
const (
	MQTT Via = iota
	HTTP
	NATS
)

var viaNames = [...]string{"mqtt", "http", "nats"}

func (v Via) String() string { return viaNames[v] }

// metrics count without the names of devices or types: their number is bounded
// by this file.
type metrics struct {
	stored      [3]prometheus.Counter
	bytes       [3]prometheus.Counter
	refused     [3]map[Reason]prometheus.Counter
	latency     prometheus.Observer
	connections prometheus.Gauge
	sessions    prometheus.Gauge
	connects    *prometheus.CounterVec
	closed      *prometheus.CounterVec
	delivered   *prometheus.CounterVec
	repeats     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tacho", Subsystem: "gateway", Name: name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tacho", Subsystem: "gateway", Name: name, Help: help})
		r.MustRegister(g)
		return g
	}
	m := &metrics{
		connections: gauge("mqtt_connections", "MQTT connections with a session."),
		sessions:    gauge("mqtt_sessions", "MQTT sessions, connected or kept."),
		connects:    counter("mqtt_connects_total", "CONNECTs by the answer they got.", "answer"),
		closed:      counter("mqtt_disconnects_total", "MQTT connections that ended, by reason.", "reason"),
		delivered:   counter("mqtt_deliveries_total", "Messages to devices, by outcome.", "outcome"),
	}
	stored := counter("messages_total", "Messages stored, undecodable ones included.", "via")
	bytes := counter("payload_bytes_total", "Payload bytes stored.", "via")
	refused := counter("refused_total", "Messages refused, by reason; undecodable ones are stored all the same.", "via", "reason")
	m.repeats = counter("mqtt_qos2_repeats_total", "QoS 2 messages that came again before PUBREL, not stored again.").WithLabelValues()
	for via, name := range viaNames {
		m.stored[via] = stored.WithLabelValues(name)
		m.bytes[via] = bytes.WithLabelValues(name)
		m.refused[via] = map[Reason]prometheus.Counter{}
		for reason := range answers {
			m.refused[via][reason] = refused.WithLabelValues(name, string(reason))
		}
	}
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "tacho", Subsystem: "gateway", Name: "store_seconds",
		Help:    "From a message's arrival to its being durable, of every message that was stored.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
	})
	r.MustRegister(latency)
	m.latency = latency
	return m
}

func (m *metrics) refuse(via Via, reason Reason) { m.refused[via][reason].Inc() }
