package fleet

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/tachograph/tachograph/loadtest/testdata"
)

// TestRecordedDay holds the data to the facts that its README states.
func TestRecordedDay(t *testing.T) {
	fixes, err := ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		t.Fatal(err)
	}
	perDevice, sum, fastest := map[string]int{}, 0.0, 0.0
	for _, f := range fixes {
		perDevice[f.Device]++
		sum += f.Speed
		fastest = max(fastest, f.Speed)
	}
	if len(fixes) != 49081 || len(perDevice) != 163 || len(Devices(fixes)) != 163 || perDevice["bus-5002"] != 652 {
		t.Fatalf("%d rows, %d vehicles, %d of vehicle 5002", len(fixes), len(perDevice), perDevice["bus-5002"])
	}
	if math.Abs(sum-282382.2038) > 0.001 || fastest != 53.6448 {
		t.Fatalf("sum of speeds %v, maximum %v", sum, fastest)
	}
	first, last := fixes[0].Time.Format(time.RFC3339), fixes[len(fixes)-1].Time.Format(time.RFC3339)
	if first != "2016-02-07T00:00:28-06:00" || last != "2016-02-07T17:41:20-06:00" {
		t.Fatalf("from %s to %s", first, last)
	}
}

func TestPayload(t *testing.T) {
	f := Fix{Device: "bus-1", Time: time.UnixMilli(1000), Speed: 10, Latitude: 30.2, Longitude: -97.7, Route: "1", Trip: `a"b`}
	var got map[string]any
	if err := json.Unmarshal(f.Payload(time.Second), &got); err != nil {
		t.Fatal(err)
	}
	if got["time"] != 2000.0 || got["speed"] != 36.0 || got["trip_id"] != `a"b` || got["longitude"] != -97.7 {
		t.Fatalf("%v", got)
	}
}
