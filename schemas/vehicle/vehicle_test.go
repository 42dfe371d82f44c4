package vehicle_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

var update = flag.Bool("update", false, "rewrite the goldens")

func registered(t *testing.T) []*schemas.Schema {
	t.Helper()
	reg := schemas.NewRegistry()
	for _, n := range vehicle.Schemas() {
		if _, changed, err := reg.Add(n.Name, n.Source); err != nil || !changed {
			t.Fatal(n.Name, changed, err)
		}
	}
	return reg.All()
}

// TestFiles checks that every file is a schema and the other way round.
func TestFiles(t *testing.T) {
	files, _ := filepath.Glob("*.proto")
	all := vehicle.Schemas()
	if len(files) != len(all) {
		t.Fatalf("%d files, %d schemas", len(files), len(all))
	}
	for i, n := range all {
		if files[i] != n.Name+".proto" {
			t.Errorf("schema %d is %s, file is %s", i, n.Name, files[i])
		}
	}
}

// TestGoldens pins the columns and the Arrow schemas. A table in the field has
// them: a change here must be one that Diff can make.
func TestGoldens(t *testing.T) {
	for _, s := range registered(t) {
		var b strings.Builder
		for _, c := range s.Columns() {
			fmt.Fprintf(&b, "`%s` %s CODEC(%s) COMMENT '%s'\n", c.Name, c.Type, c.Codec, c.Comment)
		}
		fmt.Fprintf(&b, "\n%s\n", s.Arrow())
		path := filepath.Join("testdata", s.Name()+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", s.Name(), b.String(), want)
		}
	}
}

var humps = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// snake turns a COVESA path into the name of a column.
func snake(path string) string {
	path = strings.NewReplacer("DTCList", "DtcList", "DTCCount", "DtcCount", "HVAC", "Hvac", "GNSSReceiver", "GnssReceiver").Replace(path)
	return strings.ToLower(strings.ReplaceAll(humps.ReplaceAllString(path, "${1}_${2}"), ".", "_"))
}

// units are those of units.yaml of release 6.0 that the signals below use.
var units = map[string]string{
	"Latitude": "degrees", "Longitude": "degrees", "Altitude": "m", "Heading": "degrees", "Speed": "km/h", "HorizontalAccuracy": "m", "VerticalAccuracy": "m",
	"TraveledDistance": "m", "TripMeterReading": "m", "Range": "m", "CurrentVoltage": "V", "RelativeLevel": "percent", "AbsoluteLevel": "l", "Displayed": "percent",
	"Current": "percent", "StateOfHealth": "percent", "Temperature": "Celsius", "Pressure": "kPa", "Longitudinal": "m/s^2", "Lateral": "m/s^2", "Vertical": "m/s^2",
	"AirTemperature": "Celsius", "AmbientAirTemperature": "Celsius", "DistanceToService": "km", "TimeToService": "s",
}

// TestSignals checks names and units against COVESA's.
func TestSignals(t *testing.T) {
	for _, s := range registered(t) {
		if s.Release() != "6.0" {
			t.Errorf("%s is for release %q", s.Name(), s.Release())
		}
		for _, f := range s.Fields() {
			if f.Signal == "" {
				if s.Name() != "connectivity" {
					t.Errorf("%s.%s names no signal", s.Name(), f.Column)
				}
				continue
			}
			if !strings.HasPrefix(f.Signal, "Vehicle.") || !strings.HasSuffix("_"+snake(f.Signal), "_"+f.Column) {
				t.Errorf("%s.%s is not the end of %s", s.Name(), f.Column, snake(f.Signal))
			}
			leaf := f.Signal[strings.LastIndexByte(f.Signal, '.')+1:]
			want := units[leaf]
			if strings.HasSuffix(f.Signal, "CombustionEngine.Speed") {
				want = "rpm"
			}
			if f.Unit != want {
				t.Errorf("%s.%s is in %q, want %q", s.Name(), f.Column, f.Unit, want)
			}
			if strings.HasPrefix(leaf, "Is") != (f.Kind == schemas.Bool) {
				t.Errorf("%s.%s is a %s", s.Name(), f.Column, f.Kind)
			}
			if !f.Nullable && !f.List {
				t.Errorf("%s.%s must be optional", s.Name(), f.Column)
			}
		}
	}
}
