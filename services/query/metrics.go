package query

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/services/api/problem"
)

type metrics struct {
	running prometheus.Gauge
	bytes   prometheus.Counter
	asked   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tacho_queries_running", Help: "Statements at work in ClickHouse for callers of the HTTP interface."}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "tacho_query_answer_bytes_total", Help: "Bytes of answers passed on."}),
		asked:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tacho_queries_total", Help: "Statements, by what came of them: ok, or the code of the refusal."}, []string{"outcome"}),
	}
	if r != nil {
		r.MustRegister(m.running, m.bytes, m.asked)
	}
	return m
}

// count counts what came of a statement; nil is a whole answer.
func (m *metrics) count(err error) {
	outcome := "gone" // the asker
	var p *problem.Problem
	switch {
	case err == nil:
		outcome = "ok"
	case errors.As(err, &p):
		outcome = string(p.Code)
	}
	m.asked.WithLabelValues(outcome).Inc()
}
