package fleet

import (
	"fmt"
	"math"
	"time"
)

// Facts tell recorded drives from other ones.
type Facts struct {
	Rows, Devices, Routes int
	SpeedSum, SpeedMax    float64 // m/s
	First, Last           time.Time
	Busiest               string // the device with the most rows
	BusiestRows           int
	SameTime              int // rows that repeat their vehicle and time
}

// FactsOf counts.
func FactsOf(fixes []Fix) (f Facts) {
	rows, routes, seen := map[string]int{}, map[string]bool{}, map[string]bool{}
	for i := range fixes {
		x := &fixes[i]
		f.Rows++
		f.SpeedSum += x.Speed
		f.SpeedMax = max(f.SpeedMax, x.Speed)
		if f.First.IsZero() || x.Time.Before(f.First) {
			f.First = x.Time
		}
		if x.Time.After(f.Last) {
			f.Last = x.Time
		}
		routes[x.Route] = true
		if rows[x.Device]++; rows[x.Device] > f.BusiestRows {
			f.Busiest, f.BusiestRows = x.Device, rows[x.Device]
		}
		moment := x.Device + " " + x.Time.String()
		if seen[moment] {
			f.SameTime++
		}
		seen[moment] = true
	}
	f.Devices, f.Routes = len(rows), len(routes)
	return f
}

// Check holds the facts to those that came with the recorded day,
// testdata/capmetro.
func (f Facts) Check() error {
	const first, last = "2016-02-07T00:00:28-06:00", "2016-02-07T17:41:20-06:00"
	if f.Rows != 49081 || f.Devices != 163 || f.Routes != 48 || math.Abs(f.SpeedSum-282382.2038) > 0.001 || f.SpeedMax != 53.6448 ||
		f.First.Format(time.RFC3339) != first || f.Last.Format(time.RFC3339) != last || f.Busiest != "bus-5002" || f.BusiestRows != 652 || f.SameTime != 4 {
		return fmt.Errorf("this is not the recorded day: %+v", f)
	}
	return nil
}
