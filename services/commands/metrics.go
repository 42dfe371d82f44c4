package commands

import "github.com/prometheus/client_golang/prometheus"

// metrics count without the names of devices and commands: their number is
// bounded by this file.
type metrics struct {
	facts    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	attempts *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tacho", Subsystem: "commands", Name: name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	return &metrics{
		facts:    counter("facts_total", "Steps of commands that this process has appended, by what happened; dry runs apart.", "fact", "dry_run"),
		refused:  counter("answers_refused_total", "Answers of devices that were refused, by reason.", "reason"),
		attempts: counter("attempts_total", "Attempts to hand a command to its device, by outcome; dry runs apart.", "outcome", "dry_run"),
	}
}
