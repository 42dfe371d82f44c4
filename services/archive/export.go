package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
)

// An Export writes what ClickHouse has of the events into a folder.
type Export struct {
	// Ask asks ClickHouse; the answer is in a format of package query, "ndjson" or
	// "parquet", and comes whole or ends in an error. Names without a database are
	// those of the tables.
	Ask func(ctx context.Context, sql, format string, parameters map[string]string) (io.ReadCloser, error)

	Layout   events.Layout // of the log
	Dir      string        // empty, or not there yet
	Filter   Filter
	Rows     uint64                   // positions a file holds at most; 0 is 250,000
	Await    map[uint16]uint64        // by partition: the log's newest positions, which ClickHouse is waited for to have
	Progress func(done, total uint64) // events; may be nil
}

// Run writes the files and, last, the manifest. What it has written when it fails
// is no archive.
func (e *Export) Run(ctx context.Context) (Manifest, error) {
	if e.Rows == 0 {
		e.Rows = 250_000
	}
	m := Manifest{Format: formatVersion, Made: time.Now().UTC(), Filter: e.Filter, Telemetry: e.Layout.Telemetry(), Partitions: []Partition{}, Files: []File{}, Note: manifestNote}
	if len(e.Layout.Counts()) > 1 {
		m.Format, m.Layout = splitVersion, &e.Layout
	}
	if err := e.folder(); err != nil {
		return m, err
	}
	if err := e.plan(ctx, &m); err != nil {
		return m, fmt.Errorf("export: %w", err)
	}
	total, done := m.Events(), uint64(0)
	for i := range m.Files {
		if err := e.write(ctx, &m.Files[i]); err != nil {
			return m, fmt.Errorf("export: %w", err)
		}
		done += m.Files[i].Count
		if e.Progress != nil {
			e.Progress(done, total)
		}
	}
	return m, saveManifest(e.Dir, m)
}

