package schemas

import (
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A Batch decodes messages into Arrow columns. It is not safe for concurrent use.
type Batch struct{}

// NewBatch returns an empty batch.
func (s *Schema) NewBatch(mem memory.Allocator) *Batch { return &Batch{} }

// A BadSample is a sample that could not be decoded.
type BadSample struct {
	Index  int
	Reason string
	Bytes  []byte
}

// Append decodes one message.
func (b *Batch) Append(payload []byte, received time.Time) (rows int, bad []BadSample, err error) {
	return 0, nil, nil
}

// Rows is the number of rows.
func (b *Batch) Rows() int { return 0 }

// Bytes is the memory taken.
func (b *Batch) Bytes() int64 { return 0 }

// Record returns the rows and empties the batch.
func (b *Batch) Record() arrow.Record { return nil }

// A Checker validates messages. It is not safe for concurrent use.
type Checker struct{}

// An Info is what a Checker learned.
type Info struct {
	Time    time.Time
	Samples int
}

// NewChecker returns a checker.
func (s *Schema) NewChecker() *Checker { return &Checker{} }

// Check validates a message.
func (c *Checker) Check(payload []byte) (Info, error) { return Info{}, nil }

// PeekTime finds the time of the first sample.
func PeekTime(payload []byte) (time.Time, bool) { return time.Time{}, false }

// Value returns a cell.
func Value(rec arrow.Record, col, row int) (any, bool) { return nil, false }
