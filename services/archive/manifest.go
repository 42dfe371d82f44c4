package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/tachograph/tachograph/events"
)

// ManifestName is the file that says what an archive holds. It is written last:
// a folder without it is no archive.
const ManifestName = "manifest.json"

// The formats: the second has a layout. Who does not know it would refill a log
// that was split as one that never was.
const (
	formatVersion = 1
	splitVersion  = 2
)

// A Manifest says what an archive holds.
type Manifest struct {
	Format     int            `json:"format"` // 1; 2 where there is a layout
	Made       time.Time      `json:"made"`
	Filter     Filter         `json:"filter"`           // zero: everything there was
	Telemetry  int            `json:"telemetry"`        // how many partitions of telemetry the log has
	Layout     *events.Layout `json:"layout,omitempty"` // of a log that was split
	Partitions []Partition    `json:"partitions"`
	Files      []File         `json:"files"` // by partition, then by position
	Note       string         `json:"note"`  // for people
}

// LogLayout is that of the log.
func (m *Manifest) LogLayout() events.Layout {
	if m.Layout != nil {
		return *m.Layout
	}
	return events.NewLayout(m.Telemetry)
}

// A Partition is one of the log as it was when the archive was made.
type Partition struct {
	Epoch     uint32 `json:"epoch"`
	Partition uint16 `json:"partition"`
	UpTo      uint64 `json:"up_to"` // last position that the archive speaks of
	Count     uint64 `json:"count"` // events; the other positions up to UpTo are empty: forgotten, or expired
}

// A File is one of Parquet.
type File struct {
	Name          string    `json:"name"`
	Epoch         uint32    `json:"epoch"`
	Partition     uint16    `json:"partition"`
	First         uint64    `json:"first"` // positions
	Last          uint64    `json:"last"`
	FirstReceived time.Time `json:"first_received"` // earliest and latest arrival
	LastReceived  time.Time `json:"last_received"`
	Count         uint64    `json:"count"`
	Bytes         int64     `json:"bytes"`
	SHA256        string    `json:"sha256"` // hexadecimal
}

// A Filter says what is wanted of the events; the zero value is all.
type Filter struct {
	Device string      `json:"device,omitempty"`
	Type   string      `json:"type,omitempty"`
	Kind   events.Kind `json:"kind,omitempty"`
	From   time.Time   `json:"from,omitzero"` // arrival, inclusive
	To     time.Time   `json:"to,omitzero"`   // arrival, exclusive
}

const manifestNote = "Exported files are out of the reach of tacho forget: delete them, or import them with the ledger of what was forgotten since."

var fileName = regexp.MustCompile(`^events-[0-9]+-[0-9]+-[0-9]+\.parquet$`)

// Events is how many events the archive holds.
func (m *Manifest) Events() (n uint64) {
	for _, f := range m.Files {
		n += f.Count
	}
	return n
}

// check tells what is wrong in a manifest: it may come from anywhere.
func (m *Manifest) check() error {
	if m.Format < formatVersion || m.Format > splitVersion {
		return fmt.Errorf("it is of format %d, this tacho reads %d and %d (remedy: a tacho of the release that wrote it)", m.Format, formatVersion, splitVersion)
	}
	if (m.Format == splitVersion) != (m.Layout != nil) || m.Telemetry < 1 || m.Telemetry > events.Slots || m.LogLayout().Telemetry() != m.Telemetry {
		return fmt.Errorf("it is of format %d and of %d telemetry partitions, which its layout does not fit", m.Format, m.Telemetry)
	}
	type place struct {
		epoch     uint32
		partition uint16
	}
	at, count := map[place]uint64{}, map[place]uint64{}
	for _, f := range m.Files {
		p := place{f.Epoch, f.Partition}
		if !fileName.MatchString(f.Name) {
			return fmt.Errorf("%.80q is no name of one of its files", f.Name)
		}
		if f.First <= at[p] || f.Last < f.First || f.Count == 0 || f.Count > f.Last-f.First+1 {
			return fmt.Errorf("%s: positions %d to %d and %d events cannot be", f.Name, f.First, f.Last, f.Count)
		}
		at[p] = f.Last
		count[p] += f.Count
	}
	for _, p := range m.Partitions {
		key := place{p.Epoch, p.Partition}
		if at[key] > p.UpTo || count[key] != p.Count {
			return fmt.Errorf("partition %d has %d events up to %d, its files %d up to %d", p.Partition, p.Count, p.UpTo, count[key], at[key])
		}
		delete(at, key)
	}
	if len(at) > 0 {
		return errors.New("it names files of partitions that it does not name")
	}
	return nil
}

func readManifest(dir string) (m Manifest, text []byte, err error) {
	path := filepath.Join(dir, ManifestName)
	text, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil, fmt.Errorf("read archive %s: it has no %s: the export has not ended, or this is no archive (remedy: export again, into an empty folder)", dir, ManifestName)
	}
	if err != nil {
		return m, nil, fmt.Errorf("read archive: %w", err)
	}
	var content struct{ Content string }
	if err = json.Unmarshal(text, &content); err == nil && content.Content != "" {
		return m, nil, fmt.Errorf("read archive: %s holds %s, not events: nothing can be folded from them (remedy: export without --samples)", dir, content.Content)
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return m, nil, fmt.Errorf("read archive: %s: %w", path, err)
	}
	return m, text, nil
}
