package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A SampleExport writes what ClickHouse has of the samples into a folder: the
// tables of message types, in typed columns, for other programs. Such a folder
// cannot be imported.
type SampleExport struct {
	Export          // Filter.Kind is not used
	ByDevice bool   // Filter.From and To are times by the device's clock
	Tables   []Type // what is wanted, as the schemas have it
}

// A Type is a message type and its table.
type Type struct {
	Name    string   `json:"type"`
	Version uint32   `json:"version"` // of the schema, when the export was made
	Columns []Column `json:"columns"`
}

// A Column is one of a file, or of a schema.
type Column struct {
	Name        string   `json:"name"`
	Type        string   `json:"clickhouse"` // its type there
	Kind        string   `json:"kind,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Signal      string   `json:"signal,omitempty"` // VSS
	Values      []string `json:"values,omitempty"` // of an enum
	Description string   `json:"description,omitempty"`
	Encoding    string   `json:"encoding,omitempty"` // base64: of bytes, which Parquet's text cannot hold
}

// A SampleManifest says what a folder of samples holds.
type SampleManifest struct {
	Format  int           `json:"format"`
	Content string        `json:"content"` // contentSamples
	Made    time.Time     `json:"made"`
	Filter  Filter        `json:"filter"`
	By      string        `json:"by"` // whose clock the filter's times mean: arrival or device
	Tables  []SampleTable `json:"tables"`
	Note    string        `json:"note"`
}

// A SampleTable is a message type of a SampleManifest. Up to the position of each
// partition the files have every sample that the filter lets through.
type SampleTable struct {
	Type
	Partitions []Partition `json:"partitions"` // Count is of samples
	Files      []File      `json:"files"`      // Count is of samples
}

const contentSamples = "samples"

const samplesNote = "Samples as tables of message types have them; for import export without --samples. Exported files are out of the reach of tacho forget: delete them."

// Samples is how many there are.
func (m *SampleManifest) Samples() (n uint64) {
	for _, t := range m.Tables {
		for _, f := range t.Files {
			n += f.Count
		}
	}
	return n
}

// Run writes the files and, last, the manifest.
func (e *SampleExport) Run(ctx context.Context) (SampleManifest, error) {
	if e.Rows == 0 {
		e.Rows = 250_000
	}
	m := SampleManifest{Format: formatVersion, Content: contentSamples, Made: time.Now().UTC(), Filter: e.Filter, By: "arrival", Tables: []SampleTable{}, Note: samplesNote}
	if e.ByDevice {
		m.By = "device"
	}
	if err := e.folder(); err != nil {
		return m, err
	}
	reached, err := e.reached(ctx)
	if err != nil {
		return m, fmt.Errorf("export samples: %w", err)
	}
	for _, t := range e.Tables {
		table, err := e.planTable(ctx, t, reached)
		if err != nil {
			return m, fmt.Errorf("export samples of %s: %w", t.Name, err)
		}
		m.Tables = append(m.Tables, table)
	}
	total, done := m.Samples(), uint64(0)
	for _, t := range m.Tables {
		for i := range t.Files {
			if err := e.writeTable(ctx, t.Type, &t.Files[i]); err != nil {
				return m, fmt.Errorf("export samples of %s: %w", t.Name, err)
			}
			if done += t.Files[i].Count; e.Progress != nil {
				e.Progress(done, total)
			}
		}
	}
	return m, saveManifest(e.Dir, m)
}

// envelope are the columns of every table that no schema has.
var envelope = map[string]Column{
	"device":     {Kind: "string", Description: "who sent it"},
	"received":   {Kind: "time", Description: "arrival"},
	"_epoch":     {Kind: "uint32", Description: "position of the message in the log"},
	"_partition": {Kind: "uint16", Description: "position of the message in the log"},
	"_seq":       {Kind: "uint64", Description: "position of the message in the log"},
	"_row":       {Kind: "uint32", Description: "number of the sample in its message"},
	"_id":        {Kind: "string", Description: "of the message"},
}

// planTable finds out which columns a table has, which the schema describes, and
// cuts what it holds into files.
func (e *SampleExport) planTable(ctx context.Context, t Type, reached []checkpoint) (SampleTable, error) {
	table := SampleTable{Type: Type{Name: t.Name, Version: t.Version, Columns: []Column{}}, Partitions: []Partition{}, Files: []File{}}
	err := e.ask(ctx, "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String} AND name != '_stored' ORDER BY position",
		map[string]string{"table": t.Name}, func(line []byte) error {
			var has struct{ Name, Type string }
			if err := json.Unmarshal(line, &has); err != nil {
				return err
			}
			c := envelope[has.Name]
			if i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == has.Name }); i >= 0 {
				c = t.Columns[i]
			}
			c.Name, c.Type = has.Name, has.Type
			if c.Kind == "bytes" {
				c.Encoding = "base64"
			}
			table.Columns = append(table.Columns, c)
			return nil
		})
	if err != nil || len(table.Columns) == 0 { // nothing has arrived: there is no table
		return table, err
	}
	for _, at := range reached {
		p := Partition{Epoch: at.Epoch, Partition: at.Partition, UpTo: at.Seq}
		files, err := e.cut(ctx, t.Name, at)
		if err != nil {
			return table, err
		}
		for _, f := range files {
			p.Count += f.Count
		}
		table.Files = append(table.Files, files...)
		table.Partitions = append(table.Partitions, p)
	}
	return table, nil
}

// cut shares what a partition has of a table among files of about Rows samples:
// stretches of positions, so the next export cuts in the same places.
func (e *SampleExport) cut(ctx context.Context, table string, at checkpoint) (files []File, err error) {
	parameters := map[string]string{"step": strconv.FormatUint(max(1, e.Rows/256), 10)}
	where := e.sampleWhere(File{Epoch: at.Epoch, Partition: at.Partition, First: 1, Last: at.Seq}, parameters)
	err = e.ask(ctx, `SELECT toString(min(_seq)) AS first, toString(max(_seq)) AS last, toString(toUnixTimestamp64Micro(min(received))) AS from,
		toString(toUnixTimestamp64Micro(max(received))) AS to, toString(count()) AS count
		FROM `+quoted(table)+` WHERE `+where+` GROUP BY intDiv(_seq - 1, {step:UInt64}) ORDER BY min(_seq)`, parameters, func(line []byte) error {
		f, err := parseCut(line)
		if err != nil {
			return err
		}
		if n := len(files); n > 0 && files[n-1].Count+f.Count <= e.Rows {
			last := &files[n-1]
			last.Last, last.Count = f.Last, last.Count+f.Count
			if f.FirstReceived.Before(last.FirstReceived) {
				last.FirstReceived = f.FirstReceived
			}
			if f.LastReceived.After(last.LastReceived) {
				last.LastReceived = f.LastReceived
			}
			return nil
		}
		f.Epoch, f.Partition = at.Epoch, at.Partition
		f.Name = fmt.Sprintf("%s-%d-%d-%d.parquet", table, at.Epoch, at.Partition, f.First)
		files = append(files, f)
		return nil
	})
	return files, err
}

// sampleWhere selects the samples of a file.
func (e *SampleExport) sampleWhere(f File, parameters map[string]string) string {
	clock := "received"
	if e.ByDevice {
		clock = "time"
	}
	return e.selects(f, parameters, []condition{
		{"device", e.Filter.Device, "device = {device:String}"},
		{"from", micros(e.Filter.From), clock + " >= fromUnixTimestamp64Micro({from:Int64})"},
		{"to", micros(e.Filter.To), clock + " < fromUnixTimestamp64Micro({to:Int64})"},
	})
}

// writeTable writes one file. Within it samples are in the order in which they are
// mostly asked for: a reader finds a device by the file's own statistics.
func (e *SampleExport) writeTable(ctx context.Context, t Type, f *File) error {
	parameters := map[string]string{}
	where := e.sampleWhere(*f, parameters)
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = selected(c)
	}
	return e.writeParquet(ctx, f, "samples", "SELECT "+strings.Join(columns, ", ")+" FROM "+quoted(t.Name)+" WHERE "+where+" ORDER BY device, time, _epoch, _partition, _seq, _row", parameters)
}

// selected is a column as it is written. Bytes cannot stand in Parquet's text, as
// readers refuse what is not UTF-8.
func selected(c Column) string {
	name := quoted(c.Name)
	if c.Encoding == "" {
		return name
	}
	switch {
	case strings.HasPrefix(c.Type, "Array("):
		return "arrayMap(v -> base64Encode(v), " + name + ") AS " + name
	case strings.HasPrefix(c.Type, "Map("):
		return "mapApply((k, v) -> (k, base64Encode(v)), " + name + ") AS " + name
	}
	return "base64Encode(" + name + ") AS " + name
}

// quoted is a name of a table or a column in a statement.
func quoted(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}
