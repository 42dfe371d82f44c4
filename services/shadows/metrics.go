package shadows

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/projections/shadow"
)

// newMetrics counts requests without the names of devices and shadows.
func newMetrics(r prometheus.Registerer) *prometheus.CounterVec {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tacho", Subsystem: "shadows", Name: "requests_total",
		Help: "Requests to shadows by topic, by what was asked and AWS's code of the answer; 200 was accepted.",
	}, []string{"verb", "code"})
	r.MustRegister(v)
	return v
}

// count counts a device's request, accepted when refused is nil.
func (s *Shadows) count(verb string, refused *shadow.Error) {
	code := 200
	if refused != nil {
		code = refused.Code
	}
	s.requests.WithLabelValues(verb, strconv.Itoa(code)).Inc()
}
