package jetlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// abandoned is how long a reader that asks for nothing is kept.
const abandoned = 10 * time.Second

// Read implements events.Log: a filtered ordered reader that ends at the
// stream's present end. Filters are slow on streams of many subjects; it is for
// one device, not for projections.
func (l *Log) Read(ctx context.Context, s events.Stream, upTo events.Position) iter.Seq2[events.Event, error] {
	return l.ReadAfter(ctx, s, events.Position{}, upTo)
}

// ReadAfter implements events.Log.
func (l *Log) ReadAfter(ctx context.Context, s events.Stream, after, upTo events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		subjects := []string{s.Filter()}
		read := func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
			return l.read(ctx, partition, subjects, after, upTo, func(e *events.Event) bool { return s.Covers(e.Stream) })
		}
		for e, err := range l.layout.ReadAlong(s, after, upTo, read) {
			if err != nil {
				err = fmt.Errorf("read %s: %w", s, err)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Scan implements events.Log, as ReadAfter does.
func (l *Log) Scan(ctx context.Context, partition uint16, after events.Cursor, upTo uint64, only events.Filter) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) { yield(events.Event{}, fmt.Errorf("scan partition %d: %w", partition, err)) }
		epoch, ok := l.epochs[partition]
		if !ok {
			fail(fmt.Errorf("the log has no such partition: %w", events.ErrInvalid))
			return
		}
		if err := l.verify(ctx, partition, epoch, after); err != nil {
			fail(err)
			return
		}
		for e, err := range l.read(ctx, partition, only.Subjects(partition), after.Position.Seq, upTo, only.Matches) {
			if err != nil {
				fail(err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// read yields what is wanted of what a partition has of some subjects (nil: all)
// after a sequence, up to another or its present end.
func (l *Log) read(ctx context.Context, partition uint16, subjects []string, after, upTo uint64, wanted func(*events.Event) bool) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) { yield(events.Event{}, err) }
		stream, err := l.reader.Stream(ctx, streamName(partition))
		if err != nil {
			fail(err)
			return
		}
		if oldest := oldestOf(stream.CachedInfo()); after+1 < oldest {
			at := events.Position{Epoch: l.epochs[partition], Partition: partition}
			asked := at
			at.Seq, asked.Seq = oldest, after
			fail(&events.TruncatedError{Asked: asked, Oldest: at})
			return
		}
		d := decoder{epoch: l.epochs[partition], partition: partition}
		if upTo <= after || upTo-after <= few {
			for seq := after + 1; seq <= upTo; seq++ {
				e, ok, err := one(ctx, stream, &d, seq)
				if err != nil {
					fail(err)
					return
				}
				if ok && wanted(&e) && !yield(e, nil) {
					return
				}
			}
			return
		}
		consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			FilterSubjects: subjects,
			DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:    after + 1,
			// A server has room for so many consumers; one that is left behind is in the way.
			InactiveThreshold: abandoned,
		})
		if err != nil {
			fail(err)
			return
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandoned)
			defer cancel()
			_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name) // or it ends by itself
		}()
		info, err := consumer.Info(ctx)
		if err != nil {
			fail(err)
			return
		}
		pending := info.NumPending
		for pending > 0 && ctx.Err() == nil {
			batch, err := consumer.Fetch(int(min(pending, 1000)), jetstream.FetchContext(ctx))
			if err != nil {
				fail(err)
				return
			}
			got := uint64(0)
			for msg := range batch.Messages() {
				got++
				seq, _, at, err := metadata(msg.Reply())
				if err != nil {
					fail(err)
					return
				}
				if seq > upTo {
					return
				}
				e, err := d.decode(msg.Subject(), msg.Headers(), msg.Data(), seq, at)
				if err != nil {
					fail(err)
					return
				}
				if wanted(&e) && !yield(e, nil) {
					return
				}
			}
			if err := batch.Error(); err != nil && ctx.Err() == nil {
				fail(err)
				return
			}
			if got == 0 {
				return
			}
			pending -= min(got, pending)
		}
		if err := ctx.Err(); err != nil {
			fail(err)
		}
	}
}

// few messages are asked for one by one: for a consumer the server counts what
// there is from its beginning to the stream's end, which takes longer than they do.
const few = 4

// one reads the event of a sequence; ok is false when there is none.
func one(ctx context.Context, stream jetstream.Stream, d *decoder, seq uint64) (e events.Event, ok bool, err error) {
	msg, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return e, false, nil // removed, or not there yet
	}
	if err == nil {
		e, err = d.decode(msg.Subject, msg.Header, msg.Data, msg.Sequence, msg.Time)
	}
	return e, err == nil, err
}
