package archive

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/tachograph/tachograph/events"
)

func rowsFile[T any](t *testing.T, rows []T) (*Archive, File) {
	t.Helper()
	dir := t.TempDir()
	if err := parquet.WriteFile(filepath.Join(dir, "rows.parquet"), rows); err != nil {
		t.Fatal(err)
	}
	return &Archive{Dir: dir}, File{Name: "rows.parquet"}
}

// TestRows: every row becomes the event that it was, whichever of its two columns has
// the body, over more rows than are read at once.
func TestRows(t *testing.T) {
	stream := events.Stream{Kind: events.Telemetry, ID: "car-1"}
	var rows []row
	var want []string
	for i := range 5000 {
		e := events.Event{Stream: stream, Type: "position", Schema: 3, ID: fmt.Sprint("id-", i), Payload: []byte(strings.Repeat("x", i%7)), Position: events.Position{Epoch: 1, Partition: 2, Seq: uint64(i + 1)}}
		r := row{Epoch: 1, Partition: 2, Position: e.Position.Seq, ID: e.ID, Type: e.Type, Subject: e.Subject(), Schema: e.Schema, Received: 1_700_000_000_000_000 + int64(i)}
		if body := string(e.Payload); i%3 > 0 {
			r.Body = &body
		} else {
			body, e.Payload = "/wA=", []byte{0xff, 0}
			r.Base64 = &body
		}
		rows, want = append(rows, r), append(want, fmt.Sprint(e.Position, e.ID, e.Type, e.Stream, e.Schema, e.Payload, r.Received))
	}
	a, f := rowsFile(t, rows)
	n := 0
	for e, err := range a.read(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(e.Position, e.ID, e.Type, e.Stream, e.Schema, e.Payload, e.Received.UnixMicro()); got != want[n] {
			t.Fatalf("row %d is %s, not %s", n, got, want[n])
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d events of %d", n, len(want))
	}
}

// TestRowsOfAnotherShape: columns that are missing, or of another type, are named; none
// is read as if it were empty.
func TestRowsOfAnotherShape(t *testing.T) {
	type other struct {
		Epoch     uint32  `parquet:"epoch"`
		Partition uint16  `parquet:"partition"`
		Position  int64   `parquet:"position"`
		ID        string  `parquet:"id"`
		Type      string  `parquet:"type"`
		Subject   string  `parquet:"subject"`
		Schema    uint32  `parquet:"schema"`
		Received  int64   `parquet:"received,timestamp(millisecond)"`
		Base64    *string `parquet:"body_base64,optional"`
	}
	a, f := rowsFile(t, []other{{}})
	for _, err := range a.read(t.Context(), f) {
		if err == nil {
			t.Fatal("it was read")
		}
		for _, want := range []string{"column position is", "column received is", "column body is not there"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v\ndoes not say: %s", err, want)
			}
		}
		if strings.Count(err.Error(), "column ") != 3 {
			t.Error(err)
		}
	}
}
