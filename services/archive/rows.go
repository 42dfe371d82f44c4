package archive

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tachograph/tachograph/events"
)

// A row holds the columns of a file that make up an event (the folder's table in
// DESIGN.md has all).
type row struct {
	Epoch     uint32  `parquet:"epoch"`
	Partition uint16  `parquet:"partition"`
	Position  uint64  `parquet:"position"`
	ID        string  `parquet:"id"`
	Type      string  `parquet:"type"`
	Subject   string  `parquet:"subject"`
	Schema    uint32  `parquet:"schema"`
	Received  int64   `parquet:"received,timestamp(microsecond)"`
	Body      *string `parquet:"body,optional"`
	Base64    *string `parquet:"body_base64,optional"` // of a body that is no text
}

var rowSchema = parquet.SchemaOf(row{})

// openRows opens a Parquet file; whoever gets it closes the second.
func openRows(path string) (*parquet.File, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var p *parquet.File
		if p, err = parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true)); err == nil {
			return p, f, nil
		}
	}
	return nil, nil, errors.Join(err, f.Close())
}

// countRows returns how many rows a Parquet file has.
func countRows(path string) (uint64, error) {
	p, closer, err := openRows(path)
	if err != nil {
		return 0, err
	}
	return uint64(p.NumRows()), closer.Close()
}

// hold checks that a file has the columns of a row: what it lacks would be read as
// zeros, and a timestamp of another unit as another time.
func hold(file *parquet.Schema) error {
	var errs []error
	for _, path := range rowSchema.Columns() {
		want, _ := rowSchema.Lookup(path...)
		switch got, ok := file.Lookup(path...); {
		case !ok:
			errs = append(errs, fmt.Errorf("column %s is not there", path[0]))
		case got.Node.Type().String() != want.Node.Type().String() || got.Node.Optional() != want.Node.Optional():
			errs = append(errs, fmt.Errorf("column %s is %s, not %s", path[0], got.Node, want.Node))
		}
	}
	return errors.Join(errs...)
}

// read yields the events of one file.
func (a *Archive) read(ctx context.Context, f File) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) { yield(events.Event{}, err) }
		p, closer, err := openRows(filepath.Join(a.Dir, f.Name))
		if err != nil {
			fail(err)
			return
		}
		defer closer.Close()
		if err := hold(p.Schema()); err != nil {
			fail(err)
			return
		}
		r := parquet.NewGenericReader[row](p)
		defer r.Close()
		for batch := make([]row, 1024); ; {
			if err := ctx.Err(); err != nil {
				fail(err)
				return
			}
			n, err := r.Read(batch)
			for i := range n {
				e, err := batch[i].event()
				if !yield(e, err) || err != nil {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				fail(err)
				return
			}
		}
	}
}

func (r *row) event() (e events.Event, err error) {
	e.Position = events.Position{Epoch: r.Epoch, Partition: r.Partition, Seq: r.Position}
	fail := func(err error) (events.Event, error) { return e, fmt.Errorf("event at %s: %w", e.Position, err) }
	if e.Stream, e.Type, e.Schema, err = events.ParseSubject(r.Subject); err != nil {
		return fail(err)
	}
	e.ID, e.Schema = r.ID, r.Schema
	if e.Type == "" { // it stands in the subject, but for control facts
		e.Type = r.Type
	}
	if made := e.Subject(); made != r.Subject {
		return fail(fmt.Errorf("its subject is %q and should be %q", r.Subject, made))
	}
	e.Received = time.UnixMicro(r.Received).UTC()
	switch {
	case r.Base64 != nil:
		if e.Payload, err = base64.StdEncoding.DecodeString(*r.Base64); err != nil {
			return fail(err)
		}
	case r.Body != nil:
		e.Payload = []byte(*r.Body)
	default:
		e.Payload = []byte{}
	}
	return e, nil
}
