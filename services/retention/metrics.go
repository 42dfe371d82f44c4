package retention

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	partitionLabels = []string{"partition"}
	purgedTo        = prometheus.NewDesc("tacho_log_purged_sequence", "Sequence up to which the log was purged.", partitionLabels, nil)
	heldEvents      = prometheus.NewDesc("tacho_log_held_events", "Events that are older than --keep-log and held by somebody who needs them.", append(partitionLabels, "by"), nil)
)

// Describe implements prometheus.Collector.
func (j *Janitor) Describe(ch chan<- *prometheus.Desc) {
	ch <- purgedTo
	ch <- heldEvents
}

// Collect implements prometheus.Collector.
func (j *Janitor) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	all, err := j.Status(ctx)
	if err != nil {
		return // the log cannot be asked now
	}
	for _, p := range all {
		partition := strconv.Itoa(int(p.Partition))
		ch <- prometheus.MustNewConstMetric(purgedTo, prometheus.GaugeValue, float64(p.Purged), partition)
		ch <- prometheus.MustNewConstMetric(heldEvents, prometheus.GaugeValue, float64(p.Held()), partition, p.HeldBy)
	}
}
