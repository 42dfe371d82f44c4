package shadows

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/buckets"
	"github.com/tachograph/tachograph/projections/shadow"
)

// Replay returns how the bucket is folded anew, from the shadows' log, beside the
// serving one. It is called after View. The documents in memory are not touched:
// they are folded at each start.
func (s *Shadows) Replay(js jetstream.JetStream, replicas int) *buckets.Replay {
	return &buckets.Replay{View: buckets.View{
		JS: js, Log: s.log, Serving: s.view.kv, Bucket: BucketConfig(replicas), Partitions: []uint16{events.ControlPartition}, Pause: s.view.Pause,
		PositionKey: func(uint16) string { return positionKey },
		Cursor: func(text []byte) (events.Cursor, error) {
			at, err := parsePosition(text)
			return events.Cursor{Position: at}, err
		},
		Start: s.anew,
		Truth: s.truth,
	}}
}

// errNoParking is why a replay of shadows cannot pass over what the code breaks
// down at: the fold in memory, whose copy the view is, does not either.
var errNoParking = errors.New("replay shadow: facts of shadows cannot be parked, each version stands on the one before (remedy: replay without on_panic=park; an event at which the code breaks is named)")

func (s *Shadows) anew(kv jetstream.KeyValue, log events.Log, order projections.Order, _ *projections.Casualties) ([]projections.Runner, error) {
	if order.Park {
		return nil, errNoParking
	}
	fold := unfolded(Config{Log: log, Limits: s.limits, Logger: s.logger, Now: s.now})
	fold.View(kv)
	fold.view.wait = true
	return []projections.Runner{&rebuild{fold}}, nil
}

// A rebuild folds shadows from the log's beginning and keeps a bucket in step with
// them. One that was interrupted folds anew, in memory, and writes what the
// bucket does not have.
type rebuild struct{ s *Shadows }

func (r *rebuild) Name() string { return "shadow" }

// Status is how far the bucket is on the way to the log's end.
func (r *rebuild) Status() projections.Status {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	newest, err := events.Newest(ctx, r.s.log, events.ControlPartition)
	st := r.s.view.Status()
	if err == nil {
		st.Tail = newest.Seq
	}
	st.Lag = st.Tail - min(st.Tail, st.Position.Seq)
	st.CaughtUp = st.CaughtUp && st.Lag == 0 && err == nil
	return st
}

// Run folds and writes until ctx ends.
func (r *rebuild) Run(ctx context.Context) error {
	have, err := r.s.view.reached(ctx)
	if err != nil {
		return err
	}
	newest, err := events.Newest(ctx, r.s.log, events.ControlPartition)
	if err != nil {
		return fmt.Errorf("follow shadows: %w", err)
	}
	if have.Seq > 0 && (have.Epoch != newest.Epoch || have.Seq > newest.Seq) { // of another log
		if err := r.s.view.empty(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	written := make(chan error, 1)
	go func() { written <- projections.Guard(nil, func() error { defer cancel(); return r.s.view.Run(ctx) }) }()
	err = r.fold(ctx)
	cancel()
	return errors.Join(err, <-written)
}

func (r *rebuild) fold(ctx context.Context) error {
	for e, err := range events.Facts(ctx, r.s.log, events.Cursor{}) {
		if err != nil {
			return fmt.Errorf("follow shadows: %w", err)
		}
		if err := projections.Guard(&e, func() error { r.s.fold(e); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// truth folds a shadow from the log: as of the position of the document that is
// there; or, where none is, it tells whether the shadow was deleted since upTo.
func (s *Shadows) truth(ctx context.Context, key string, there, built []byte, upTo events.Position) ([]byte, error) {
	stream, err := streamOf(key)
	if err != nil {
		return nil, err
	}
	if len(there) == 0 {
		for e, err := range s.log.ReadAfter(ctx, stream, upTo, events.Latest) {
			if err != nil {
				return nil, err
			}
			if e.Type == shadow.TypeDeleted {
				return nil, nil
			}
		}
		return built, nil
	}
	doc, position := shadow.Document{Name: stream.Name}, events.Position{}
	for c, err := range s.changes(ctx, stream.ID, stream.Name, mark{doc: doc}) {
		if err != nil {
			return nil, err
		}
		if c.Position.Seq > buckets.PositionOf(there).Seq {
			break
		}
		doc, position = c.Document, c.Position
	}
	return valueOf(stream.ID, stream.Name, doc, position)
}

// streamOf is the inverse of Key.
func streamOf(key string) (s events.Stream, err error) {
	device, name, named := strings.Cut(key, ".")
	s.Kind = events.Shadow
	if s.ID, err = events.Unescape(device); err == nil && named {
		s.Name, err = events.Unescape(name)
	}
	return s, err
}
