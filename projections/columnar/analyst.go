package columnar

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tachograph/tachograph/schemas"
)

// AnalystViews are the questions that everybody asks first; QUERIES.md builds
// on them. registered are the message types whose signals coverage counts.
//
//	latest        the newest message of each device and message type, by the device's clock
//	gaps          where a device was silent for more than five minutes by its own clock
//	ingest_delay  how long messages took to arrive, by hour and message type
//	trips         ignition on to off, with distance, speed and duration
//	coverage      how many samples of each device have each signal
func AnalystViews(registered []*schemas.Schema) []View {
	views := []View{
		{Name: "latest", Comment: "newest message of each device and message type, by the device's clock", Query: latestView},
		{Name: "gaps", Comment: "silences of a device of more than five minutes, by its own clock", Query: gapsView},
		{Name: "ingest_delay", Comment: "seconds from measuring to arrival, by hour of arrival and message type", Query: ingestDelayView},
		{Name: "trips", Comment: "ignition on to off; trip_end is NULL while it lasts; distance in metres from position to position", Query: tripsView, Needs: []string{"position", "powertrain"}},
	}
	if len(registered) > 0 {
		views = append(views, coverageView(registered))
	}
	return views
}

// believed is a device's time, or the arrival where the clock is ahead of it by
// more than the tolerance of the projection latest.
const believed = "if(time > received + INTERVAL 5 MINUTE, received, time)"

const latestView = `SELECT device, message, argMax(time, k) AS time, argMax(received, k) AS received, argMax(payload, k) AS payload, count() AS messages
FROM (SELECT *, (` + believed + `, _epoch, _seq) AS k FROM {db}.events WHERE kind = 'telemetry' AND NOT repeat)
GROUP BY device, message`

const gapsView = `SELECT device, previous AS gap_start, time AS gap_end, dateDiff('second', previous, time) AS seconds
FROM (SELECT device, time, lagInFrame(time) OVER (PARTITION BY device ORDER BY time ASC, _epoch ASC, _seq ASC ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS previous,
		row_number() OVER (PARTITION BY device ORDER BY time ASC, _epoch ASC, _seq ASC) AS n
	FROM {db}.events WHERE kind = 'telemetry' AND NOT repeat AND time <= received + INTERVAL 5 MINUTE)
WHERE n > 1 AND dateDiff('second', previous, time) > 300`

const ingestDelayView = `SELECT toStartOfHour(received) AS hour, message, count() AS messages,
	quantile(0.5)(delay) AS p50, quantile(0.9)(delay) AS p90, quantile(0.99)(delay) AS p99, max(delay) AS longest
FROM (SELECT received, message, dateDiff('microsecond', time, received) / 1e6 AS delay FROM {db}.events WHERE kind = 'telemetry' AND NOT repeat AND time <= received)
GROUP BY hour, message`

// A trip begins with the first ON or START and ends with the first other state
// after it; positions belong to the trip that began last before them.
const tripsView = `WITH
	states AS (
		SELECT device, time, running, sum(begins) OVER (PARTITION BY device ORDER BY time ASC, _epoch ASC, _seq ASC, _row ASC) AS trip
		FROM (
			SELECT device, time, _epoch, _seq, _row, low_voltage_system_state IN ('ON', 'START') AS running,
				running AND NOT lagInFrame(running, 1, 0) OVER (PARTITION BY device ORDER BY time ASC, _epoch ASC, _seq ASC, _row ASC ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS begins
			FROM {db}.powertrain WHERE low_voltage_system_state IS NOT NULL AND low_voltage_system_state != 'UNDEFINED')),
	drives AS (
		SELECT device, trip, min(time) AS trip_start, minIf(toNullable(time), NOT running) AS trip_end
		FROM states WHERE trip > 0 GROUP BY device, trip),
	steps AS (
		SELECT d.device AS device, d.trip AS trip, p.speed AS speed,
			geoDistance(lagInFrame(assumeNotNull(p.longitude), 1, assumeNotNull(p.longitude)) OVER w, lagInFrame(assumeNotNull(p.latitude), 1, assumeNotNull(p.latitude)) OVER w,
				assumeNotNull(p.longitude), assumeNotNull(p.latitude)) AS metres
		FROM (SELECT * FROM {db}.position WHERE latitude IS NOT NULL AND longitude IS NOT NULL) AS p
		ASOF JOIN drives AS d ON p.device = d.device AND p.time >= d.trip_start
		WHERE d.trip_end IS NULL OR p.time <= d.trip_end
		WINDOW w AS (PARTITION BY d.device, d.trip ORDER BY p.time ASC, p._seq ASC, p._row ASC ROWS BETWEEN 1 PRECEDING AND CURRENT ROW))
SELECT d.device AS device, d.trip AS trip, d.trip_start AS trip_start, d.trip_end AS trip_end, dateDiff('second', d.trip_start, d.trip_end) AS seconds,
	s.positions AS positions, s.metres AS metres, s.fastest AS fastest
FROM drives AS d LEFT JOIN (SELECT device, trip, count() AS positions, sum(metres) AS metres, max(speed) AS fastest FROM steps GROUP BY device, trip) AS s
ON d.device = s.device AND d.trip = s.trip`

const coverage = "coverage"

// renewCoverage makes the view know the signals of types that were registered
// since the writer started. It is the control partition's writer that has views.
func (w *Writer) renewCoverage(ctx context.Context) error {
	if !slices.ContainsFunc(w.cfg.Views, func(v View) bool { return v.Name == coverage }) {
		return nil
	}
	all := w.cfg.Catalog.Schemas().All()
	for _, s := range all {
		if err := w.ensure(ctx, s); err != nil {
			return err
		}
	}
	return w.ensureView(ctx, coverageView(all))
}

// coverageView counts, for each signal of each table, the samples that have it.
func coverageView(registered []*schemas.Schema) View {
	v := View{Name: coverage, Comment: "samples of each device that have each signal, and their share"}
	var parts []string
	for _, s := range registered {
		var signals []string
		for _, f := range s.Fields() {
			has := "count(" + quote(f.Column) + ")" // which leaves out NULL
			if f.List || f.Map {
				has = "countIf(notEmpty(" + quote(f.Column) + "))"
			}
			signals = append(signals, fmt.Sprintf("(%s, %s)", text(f.Column), has))
		}
		if len(signals) == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("SELECT device, %s AS message, count() AS samples, min(time) AS since, max(time) AS until, arrayJoin([%s]) AS pair FROM {db}.%s GROUP BY device",
			text(s.Name()), strings.Join(signals, ", "), quote(s.Name())))
		v.Needs = append(v.Needs, s.Name())
	}
	v.Query = "SELECT device, message, pair.1 AS signal, pair.2 AS present, samples, pair.2 / samples AS share, since, until FROM (" + strings.Join(parts, " UNION ALL ") + ")"
	return v
}
