package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts requests by route pattern, never by path: a path holds device
// ids, and a fleet of them would be a fleet of time series.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	events   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tacho_http_requests_total", Help: "HTTP requests answered.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tacho_http_request_duration_seconds", Help: "Time from a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tacho_http_requests_in_flight", Help: "HTTP requests being answered.",
		}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tacho_http_events_read_total", Help: "Events written as NDJSON.",
		}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.inFlight, m.events)
	return m
}

func (m *metrics) begin() { m.inFlight.Inc() }

func (m *metrics) end(method, route string, status int, took time.Duration) {
	m.inFlight.Dec()
	if route == "" {
		route = "none"
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other" // the client's word must not become a label
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}

// handler serves the process's metrics and the API's own.
func (m *metrics) handler(process prometheus.Gatherer) http.Handler {
	all := prometheus.Gatherers{m.registry}
	if process != nil {
		all = append(all, process)
	}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}
