package api

import (
	"net/http"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/retention"
)

// getLog tells what the log holds of each partition of telemetry, how far it was
// purged, and who holds the rest.
func (a *api) getLog(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	all, err := a.janitor.Status(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		KeepSeconds float64               `json:"keep_seconds"`
		Partitions  []retention.Partition `json:"partitions"`
		Layout      events.Layout         `json:"layout"`
	}{a.janitor.Keep().Seconds(), all, a.log.Layout()})
}
