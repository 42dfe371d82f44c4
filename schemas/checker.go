package schemas

import (
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A Checker validates messages at the door. It runs the very decoder that Batch
// does and throws the rows away, so that both always agree. It is not safe for
// concurrent use; keep one per connection or pool them.
type Checker struct {
	d     *decoder
	info  Info
	first *DecodeError
}

// An Info is what a Checker learned of a message.
type Info struct {
	Time    time.Time // device time of the first sample; zero if it has none
	Samples int
	Bad     int // how many of them cannot be decoded
}

// NewChecker returns a checker.
func (s *Schema) NewChecker() *Checker {
	return &Checker{d: newDecoder(s, memory.DefaultAllocator)}
}

// Check validates one message. The error is a *DecodeError: that of the message
// as a whole, or, if Info.Samples is not 0, that of its first bad sample.
func (c *Checker) Check(payload []byte) (Info, error) {
	c.info, c.first = Info{}, nil
	n, failed := c.d.samples(payload, c)
	if failed != nil {
		return Info{}, failed
	}
	c.info.Samples = n
	if c.first != nil {
		return c.info, c.first
	}
	return c.info, nil
}

// good implements sink.
func (c *Checker) good() {
	c.d.row--
	if c.info.Samples == 0 {
		c.info.Time, _ = c.d.timeOf(c.d.row)
	}
	c.info.Samples++
	c.d.undo()
}

// bad implements sink.
func (c *Checker) bad(_ int, e *DecodeError, _ []byte) {
	if c.first == nil {
		c.first = e
	}
	c.info.Samples++
	c.info.Bad++
}
