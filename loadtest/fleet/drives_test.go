package fleet

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/tachograph/tachograph/loadtest/testdata"
)

// TestRecordedDay holds the data to the facts that its README states, and the
// check to noticing what is missing.
func TestRecordedDay(t *testing.T) {
	fixes, err := ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		t.Fatal(err)
	}
	if err := FactsOf(fixes).Check(); err != nil {
		t.Fatal(err)
	}
	if err := FactsOf(fixes[1:]).Check(); err == nil {
		t.Fatal("a missing row is not noticed")
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
