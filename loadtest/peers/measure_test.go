package peers

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tachograph/tachograph/loadtest/peers/vehiclepb"
)

// TestForms holds both forms to the same values, and each message to its own time.
func TestForms(t *testing.T) {
	start := time.UnixMilli(1_799_999_999_000)
	seen := map[time.Time]bool{}
	for _, n := range []int{0, 1, 731_563, 731_564, 731_565, 5_000_000} {
		var f fix
		if err := json.Unmarshal(JSON.Payload(start, n), &f); err != nil || f.Time != start.UnixMilli()+int64(n) {
			t.Fatal(f, err)
		}
		var m vehiclepb.Position
		b := Protobuf.Payload(start, n)
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		at := m.GetTime().AsTime()
		if err := m.GetTime().CheckValid(); err != nil || seen[at] || at.Nanosecond()%1000 != 0 || at.Before(start) {
			t.Fatalf("message %d: %s, %v", n, at, err)
		}
		seen[at] = true
		if got := (fix{f.Time, m.GetLatitude(), m.GetLongitude(), m.GetAltitude(), m.GetHeading(), m.GetSpeed(), m.GetHorizontalAccuracy(), m.GetIsMoving()}); got != f {
			t.Fatalf("%+v, %+v", got, f)
		}
	}
}

func TestPacedFloodKeepsItsRate(t *testing.T) {
	n, err := StartNATS(t.Context(), t.TempDir()+"/nats")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := n.CreateStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := Flood{Addr: n.MQTT, Devices: []string{"car-1", "car-2", "car-3"}, Login: n.Login, Topic: n.Topic, Window: 20, Messages: 600, Rate: 600, Limit: time.Minute}
	r, err := f.Run(t.Context())
	if err != nil || r.Acknowledged != 600 || r.Elapsed < 900*time.Millisecond {
		t.Fatal(r, err)
	}
	f.Messages, f.Limit = 1<<30, 200*time.Millisecond
	if r, err = f.Run(t.Context()); err != nil || r.Acknowledged > 600 {
		t.Fatal(r, err)
	}
}

func TestDecode(t *testing.T) {
	table, err := Decode(5000, 1)
	if err != nil || len(table) != 5 {
		t.Fatal(table, err)
	}
	for _, d := range table {
		if d.Nanoseconds <= 0 || d.OfOurs <= 0 || d.OfOurs != 1 && d.Decoder == table[0].Decoder {
			t.Errorf("%+v", d)
		}
	}
}

// tacho builds the program that is measured.
func tacho(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "tacho")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tachograph/tachograph/services/cmd/tacho").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return program
}

// TestMeasurements runs each measurement of a node once, tiny: what it would
// say of a rate is not worth much, but that every message is counted is.
func TestMeasurements(t *testing.T) {
	if testing.Short() {
		t.Skip("starts several nodes: make test runs this")
	}
	program := tacho(t)
	t.Run("parts", func(t *testing.T) {
		t.Parallel()
		samples, err := Parts{Program: program, Dir: t.TempDir(), Types: 3, Rate: 300, For: time.Second, Every: time.Minute}.Run(t.Context())
		if err != nil || len(samples) != 1 {
			t.Fatal(samples, err)
		}
		if s := samples[0]; s.Parts < 1 || s.Messages < 300 || s.PerTable <= 0 || s.Inserts <= 0 || s.Node <= 0 || s.Engine <= 0 {
			t.Fatalf("%+v", s)
		}
	})
	t.Run("delay", func(t *testing.T) {
		t.Parallel()
		sustained, shares, err := Delay{Program: program, Dir: t.TempDir(), Flags: []string{"--durability", "os"}, Messages: 2000, Shares: []float64{0.1}, For: time.Second}.Run(t.Context())
		if err != nil || sustained <= 0 || len(shares) != 1 {
			t.Fatal(sustained, shares, err)
		}
		if s := shares[0]; s.Probes == 0 || s.P50 <= 0 || s.P99 < s.P50 || s.Resolution <= 0 || s.Got <= 0 {
			t.Fatalf("%+v", s)
		}
	})
	t.Run("ways", func(t *testing.T) {
		t.Parallel()
		w := Ways{Program: program, Dir: t.TempDir(), Messages: smallest, Count: 1}
		r, err := newRig(t.Context(), w, Protobuf)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(r.stop(), r.close()); err != nil {
				t.Error(err)
			}
		}()
		got := map[string][]cost{}
		if err := r.round(t.Context(), 0, got); err != nil {
			t.Fatal(err)
		}
		for _, way := range r.table(got) {
			if way.Measured != (way.Name != wayTelegraf) || way.Lost != 0 || way.Doubled != 0 {
				t.Errorf("%+v", way)
			}
		}
		for _, l := range layouts {
			rows, err := r.takeRows(t.Context(), "events", l.columns())
			if err != nil {
				t.Fatalf("%s: %v", l.name, err)
			}
			if _, _, bytes, err := r.layout(t.Context(), l, rows); err != nil || bytes <= 0 {
				t.Errorf("%s: %v bytes, %v", l.name, bytes, err)
			}
		}
	})
}
