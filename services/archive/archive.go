package archive

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet/file"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"

	"github.com/tachograph/tachograph/events"
)

// An Archive is a folder that an Export has written.
type Archive struct {
	Dir string
	Manifest
	sum string
}

// Open reads the manifest of an archive.
func Open(dir string) (*Archive, error) {
	m, text, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &Archive{Dir: dir, Manifest: m, sum: hex.EncodeToString(sum[:8])}, nil
}

// Name tells an archive apart from others, whatever its folder is called.
func (a *Archive) Name() string { return a.sum }

// Verify reads every file and holds it against its checksum. tell, which may be
// nil, hears how many files are done.
func (a *Archive) Verify(ctx context.Context, tell func(done, total uint64)) error {
	for i, f := range a.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(a.Dir, f.Name)
		torn := func(why string) error {
			return fmt.Errorf("read archive: %s is damaged: %s (remedy: bring back that file from a copy, or export again)", path, why)
		}
		size, sum, err := sumOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return torn("it is not there")
		case err != nil:
			return fmt.Errorf("read archive: %w", err)
		case size != f.Bytes:
			return torn(fmt.Sprintf("it has %d bytes instead of %d", size, f.Bytes))
		case sum != f.SHA256:
			return torn("its checksum is another")
		}
		if tell != nil {
			tell(uint64(i+1), uint64(len(a.Files)))
		}
	}
	return nil
}

// Events yields a partition's events after a sequence, in the order of the log.
func (a *Archive) Events(ctx context.Context, epoch uint32, partition uint16, after uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, f := range a.Files {
			if f.Epoch != epoch || f.Partition != partition || f.Last <= after {
				continue
			}
			last := max(after, f.First-1)
			for e, err := range a.read(ctx, f) {
				if err == nil && e.Position.Seq <= after {
					continue
				}
				if err == nil && (e.Position.Epoch != epoch || e.Position.Partition != partition || e.Position.Seq <= last || e.Position.Seq > f.Last) {
					err = fmt.Errorf("an event at %s does not belong there", e.Position)
				}
				if err != nil {
					yield(events.Event{}, fmt.Errorf("read archive: %s: %w", filepath.Join(a.Dir, f.Name), err))
					return
				}
				last = e.Position.Seq
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

const readRows = 4096

// read yields the events of one file.
func (a *Archive) read(ctx context.Context, f File) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) { yield(events.Event{}, err) }
		pf, err := file.OpenParquetFile(filepath.Join(a.Dir, f.Name), false)
		if err != nil {
			fail(err)
			return
		}
		defer pf.Close()
		r, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: readRows}, memory.DefaultAllocator)
		if err != nil {
			fail(err)
			return
		}
		records, err := r.GetRecordReader(ctx, nil, nil)
		if err != nil {
			fail(err)
			return
		}
		defer records.Release()
		for records.Next() {
			rows, err := columnsOf(records.Record())
			if err != nil {
				fail(err)
				return
			}
			for i := range rows.len {
				e, err := rows.event(i)
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
		if err := records.Err(); err != nil && !errors.Is(err, io.EOF) {
			fail(err)
		}
	}
}

// rows are the columns of a record that make up events.
type rows struct {
	len                            int
	epoch, schema                  *array.Uint32
	partition                      *array.Uint16
	position                       *array.Uint64
	id, typ, subject, body, base64 texts
	received                       *array.Timestamp
	unit                           arrow.TimeUnit
}

// texts is a column of text, whichever of Arrow's two it came as.
type texts interface {
	IsNull(int) bool
	Value(int) string
}

type binaryTexts struct{ *array.Binary }

func (b binaryTexts) Value(i int) string { return string(b.Binary.Value(i)) }

func columnsOf(r arrow.Record) (*rows, error) {
	c := &rows{len: int(r.NumRows())}
	var errs []error
	column := func(name string) arrow.Array {
		if i := r.Schema().FieldIndices(name); len(i) == 1 {
			return r.Column(i[0])
		}
		errs = append(errs, fmt.Errorf("column %s is not there", name))
		return nil
	}
	text := func(name string) texts {
		switch column := column(name).(type) {
		case *array.String:
			return column
		case *array.Binary:
			return binaryTexts{column}
		}
		errs = append(errs, fmt.Errorf("column %s is no text", name))
		return nil
	}
	c.epoch, c.schema = typed[*array.Uint32](column, "epoch", &errs), typed[*array.Uint32](column, "schema", &errs)
	c.partition = typed[*array.Uint16](column, "partition", &errs)
	c.position = typed[*array.Uint64](column, "position", &errs)
	c.received = typed[*array.Timestamp](column, "received", &errs)
	c.id, c.typ, c.subject, c.body, c.base64 = text("id"), text("type"), text("subject"), text("body"), text("body_base64")
	if len(errs) == 0 {
		c.unit = c.received.DataType().(*arrow.TimestampType).Unit
	}
	return c, errors.Join(errs...)
}

func typed[T arrow.Array](column func(string) arrow.Array, name string, errs *[]error) T {
	c, ok := column(name).(T)
	if !ok {
		*errs = append(*errs, fmt.Errorf("column %s is not of its type", name))
	}
	return c
}

func (c *rows) event(i int) (e events.Event, err error) {
	e.Position = events.Position{Epoch: c.epoch.Value(i), Partition: c.partition.Value(i), Seq: c.position.Value(i)}
	fail := func(err error) (events.Event, error) { return e, fmt.Errorf("event at %s: %w", e.Position, err) }
	subject := c.subject.Value(i)
	if e.Stream, e.Type, e.Schema, err = events.ParseSubject(subject); err != nil {
		return fail(err)
	}
	e.ID, e.Schema = c.id.Value(i), c.schema.Value(i)
	if e.Type == "" { // it stands in the subject, but for control facts
		e.Type = c.typ.Value(i)
	}
	if made := e.Subject(); made != subject {
		return fail(fmt.Errorf("its subject is %q and should be %q", subject, made))
	}
	e.Received = c.received.Value(i).ToTime(c.unit).UTC().Truncate(time.Microsecond)
	if !c.base64.IsNull(i) {
		e.Payload, err = base64.StdEncoding.DecodeString(c.base64.Value(i))
	} else {
		e.Payload = []byte(c.body.Value(i))
	}
	if err != nil {
		return fail(err)
	}
	return e, nil
}
