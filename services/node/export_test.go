package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/tachograph/tachograph/services/archive"
)

const everyShape = `syntax = "proto3";
import "google/protobuf/timestamp.proto";
enum Gear { PARK = 0; DRIVE = 1; REVERSE = 2; }
message Shapes {
  google.protobuf.Timestamp time = 1;
  optional double speed = 2; // @unit km/h @signal Vehicle.Speed
  optional bool locked = 3;
  optional int32 turns = 4;
  optional uint64 odometer = 5; // @unit m
  optional float level = 6;
  optional string name = 7;
  optional bytes picture = 8;
  optional Gear gear = 9;
  optional google.protobuf.Timestamp serviced = 10;
  repeated double pressures = 11; // @unit kPa
  map<string, int32> doors = 12;
  repeated bytes frames = 13;
  message Axle { optional double load = 1; }
  optional Axle front = 14;
}
message ShapesBatch { repeated Shapes samples = 15; }`

// TestExportSamples: an independent reader finds in the files what the table has, in
// columns of the same types; filters by type, device and both clocks hold; such a
// folder is no archive.
func TestExportSamples(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir())
	tokens := map[string]string{}
	for _, device := range []string{"car-1", "car-2"} {
		var added struct{ Token string }
		if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", fmt.Sprintf(`{"id":%q}`, device))), &added); err != nil {
			t.Fatal(err)
		}
		tokens[device] = added.Token
	}
	schema, err := json.Marshal(map[string]string{"name": "shapes", "format": "proto", "root": "Shapes", "text": everyShape})
	if err != nil {
		t.Fatal(err)
	}
	p.request("POST", "/v1/schemas", string(schema))
	const base, each = 1_700_000_000_000, 700
	for device := range maps.Keys(tokens) {
		var body []string
		for i := range each {
			line := fmt.Sprintf(`{"time":"2023-11-14T22:%02d:%02d.%03dZ","speed":%d.25,"odometer":%d`, i/60%60, i%60, i, i%130, 1<<53+i)
			switch i % 5 {
			case 0:
				line += `,"locked":true,"turns":-7,"level":0.5,"name":"größe","picture":"//4AAQ==","gear":"REVERSE"`
			case 1:
				line += `,"serviced":"2026-05-01T10:00:00.000001Z","pressures":[220.5,221],"doors":{"left":1,"right":0},"frames":["/w==",""],"front":{"load":812.5}`
			case 2:
				line += `,"gear":"PARK","nobody_knows":{"a":[1,"x"]}`
			}
			body = append(body, line+"}")
		}
		p.lines(tokens[device], device, "shapes", body)
	}
	p.lines(tokens["car-2"], "car-2", "position", []string{fmt.Sprintf(`{"time":%d,"speed":1}`, base)})
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 50_000)
	for range 120 {
		_, _ = random.Read(noise) // it never fails
		p.telemetry(tokens["car-1"], "car-1", "blob", fmt.Sprintf("%x", noise))
	}
	p.await("SELECT count() FROM tacho.shapes", fmt.Sprint(2*each))
	p.await("SELECT count() FROM tacho.events WHERE message = 'blob'", "120")

	dir := filepath.Join(t.TempDir(), "samples")
	out := p.must("export", dir, "--samples", "--rows", "500", "--data", p.dir)
	if !strings.Contains(out, fmt.Sprintf("shapes: %d samples", 2*each)) || !strings.Contains(out, fmt.Sprintf("%d samples in ", 2*each+1)) {
		t.Error(out)
	}
	m := p.samplesIn(dir)
	i := slices.IndexFunc(m.Tables, func(s archive.SampleTable) bool { return s.Name == "shapes" })
	if i < 0 || len(m.Tables[i].Files) < 3 {
		t.Fatalf("%+v", m.Tables)
	}
	shapes := m.Tables[i]
	types := map[string]string{}
	for _, c := range shapes.Columns {
		if types[c.Name] = c.Kind + " " + c.Unit + c.Encoding; c.Name == "gear" && !slices.Equal(c.Values, []string{"PARK", "DRIVE", "REVERSE"}) || c.Name == "speed" && c.Signal != "Vehicle.Speed" {
			t.Errorf("%+v", c)
		}
	}
	for name, want := range map[string]string{"time": "time ", "speed": "float64 km/h", "odometer": "uint64 m", "pressures": "float64 kPa", "picture": "bytes base64", "gear": "enum ", "front_load": "float64 ", "_row": "uint32 ", "device": "string "} {
		if types[name] != want {
			t.Errorf("column %s: %q, want %q", name, types[name], want)
		}
	}
	got := map[string]map[string]any{}
	for _, f := range shapes.Files {
		parquetRows(t, filepath.Join(dir, f.Name), got)
	}
	columns := []string{}
	for _, c := range shapes.Columns {
		switch {
		case strings.HasPrefix(c.Type, "Nullable(DateTime64"), strings.HasPrefix(c.Type, "DateTime64"):
			columns = append(columns, "toUnixTimestamp64Micro("+c.Name+") AS "+c.Name)
		case c.Name == "picture":
			columns = append(columns, "base64Encode(picture) AS picture")
		case c.Name == "frames":
			columns = append(columns, "arrayMap(x -> base64Encode(x), frames) AS frames")
		default:
			columns = append(columns, c.Name)
		}
	}
	want := 0
	for line := range strings.Lines(p.sql("SELECT " + strings.Join(columns, ", ") + " FROM tacho.shapes FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0")) {
		row := object(t, line)
		want++
		if key := fmt.Sprint(row["_seq"], row["_row"]); !reflect.DeepEqual(got[key], row) {
			t.Fatalf("the file has\n%v, the table\n%v", got[key], row)
		}
	}
	if want != 2*each || len(got) != want {
		t.Errorf("%d in the files, %d in the table", len(got), want)
	}

	// Filters: one type of one device, by either clock.
	for _, f := range []struct {
		flags []string
		where string
	}{
		{[]string{"--type", "shapes", "--device", "car-2"}, "device = 'car-2'"},
		{[]string{"--type", "shapes", "--by", "device", "--from", "2023-11-14T22:01:00Z", "--to", "2023-11-14T22:02:00Z"}, "time >= '2023-11-14 22:01:00' AND time < '2023-11-14 22:02:00'"},
		{[]string{"--type", "shapes", "--from", "2023-11-14T22:01:00Z", "--to", "2023-11-14T22:02:00Z"}, "0"},
	} {
		some := filepath.Join(t.TempDir(), "some")
		p.must(append([]string{"export", some, "--samples", "--data", p.dir}, f.flags...)...)
		if m := p.samplesIn(some); len(m.Tables) != 1 || fmt.Sprint(m.Samples()) != p.sql("SELECT count() FROM tacho.shapes WHERE "+f.where) {
			t.Errorf("%v: %d samples", f.flags, m.Samples())
		}
	}
	for _, wrong := range [][]string{{"import", dir, "--data", t.TempDir()}, {"export", dir + "2", "--samples", "--type", "nonesuch"}, {"export", dir + "2", "--by", "device"}, {"export", dir + "2", "--samples", "--by", "x"}} {
		if wrong[0] == "export" {
			wrong = append(wrong, "--data", p.dir)
		}
		if out, err := p.tacho(wrong...); err == nil || wrong[0] == "import" && !strings.Contains(out, "holds samples, not events") {
			t.Errorf("%v: %s", wrong, out)
		}
	}
	p.fillsUp(tokens)
}