func saveManifest(dir string, manifest any) error {
	_, _, err := save(dir, ManifestName, func(w io.Writer) error {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(manifest)
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (e *Export) folder() error {
	if err := os.MkdirAll(e.Dir, 0o700); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("export: folder %s is not empty: it holds %s (remedy: name an empty one; what an interrupted export left can be deleted)", e.Dir, entries[0].Name())
	}
	return nil
}

// A checkpoint is up to where ClickHouse has a partition, and what it has of it.
type checkpoint struct {
	Epoch     uint32
	Partition uint16
	Seq       uint64 `json:",string"`
	There     uint64 `json:",string"` // the last row; beyond Seq some may be missing
}

// awaitTime is how long ClickHouse is waited for: it is mostly a moment behind.
const awaitTime = 30 * time.Second

// reached returns the checkpoints once they are beyond what the log had when the
// export began, or as they are after awaitTime.
func (e *Export) reached(ctx context.Context) ([]checkpoint, error) {
	for deadline := time.Now().Add(awaitTime); ; {
		var all []checkpoint
		behind := false
		err := e.ask(ctx, `SELECT c.epoch AS epoch, c.partition AS partition, toString(c.seq) AS seq, toString(e.there) AS there
			FROM (SELECT epoch, partition, max(seq) AS seq FROM checkpoints WHERE table = 'events' GROUP BY epoch, partition) AS c
			LEFT JOIN (SELECT _epoch AS epoch, _partition AS partition, max(_seq) AS there FROM events GROUP BY epoch, partition) AS e USING (epoch, partition)
			ORDER BY partition, epoch`, nil, func(line []byte) error {
			var c checkpoint
			if err := json.Unmarshal(line, &c); err != nil {
				return err
			}
			all = append(all, c)
			behind = behind || c.Seq < max(c.There, e.Await[c.Partition])
			return nil
		})
		for p, seq := range e.Await {
			behind = behind || seq > 0 && !slices.ContainsFunc(all, func(c checkpoint) bool { return c.Partition == p })
		}
		if err != nil || !behind && len(all) > 0 || time.Now().After(deadline) {
			return all, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// plan finds out what there is. Beyond a partition's checkpoint rows may still be
// missing; they belong to the next export.
func (e *Export) plan(ctx context.Context, m *Manifest) error {
	reached, err := e.reached(ctx)
	if err != nil {
		return err
	}
	for _, at := range reached {
		p := Partition{Epoch: at.Epoch, Partition: at.Partition, UpTo: at.Seq}
		parameters := map[string]string{"rows": strconv.FormatUint(e.Rows, 10)}
		where := e.where(File{Epoch: at.Epoch, Partition: at.Partition, First: 1, Last: at.Seq}, parameters)
		err := e.ask(ctx, `SELECT toString(min(_seq)) AS first, toString(max(_seq)) AS last, toString(toUnixTimestamp64Micro(min(received))) AS from,
			toString(toUnixTimestamp64Micro(max(received))) AS to, toString(count()) AS count
			FROM events WHERE `+where+` GROUP BY intDiv(_seq - 1, {rows:UInt64}) ORDER BY min(_seq)`, parameters, func(line []byte) error {
			f, err := parseCut(line)
			if err != nil {
				return err
			}
			f.Epoch, f.Partition = at.Epoch, at.Partition
			f.Name = fmt.Sprintf("events-%d-%d-%d.parquet", at.Epoch, at.Partition, f.First)
			p.Count += f.Count
			m.Files = append(m.Files, f)
			return nil
		})
		if err != nil {
			return err
		}
		m.Partitions = append(m.Partitions, p)
	}
	return nil
}

// parseCut reads what ClickHouse tells of a stretch that becomes a file.
func parseCut(line []byte) (File, error) {
	var c struct {
		First, Last, Count uint64 `json:",string"`
		From, To           int64  `json:",string"`
	}
	if err := json.Unmarshal(line, &c); err != nil {
		return File{}, err
	}
	return File{First: c.First, Last: c.Last, Count: c.Count, FirstReceived: time.UnixMicro(c.From).UTC(), LastReceived: time.UnixMicro(c.To).UTC()}, nil
}

// where selects the events of a file.
func (e *Export) where(f File, parameters map[string]string) string {
	return e.selects(f, parameters, []condition{
		{"device", e.Filter.Device, "device = {device:String}"},
		{"type", e.Filter.Type, "message = {type:String}"},
		{"kind", string(e.Filter.Kind), "kind = {kind:String}"},
		{"from", micros(e.Filter.From), "received >= fromUnixTimestamp64Micro({from:Int64})"},
		{"to", micros(e.Filter.To), "received < fromUnixTimestamp64Micro({to:Int64})"},
	})
}

// A condition stands in a statement when its parameter has a value.
type condition struct{ name, value, text string }

// selects selects the rows of a file's positions that meet all conditions.
func (e *Export) selects(f File, parameters map[string]string, all []condition) string {
	for name, value := range map[string]uint64{"epoch": uint64(f.Epoch), "partition": uint64(f.Partition), "first": f.First, "last": f.Last} {
		parameters[name] = strconv.FormatUint(value, 10)
	}
	texts := []string{"_epoch = {epoch:UInt32}", "_partition = {partition:UInt16}", "_seq BETWEEN {first:UInt64} AND {last:UInt64}"}
	for _, c := range all {
		if c.value != "" {
			parameters[c.name] = c.value
			texts = append(texts, c.text)
		}
	}
	return strings.Join(texts, " AND ")
}

func micros(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMicro(), 10)
}

// columns are those of the files. A body that is text stands in body, any other in
// body_base64: Parquet's text is UTF-8, and readers refuse what is not.
const columns = `_epoch AS epoch, _partition AS partition, _seq AS position, id, kind, toValidUTF8(device) AS device, toValidUTF8(message) AS type, subject, schema, time, received, repeat,
	if(isValidUTF8(payload), payload, NULL) AS body, if(isValidUTF8(payload), NULL, base64Encode(payload)) AS body_base64`

func (e *Export) write(ctx context.Context, f *File) error {
	parameters := map[string]string{}
	where := e.where(*f, parameters)
	return e.writeParquet(ctx, f, "events", "SELECT "+columns+" FROM events WHERE "+where+" ORDER BY _seq", parameters)
}

// writeParquet writes one file of what a statement selects, which must be as much
// as was counted.
func (e *Export) writeParquet(ctx context.Context, f *File, what, sql string, parameters map[string]string) (err error) {
	f.Bytes, f.SHA256, err = save(e.Dir, f.Name, func(w io.Writer) error {
		answer, err := e.Ask(ctx, sql, "parquet", parameters)
		if err != nil {
			return err
		}
		defer answer.Close()
		_, err = io.Copy(w, answer)
		return err
	})
	if err != nil {
		return err
	}
	rows, err := countRows(filepath.Join(e.Dir, f.Name))
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.Name, err)
	}
	if rows != f.Count {
		return fmt.Errorf("%s has %d %s, %d were counted: some were removed meanwhile (remedy: export again, into an empty folder)", f.Name, rows, what, f.Count)
	}
	return nil
}

// ask calls with each line of an answer.
func (e *Export) ask(ctx context.Context, sql string, parameters map[string]string, each func([]byte) error) error {
	answer, err := e.Ask(ctx, sql, "ndjson", parameters)
	if err != nil {
		return err
	}
	defer answer.Close()
	decoder := json.NewDecoder(answer)
	for {
		var line json.RawMessage
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(line); err != nil {
			return fmt.Errorf("read answer of ClickHouse: %w", err)
		}
	}
}
