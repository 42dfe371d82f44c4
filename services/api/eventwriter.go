package api

import (
	"bufio"
	"errors"
	"net/http"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// tokenHeader says where an answer begins, for who has to begin again before
// the first event.
const tokenHeader = "Tacho-Token"

// An eventFormat turns events into bytes. What it returns is valid until its
// next call.
type eventFormat interface {
	media() string
	event(e *events.Event, at events.Cursors) ([]byte, error)
	beat(at events.Cursors) ([]byte, error) // nothing has come for a while
	pending() ([]byte, error)               // what event has kept back
	end() ([]byte, error)                   // there is nothing more
	fail(p *problem.Problem) []byte         // reading failed; nil breaks the connection off
}

// An eventWriter writes events in large pieces, and small ones when time
// passes, so that a long search shows what it found so far.
type eventWriter struct {
	a        *api
	w        http.ResponseWriter
	control  *http.ResponseController
	buffer   *bufio.Writer
	format   eventFormat
	start    string // token of where the answer begins
	began    bool
	lastSent time.Time
	ticks    uint
}

func (a *api) newEventWriter(w http.ResponseWriter, s selection, at events.Cursors) *eventWriter {
	encoder := eventEncoder{payloads: s.data, schemas: a.catalog.Schemas()}
	o := &eventWriter{
		a: a, w: w, start: at.Token(),
		control:  http.NewResponseController(w),
		buffer:   bufio.NewWriterSize(w, flushBytes),
		format:   &ndjson{encoder},
		lastSent: time.Now(),
	}
	if s.arrow {
		o.format = newArrowEvents(encoder)
	}
	return o
}

func (o *eventWriter) header() {
	if !o.began {
		o.began = true
		o.w.Header().Set("Content-Type", o.format.media())
		o.w.Header().Set(tokenHeader, o.start)
		o.w.WriteHeader(http.StatusOK)
	}
}

func (o *eventWriter) write(e *events.Event, at events.Cursors) error {
	o.header()
	if err := o.put(o.format.event(e, at)); err != nil {
		return err
	}
	o.a.metrics.events.Inc()
	return o.tick()
}

func (o *eventWriter) put(b []byte, err error) error {
	if err != nil {
		return err
	}
	if o.buffer.Available() < len(b) {
		o.extend()
	}
	_, err = o.buffer.Write(b)
	return err
}

// tick sends what is buffered when the last piece went out some time ago. The
// clock is read once in a while only.
func (o *eventWriter) tick() error {
	if o.ticks++; o.ticks%256 != 0 || time.Since(o.lastSent) < flushTime {
		return nil
	}
	if !o.began {
		o.extend()
		return nil
	}
	return o.push()
}

// push sends all there is.
func (o *eventWriter) push() error {
	if err := o.put(o.format.pending()); err != nil {
		return err
	}
	return o.flush()
}

// beat tells a client that waits that it is heard.
func (o *eventWriter) beat(at events.Cursors) error {
	if err := o.put(o.format.beat(at)); err != nil {
		return err
	}
	return o.flush()
}

// end sends the rest.
func (o *eventWriter) end() error {
	o.header()
	if err := o.put(o.format.end()); err != nil {
		return err
	}
	return o.flush()
}

// extend gives the client another while to take the next piece.
func (o *eventWriter) extend() {
	o.lastSent = time.Now()
	_ = o.control.SetWriteDeadline(o.lastSent.Add(answerTime)) // a recorder has none
}

func (o *eventWriter) flush() error {
	o.extend()
	if err := o.buffer.Flush(); err != nil {
		return err
	}
	if err := o.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// fail reports an error as an answer if nothing was written, else in the way of
// the format.
func (o *eventWriter) fail(err error) error {
	if !o.began {
		return err
	}
	p, known := problem.Of(err)
	if !known {
		o.a.logger.Error("read events failed", "request", o.w.Header().Get("X-Request-Id"), "error", err)
		p = problem.New(problem.Internal, "read events: internal error", nil)
	}
	last := o.format.fail(p)
	if last == nil {
		_ = o.push()
		return gone(err)
	}
	_, _ = o.buffer.Write(last)
	_ = o.flush() // the connection may be what failed
	return nil
}
