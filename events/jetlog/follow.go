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

// pullMessages is how many messages a reader asks for at a time: with the
// client's default of 500 the reader waits for the server half of the time.
const pullMessages jetstream.PullMaxMessages = 5000

// selectBytes is what a reader holds that others than we ask for; they may be
// slow. At least two messages have to fit, or none would come.
func (l *Log) selectBytes() int {
	return max(4<<20, 2*int(l.cfg.Read.MaxPayload()))
}

// Follow implements events.Log: one unfiltered ordered reader (DESIGN D10). A
// reader that gets nothing though there is something is replaced by the client
// on the first heartbeat it misses.
func (l *Log) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return l.follow(ctx, partition, after, events.Filter{}, pullMessages)
}

// Select implements events.Log: an ordered reader that the server filters for,
// by subject, and that holds few bytes.
func (l *Log) Select(ctx context.Context, partition uint16, after events.Cursor, only events.Filter) iter.Seq2[events.Event, error] {
	return l.follow(ctx, partition, after, only, jetstream.PullMaxBytes(l.selectBytes()))
}

func (l *Log) follow(ctx context.Context, partition uint16, after events.Cursor, only events.Filter, pull jetstream.PullMessagesOpt) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) { yield(events.Event{}, fmt.Errorf("follow partition %d: %w", partition, err)) }
		epoch, ok := l.epochs[partition]
		if !ok {
			fail(fmt.Errorf("the log has no such partition: %w", events.ErrInvalid))
			return
		}
		for again := false; ; again = true {
			reconnects := l.cfg.Read.Stats().Reconnects
			verify := l.verify
			if again {
				verify = l.verifyAgain
			}
			var truncated *events.TruncatedError
			err := verify(ctx, partition, epoch, after)
			if again && only.Subjects(partition) != nil && errors.As(err, &truncated) {
				err = nil // what it has passed over since is not what it is to read
			}
			if err != nil {
				if ctx.Err() == nil {
					fail(err)
				}
				return
			}
			renewed, before := false, after
			for e, err := range l.reading(ctx, partition, after.Position.Seq+1, only, pull, &reconnects) {
				var start startError
				if again && errors.As(err, &start) && pause(ctx) == nil {
					err = errRenewed
				}
				if renewed = errors.Is(err, errRenewed); renewed {
					break
				}
				if err == nil {
					after = events.Cursor{Position: e.Position, ID: e.ID}
				}
				if err == nil && !only.Matches(&e) {
					continue
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			if !renewed || after == before && pause(ctx) != nil { // a server that gives nothing is not asked again at once
				return
			}
		}
	}
}

// reading is the scan of one follower.
func (l *Log) reading(ctx context.Context, partition uint16, from uint64, only events.Filter, pull jetstream.PullMessagesOpt, reconnects *uint64) iter.Seq2[events.Event, error] {
	subjects := only.Subjects(partition)
	if pull == pullMessages && partition < events.ControlPartition && tapOf(l.cfg.Read) != nil {
		return l.scanTapped(ctx, partition, from, reconnects)
	}
	return l.scan(ctx, partition, from, subjects, pull, reconnects)
}

