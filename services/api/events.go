package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// openKinds are the kinds that can be read here. Credentials hold hashes of
// tokens and leave the log for nobody.
var openKinds = []events.Kind{
	events.Telemetry, events.Registry, events.SchemaKind, events.Presence,
	events.Shadow, events.Command, events.Job, events.DeadLetter,
}

// A selection is what a client asks of the log. Times are arrival times: a
// device's clock decides nothing about what is found.
type selection struct {
	kind     events.Kind
	id       string // the stream's id; "" reads all of the kind
	message  string // the event's type; "" is any
	from, to time.Time
	after    events.Position
	limit    int // 0 is no limit
	base64   bool
}

func parseSelection(r *http.Request) (s selection, err error) {
	q, err := parseQuery(r, "device", "kind", "message", "from", "to", "after", "limit", "data")
	if err != nil {
		return s, err
	}
	s.kind = events.Telemetry
	if q.has("kind") {
		s.kind = events.Kind(q.text("kind"))
	}
	if s.kind == events.Credential {
		return s, problem.New(problem.Forbidden, "read events: credentials can be read by nobody", map[string]any{"kind": s.kind})
	}
	if !slices.Contains(openKinds, s.kind) {
		return s, invalidParameter("kind", fmt.Sprintf("is %q, want one of %q", s.kind, openKinds))
	}
	s.id, s.message = q.text("device"), q.text("message")
	for _, name := range []string{"device", "message"} {
		if q.has(name) && q.text(name) == "" {
			return s, invalidParameter(name, "is empty; leave it out to read all")
		}
	}
	if s.from, err = q.moment("from"); err != nil {
		return s, err
	}
	if s.to, err = q.moment("to"); err != nil {
		return s, err
	}
	if !s.from.IsZero() && !s.to.IsZero() && s.to.Before(s.from) {
		return s, invalidParameter("to", "is before from")
	}
	if s.after, err = q.position("after"); err != nil {
		return s, err
	}
	if s.limit, err = q.number("limit", 0, 1<<31-1); err != nil {
		return s, err
	}
	switch q.text("data") {
	case "", "json":
	case "base64":
		s.base64 = true
	default:
		return s, invalidParameter("data", fmt.Sprintf("is %q, want json or base64", q.text("data")))
	}
	return s, nil
}

// matches tells whether an event of the right kind and stream is asked for.
// It never ends a read early by time: an import's arrival times lie in the
// past of its neighbours'.
func (s selection) matches(e *events.Event) bool {
	return e.Stream.Kind == s.kind &&
		(s.id == "" || e.Stream.ID == s.id) &&
		(s.message == "" || e.Type == s.message) &&
		(s.from.IsZero() || !e.Received.Before(s.from)) &&
		(s.to.IsZero() || e.Received.Before(s.to)) &&
		newer(e.Position, s.after)
}

func newer(p, than events.Position) bool {
	if p.Partition != than.Partition {
		return p.Partition > than.Partition
	}
	if p.Epoch != than.Epoch {
		return p.Epoch > than.Epoch
	}
	return p.Seq > than.Seq
}

// listEvents streams events as NDJSON. Before the first line an error is an
// answer of its own; after it, the last line is the error body, since the
// status has gone out.
func (a *api) listEvents(w http.ResponseWriter, r *http.Request) error {
	s, err := parseSelection(r)
	if err != nil {
		return err
	}
	select {
	case a.readers <- struct{}{}:
		defer func() { <-a.readers }()
	default:
		return problem.New(problem.TooManyRequests,
			fmt.Sprintf("read events: %d readers are at work already", eventReaders), map[string]any{"limit": eventReaders})
	}

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := a.newEventWriter(w, s.base64)
	if r.Method == http.MethodHead {
		out.header()
		return nil
	}
	count := 0
	for e, err := range a.selected(ctx, s) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return out.fail(err)
		}
		if !s.matches(&e) {
			if err := out.tick(); err != nil {
				return gone(err)
			}
			continue
		}
		if err := out.write(&e); err != nil {
			return gone(err)
		}
		if count++; count == s.limit {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // what was read is not the whole of it
	}
	out.header()
	if err := out.flush(); err != nil {
		return gone(err)
	}
	return nil
}

// gone ends the answer to a client that does not read: there is nobody to tell.
func gone(error) error { panic(http.ErrAbortHandler) }

