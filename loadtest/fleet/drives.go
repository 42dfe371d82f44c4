package fleet

import (
	"encoding/csv"
	"fmt"
	"io"
	"sort"
	"strconv"
	"time"
)

// A Fix is one recorded position.
type Fix struct {
	Device              string
	Time                time.Time
	Speed               float64 // m/s
	Latitude, Longitude float64 // degrees
	Route, Trip         string
}

// ReadDrives reads a recorded day: CSV with the columns vehicle_id, timestamp,
// speed (m/s), route_id, trip_id, latitude, longitude and one that is empty,
// as testdata/capmetro describes them. The fixes come back in the order of
// their times.
func ReadDrives(r io.Reader) ([]Fix, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = 8
	in.ReuseRecord = true
	if _, err := in.Read(); err != nil {
		return nil, fmt.Errorf("read drives: header: %w", err)
	}
	var fixes []Fix
	for {
		row, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read drives: %w", err)
		}
		line, _ := in.FieldPos(0)
		f := Fix{Device: "bus-" + row[0], Route: row[3], Trip: row[4]}
		if f.Time, err = time.Parse(time.RFC3339, row[1]); err != nil {
			return nil, fmt.Errorf("read drives: line %d: %w", line, err)
		}
		for _, c := range []struct {
			text string
			to   *float64
		}{{row[2], &f.Speed}, {row[5], &f.Latitude}, {row[6], &f.Longitude}} {
			if *c.to, err = strconv.ParseFloat(c.text, 64); err != nil {
				return nil, fmt.Errorf("read drives: line %d: %w", line, err)
			}
		}
		fixes = append(fixes, f)
	}
	sort.SliceStable(fixes, func(i, j int) bool { return fixes[i].Time.Before(fixes[j].Time) })
	return fixes, nil
}

// Payload renders the fix as the built-in message "position": its time moved
// by shift, its speed in km/h. Route and trip are fields the schema does not
// know, to be kept all the same.
func (f *Fix) Payload(shift time.Duration) []byte {
	b := append([]byte(`{"time":`), strconv.FormatInt(f.Time.Add(shift).UnixMilli(), 10)...)
	b = append(b, `,"latitude":`...)
	b = strconv.AppendFloat(b, f.Latitude, 'f', -1, 64)
	b = append(b, `,"longitude":`...)
	b = strconv.AppendFloat(b, f.Longitude, 'f', -1, 64)
	b = append(b, `,"speed":`...)
	b = strconv.AppendFloat(b, f.Speed*3.6, 'f', 2, 64)
	b = append(b, `,"route_id":`...)
	b = strconv.AppendQuote(b, f.Route)
	b = append(b, `,"trip_id":`...)
	b = strconv.AppendQuote(b, f.Trip)
	return append(b, '}')
}

// Devices lists the devices of the fixes, sorted.
func Devices(fixes []Fix) []string {
	seen := map[string]bool{}
	var ids []string
	for i := range fixes {
		if id := fixes[i].Device; !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	return ids
}