// verify holds the cursor against the log: the event at its position must
// still be the one it names.
func (l *Log) verify(ctx context.Context, partition uint16, epoch uint32, after events.Cursor) error {
	if after.Position.Seq > 0 && after.Position.Epoch != epoch {
		return fmt.Errorf("the cursor is of epoch %d, the log of %d: %w", after.Position.Epoch, epoch, events.ErrDiverged)
	}
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return err
	}
	info := s.CachedInfo()
	at := func(seq uint64) events.Position {
		return events.Position{Epoch: epoch, Partition: partition, Seq: seq}
	}
	switch seq, oldest := after.Position.Seq, oldestOf(info); {
	case seq > info.State.LastSeq:
		return fmt.Errorf("the log ends at %s, the cursor is at %s: %w", at(info.State.LastSeq), after.Position, events.ErrDiverged)
	case seq+1 < oldest:
		return &events.TruncatedError{Asked: at(seq), Oldest: at(oldest)}
	case seq == 0 || seq < info.State.FirstSeq:
		return nil // purged right up to the cursor
	}
	msg, err := s.GetMsg(ctx, after.Position.Seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // removed from the middle of the log, on purpose
	}
	if err != nil {
		return err
	}
	d := decoder{epoch: epoch, partition: partition}
	e, err := d.decode(msg.Subject, msg.Header, msg.Data, msg.Sequence, msg.Time)
	if err != nil {
		return err
	}
	if after.ID != "" && e.ID != after.ID { // who begins at what is left knows no id
		return fmt.Errorf("the event at %s is %s, the cursor names %s: %w", after.Position, e.ID, after.ID, events.ErrDiverged)
	}
	return nil
}

// scan yields a partition's events from a sequence on, and goes on with new ones;
// of subjects, if there are any, only those. With a count of reconnects it ends
// with errRenewed as soon as it is not certain that the server still has what it
// delivered before.
func (l *Log) scan(ctx context.Context, partition uint16, from uint64, subjects []string, pull jetstream.PullMessagesOpt, reconnects *uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		lasting, first := ctx, true
		if reconnects != nil {
			var stop context.CancelFunc
			lasting, stop = l.whileConnected(ctx, *reconnects)
			defer stop()
		}
		d := decoder{epoch: l.epochs[partition], partition: partition}
		for msg, err := range l.deliver(lasting, partition, from, subjects, pull) {
			if err != nil {
				yield(events.Event{}, err)
				return
			}
			seq, delivery, at, err := metadata(msg.Reply())
			if err == nil && delivery == 1 && reconnects != nil {
				if !first || l.cfg.Read.Stats().Reconnects != *reconnects {
					yield(events.Event{}, errRenewed)
					return
				}
				first = false
			}
			var e events.Event
			if err == nil {
				e, err = d.decode(msg.Subject(), msg.Headers(), msg.Data(), seq, at)
			}
			if err != nil {
				yield(events.Event{}, fmt.Errorf("read partition %d: %w", partition, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if lasting.Err() != nil && ctx.Err() == nil {
			yield(events.Event{}, errRenewed)
		}
	}
}

// deliver yields a partition's messages from a sequence on, and goes on with new
// ones until ctx ends; of subjects, if there are any, only those.
func (l *Log) deliver(ctx context.Context, partition uint16, from uint64, subjects []string, pull jetstream.PullMessagesOpt) iter.Seq2[jetstream.Msg, error] {
	return func(yield func(jetstream.Msg, error) bool) {
		fail := func(err error) {
			if ctx.Err() == nil {
				yield(nil, fmt.Errorf("read partition %d: %w", partition, err))
			}
		}
		consumer, err := l.reader.OrderedConsumer(ctx, streamName(partition), jetstream.OrderedConsumerConfig{
			DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:    max(from, 1),
			FilterSubjects: subjects,
		})
		if err != nil {
			fail(startError{err})
			return
		}
		msgs, err := consumer.Messages(pull, jetstream.PullHeartbeat(5*time.Second))
		if err != nil {
			fail(startError{err})
			return
		}
		defer msgs.Stop()
		// Stop ends a client that is making its consumer anew; while it does, it can
		// also miss the subscription that is about to take the old one's place, and
		// the context alone ends the wait for that one.
		stop := context.AfterFunc(ctx, msgs.Stop)
		defer stop()
		within := jetstream.NextContext(ctx)
		for {
			msg, err := msgs.Next(within)
			if err != nil {
				if errors.Is(err, jetstream.ErrNoHeartbeat) {
					continue // the client has already asked again
				}
				fail(err)
				return
			}
			if !yield(msg, nil) {
				return
			}
		}
	}
}
