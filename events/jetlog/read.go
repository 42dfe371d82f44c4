package jetlog

import (
	"context"
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
		fail := func(err error) { yield(events.Event{}, fmt.Errorf("read %s: %w", s, err)) }
		partition := s.PartitionIn(l.cfg.Partitions)
		stream, err := l.reader.Stream(ctx, streamName(partition))
		if err != nil {
			fail(err)
			return
		}
		if oldest := oldestOf(stream.CachedInfo()); after.Seq+1 < oldest {
			at := events.Position{Epoch: l.epochs[partition], Partition: partition}
			asked := at
			at.Seq, asked.Seq = oldest, after.Seq
			fail(&events.TruncatedError{Asked: asked, Oldest: at})
			return
		}
		consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{s.Filter()},
			DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:    after.Seq + 1,
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
		d := decoder{epoch: l.epochs[partition], partition: partition}
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
				if seq > upTo.Seq {
					return
				}
				e, err := d.decode(msg.Subject(), msg.Headers(), msg.Data(), seq, at)
				if !yield(e, err) || err != nil {
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