// samplesIn reads the manifest and holds every file against it.
func (p *program) samplesIn(dir string) (m archive.SampleManifest) {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, archive.ManifestName))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	for _, table := range m.Tables {
		for _, f := range table.Files {
			if r := parquetFile(p.t, filepath.Join(dir, f.Name)); uint64(r.NumRows()) != f.Count || f.SHA256 == "" {
				p.t.Errorf("%s: %d rows, %+v", f.Name, r.NumRows(), f)
			}
		}
	}
	return m
}

func parquetFile(t *testing.T, path string) *parquet.File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// shapesColumns are columns of a file of shapes, and their types.
type shapesColumns struct {
	Seq       uint64           `parquet:"_seq"`
	Partition uint16           `parquet:"_partition"`
	Received  int64            `parquet:"received,timestamp(microsecond)"`
	Device    string           `parquet:"device"`
	Time      int64            `parquet:"time,timestamp(microsecond)"`
	Speed     *float64         `parquet:"speed,optional"`
	Locked    *bool            `parquet:"locked,optional"`
	Turns     *int32           `parquet:"turns,optional"`
	Odometer  *uint64          `parquet:"odometer,optional"`
	Level     *float32         `parquet:"level,optional"`
	Name      *string          `parquet:"name,optional"`
	Picture   *string          `parquet:"picture,optional"` // in base64
	Gear      *string          `parquet:"gear,optional"`
	Serviced  *int64           `parquet:"serviced,optional,timestamp(microsecond)"`
	Pressures []float64        `parquet:"pressures,list"`
	FrontLoad *float64         `parquet:"front_load,optional"`
	Doors     map[string]int32 `parquet:"doors"`
}