// selected yields a superset of the events asked for: one stream, or whole
// partitions up to where they end now.
func (a *api) selected(ctx context.Context, s selection) iter.Seq2[events.Event, error] {
	if s.id != "" && s.kind != events.Command && s.kind != events.Shadow { // of those a device has many streams
		return a.log.Read(ctx, events.Stream{Kind: s.kind, ID: s.id}, events.Latest)
	}
	return func(yield func(events.Event, error) bool) {
		for _, partition := range a.log.Partitions() {
			if !holds(partition, s.kind) || partition < s.after.Partition {
				continue
			}
			if !a.scan(ctx, partition, yield) {
				return
			}
		}
	}
}

func holds(partition uint16, kind events.Kind) bool {
	switch kind {
	case events.Telemetry:
		return partition < events.ControlPartition
	case events.DeadLetter:
		return partition >= events.DeadLetterPartition
	default:
		return partition >= events.ControlPartition && partition < events.DeadLetterPartition
	}
}

// scan yields a partition's events up to where it ends now, and tells whether
// to go on with the next.
func (a *api) scan(ctx context.Context, partition uint16, yield func(events.Event, error) bool) bool {
	tail, err := a.log.Tail(ctx, partition)
	if err != nil {
		yield(events.Event{}, fmt.Errorf("read events: %w", err))
		return false
	}
	if tail.Seq == 0 {
		return true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A log whose end was purged never shows it; Follow would wait for ever.
	idle := time.AfterFunc(idleLog, func() { cancel(errIdle) })
	defer idle.Stop()
	for e, err := range a.log.Follow(ctx, partition, events.Cursor{}) {
		if err != nil {
			yield(events.Event{}, fmt.Errorf("read events: %w", err))
			return false
		}
		idle.Stop()
		if !yield(e, nil) {
			return false
		}
		if e.Position.Seq >= tail.Seq {
			return true
		}
		idle.Reset(idleLog)
	}
	if errors.Is(context.Cause(ctx), errIdle) {
		yield(events.Event{}, problem.New(problem.Unavailable,
			fmt.Sprintf("read events: nothing came for %s, and the log goes on to %s", idleLog, tail), nil))
		return false
	}
	return true
}

var errIdle = errors.New("log is idle")

// An eventWriter writes NDJSON in large pieces, and small ones when time
// passes, so that a long search shows what it found so far.
type eventWriter struct {
	a        *api
	w        http.ResponseWriter
	control  *http.ResponseController
	buffer   *bufio.Writer
	encoder  eventEncoder
	began    bool
	lastSent time.Time
	ticks    uint
}

func (a *api) newEventWriter(w http.ResponseWriter, base64 bool) *eventWriter {
	return &eventWriter{
		a: a, w: w,
		control:  http.NewResponseController(w),
		buffer:   bufio.NewWriterSize(w, flushBytes),
		encoder:  eventEncoder{base64: base64, schemas: a.catalog.Schemas()},
		lastSent: time.Now(),
	}
}

func (o *eventWriter) header() {
	if !o.began {
		o.began = true
		o.w.Header().Set("Content-Type", "application/x-ndjson")
		o.w.WriteHeader(http.StatusOK)
	}
}

func (o *eventWriter) write(e *events.Event) error {
	o.header()
	line := o.encoder.encode(e)
	if o.buffer.Available() < len(line) {
		o.extend()
	}
	if _, err := o.buffer.Write(line); err != nil {
		return err
	}
	o.a.metrics.events.Inc()
	return o.tick()
}

// tick sends what is buffered when the last piece went out some time ago. The
// clock is read once in a while only.
func (o *eventWriter) tick() error {
	if o.ticks++; o.ticks%256 != 0 || time.Since(o.lastSent) < flushTime {
		return nil
	}
	o.extend()
	return o.flush()
}

// extend gives the client another while to take the next piece.
func (o *eventWriter) extend() {
	o.lastSent = time.Now()
	_ = o.control.SetWriteDeadline(o.lastSent.Add(answerTime)) // a recorder has none
}

func (o *eventWriter) flush() error {
	if err := o.buffer.Flush(); err != nil || !o.began {
		return err
	}
	if err := o.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// fail reports an error as an answer if nothing was written, else as the last line.
func (o *eventWriter) fail(err error) error {
	if !o.began {
		return err
	}
	p, known := problem.Of(err)
	if !known {
		o.a.logger.Error("read events failed", "request", o.w.Header().Get("X-Request-Id"), "error", err)
		p = problem.New(problem.Internal, "read events: internal error", nil)
	}
	_, _ = o.buffer.Write(append(p.Body(), '\n'))
	_ = o.flush() // the connection may be what failed
	return nil
}
