package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/projections"
)

// lagCollector shows how far each projection is.
type lagCollector struct{ runners []projections.Runner }

var (
	lagLabels = []string{"projection", "partition"}
	lagEvents = prometheus.NewDesc("tacho_projection_lag_events", "Events in the log that are not in the projection yet.", lagLabels, nil)
	lagTime   = prometheus.NewDesc("tacho_projection_lag_seconds", "Age of the oldest of them, about.", lagLabels, nil)
	folded    = prometheus.NewDesc("tacho_projection_events_total", "Events folded since the start.", lagLabels, nil)
	rows      = prometheus.NewDesc("tacho_projection_rows_total", "Rows or keys written since the start.", lagLabels, nil)
	parked    = prometheus.NewDesc("tacho_projection_parked_total", "Messages and samples that did not decode, since the start.", lagLabels, nil)
	repeats   = prometheus.NewDesc("tacho_projection_repeats_total", "Messages recognised as sent before, since the start.", lagLabels, nil)
	failures  = prometheus.NewDesc("tacho_projection_errors_total", "Attempts that failed and were repeated, since the start.", lagLabels, nil)
)

func (c lagCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagEvents, lagTime, folded, rows, parked, repeats, failures} {
		ch <- d
	}
}

func (c lagCollector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.runners {
		s := r.Status()
		partition := strconv.Itoa(int(s.Partition))
		gauge := func(d *prometheus.Desc, t prometheus.ValueType, v float64) {
			ch <- prometheus.MustNewConstMetric(d, t, v, s.Name, partition)
		}
		gauge(lagEvents, prometheus.GaugeValue, float64(s.Lag))
		gauge(lagTime, prometheus.GaugeValue, s.LagSeconds)
		gauge(folded, prometheus.CounterValue, float64(s.Events))
		gauge(rows, prometheus.CounterValue, float64(s.Rows))
		gauge(parked, prometheus.CounterValue, float64(s.Parked))
		gauge(repeats, prometheus.CounterValue, float64(s.Repeats))
		gauge(failures, prometheus.CounterValue, float64(s.Errors))
	}
}