// parquetRows reads a file and holds its types against what the schema wants.
func parquetRows(t *testing.T, path string, into map[string]map[string]any) {
	t.Helper()
	f := parquetFile(t, path)
	there := map[string]parquet.Node{}
	for _, field := range f.Schema().Fields() {
		there[field.Name()] = field
	}
	for _, want := range parquet.SchemaOf(shapesColumns{}).Fields() {
		if got := there[want.Name()]; got == nil || !parquet.SameNodes(got, want) {
			t.Errorf("column %s: %s, want %s", want.Name(), got, want)
		}
	}
	r := parquet.NewGenericReader[any](f)
	defer r.Close()
	for batch := make([]any, 1000); ; {
		clear(batch)
		n, err := r.Read(batch)
		for _, row := range batch[:n] {
			b, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			row := object(t, string(b))
			into[fmt.Sprint(row["_seq"], row["_row"])] = row
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// object reads a JSON object, its numbers as they stand there.
func object(t *testing.T, text string) (o map[string]any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&o); err != nil {
		t.Fatal(text, err)
	}
	return o
}

// fillsUp has disks run full under an export and an import: both say so, leave
// nothing that could be taken for whole, and do their work once there is room.
func (p *program) fillsUp(tokens map[string]string) {
	t := p.t
	t.Helper()
	binary := tacho(t)
	on := func(script string, args ...string) (string, error) {
		b, err := exec.Command("unshare", append([]string{"-rm", "sh", "-c", script}, args...)...).CombinedOutput()
		return string(b), err
	}
	out, err := on(`mount -t tmpfs -o size=1m tmpfs "$1" && "$0" export "$1/archive" --data "$2"; echo "exit $?"; ls -A "$1/archive"; "$0" import "$1/archive" --data "$3"; echo "exit $?"`,
		binary, t.TempDir(), p.dir, t.TempDir())
	if err != nil || !strings.Contains(out, "no space left on device\n") || !strings.Contains(out, "exit 1\n") || strings.Contains(out, "\n"+archive.ManifestName+"\n") ||
		!strings.Contains(out, "the export has not ended") || strings.Count(out, "exit 1\n") != 2 {
		t.Errorf("an export to a full disk: %v\n%s", err, out)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	p.must("export", whole, "--data", p.dir)
	for _, harm := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func([]byte) []byte { return nil },
		func(b []byte) []byte { return []byte(strings.Replace(string(b), `"count": `, `"count": 1`, 1)) },
		func(b []byte) []byte { return []byte(strings.Replace(string(b), `"sha256": "`, `"sha256": "0`, 1)) },
	} {
		broken := filepath.Join(t.TempDir(), "broken")
		if err := os.CopyFS(broken, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(broken, archive.ManifestName)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, harm(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		into := t.TempDir()
		if out, err := p.tacho("import", broken, "--data", into); err == nil || !strings.Contains(out, "read archive: "+broken) {
			t.Errorf("a damaged manifest: %v %s", err, out)
		}
	}
	out, err = on(`mount -t tmpfs -o size=8m tmpfs "$2" && "$0" import "$1" --data "$2" --log-reserve "$3"; echo "exit $?"
		mount -o remount,size=200m "$2" && "$0" import "$1" --data "$2" --log-reserve "$3"; echo "exit $?"`,
		binary, whole, t.TempDir(), "1000000")
	if err != nil || !strings.Contains(out, "exit 1\n") || !strings.Contains(out, "make room") || !strings.Contains(out, "exit 0\n") || !strings.Contains(out, "events imported") {
		t.Errorf("an import to a full disk: %v\n%s", err, out)
	}
}
