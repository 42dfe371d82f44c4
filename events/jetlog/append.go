package jetlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/tachograph/tachograph/events"
)

// The server's answers to an expectation that does not hold: the second comes
// for atomic batches also from a single server.
const (
	codeWrongLastSequence         = 10071
	codeWrongLastSequenceConstant = 10164
)

// Append implements events.Log. Several events are one atomic batch, with the
// expectation on the first.
func (l *Log) Append(ctx context.Context, expect events.Expect, evs ...events.Event) (events.Position, error) {
	if len(evs) == 0 {
		return events.Position{}, fmt.Errorf("append: no events: %w", events.ErrInvalid)
	}
	stream := evs[0].Stream
	fail := func(err error) (events.Position, error) {
		return events.Position{}, fmt.Errorf("append %s: %w", stream, err)
	}
	select {
	case <-l.closed:
		return fail(events.ErrClosed)
	default:
	}
	for i := range evs {
		e := &evs[i]
		if err := e.Validate(); err != nil {
			return fail(err)
		}
		if e.Stream != stream {
			return fail(fmt.Errorf("events of %s with them: %w", e.Stream, events.ErrInvalid))
		}
		if limit := l.maxPayload(); len(e.Payload) > limit {
			return fail(fmt.Errorf("%d bytes, at most %d: %w", len(e.Payload), limit, events.ErrTooLarge))
		}
	}
	if _, expected := expect.Seq(); expected {
		if stream.Kind == events.Telemetry && stream.Name == "" {
			return fail(fmt.Errorf("telemetry carries no expectation: %w", events.ErrInvalid))
		}
		if err := l.fresh(ctx, stream, expect); err != nil {
			return events.Position{}, err
		}
	}
	seq, err := l.publish(ctx, messages(evs, expect))
	if conflicts(err) {
		stands, ok, lerr := l.stands(ctx, stream, expect)
		if lerr != nil {
			return fail(fmt.Errorf("%w: %w", err, lerr))
		}
		if ok {
			seq, err = l.publish(ctx, messages(evs, stands))
		}
	}
	if err != nil {
		return events.Position{}, l.appendError(ctx, stream, expect, err)
	}
	partition := l.layout.Of(stream)
	if s := l.syncs[partition]; s != nil {
		if err := s.sync(); err != nil {
			return fail(fmt.Errorf("%w: %w", events.ErrUnknown, err))
		}
	}
	return events.Position{Epoch: l.epochs[partition], Partition: partition, Seq: seq}, nil
}

// messages are those of events of one stream, with the expectation on the first.
func messages(evs []events.Event, expect events.Expect) []*nats.Msg {
	msgs := make([]*nats.Msg, len(evs))
	for i := range evs {
		e := &evs[i]
		h := headerOf(e)
		if h == nil {
			h = nats.Header{}
		}
		msgs[i] = &nats.Msg{Subject: e.Subject(), Header: h, Data: e.Payload}
	}
	if seq, expected := expect.Seq(); expected {
		msgs[0].Header.Set(nats.ExpectedLastSubjSeqHdr, strconv.FormatUint(seq, 10))
	}
	return msgs
}

// conflicts tells whether the server has refused an expectation.
func conflicts(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeWrongLastSequence || api.ErrorCode == codeWrongLastSequenceConstant)
}

// stands translates an expectation that holds by the base into that of what the log
// has: folds know the newest fact of a stream from the base, and the log has none of
// it after that; what it has up to there was purged, or is to be.
func (l *Log) stands(ctx context.Context, stream events.Stream, expect events.Expect) (there events.Expect, ok bool, err error) {
	seq, _ := expect.Seq()
	if l.layout.Of(stream) != events.ControlPartition {
		return there, false, nil
	}
	p, err := l.present(ctx, false) // a purge waits for longer
	if err != nil || p.UpTo == 0 || seq > p.UpTo {
		return there, false, err
	}
	last, err := l.lastInBase(ctx, p, stream)
	if err != nil || last != seq {
		return there, false, err
	}
	last, err = l.lastIn(ctx, events.ControlPartition, stream)
	return events.At(last), err == nil && last <= p.UpTo && last != seq, err
}

// fresh holds the expectation against partitions in which the stream was before the
// log was split, and, of one that shall have no event, against the base: neither
// takes anything of it any more, so it cannot come to be there.
func (l *Log) fresh(ctx context.Context, stream events.Stream, expect events.Expect) error {
	if seq, _ := expect.Seq(); seq == 0 && l.layout.Of(stream) == events.ControlPartition {
		var last uint64
		p, err := l.present(ctx, false)
		if err == nil {
			last, err = l.lastInBase(ctx, p, stream)
		}
		if err != nil { // it may have been replaced, and removed
			if p, err = l.present(ctx, true); err == nil {
				last, err = l.lastInBase(ctx, p, stream)
			}
		}
		if err != nil {
			return fmt.Errorf("append %s: %w: %w", stream, events.ErrUnknown, err)
		}
		if last > 0 {
			conflict := &events.ConflictError{Stream: stream, Expected: expect, Actual: last}
			if last, err := l.last(ctx, stream); err == nil {
				conflict.Actual = last
			}
			return conflict
		}
	}
	way := l.layout.Way(l.layout.Of(stream))
	for _, before := range way[:len(way)-1] {
		last, err := l.lastIn(ctx, before.Partition, stream)
		switch {
		case err != nil:
			return fmt.Errorf("append %s: look for it in partition %d: %w", stream, before.Partition, err)
		case last > 0:
			return &events.ConflictError{Stream: stream, Expected: expect, Actual: last}
		}
	}
	return nil
}

// publish stores the messages, all or none, and returns the last one's sequence.
func (l *Log) publish(ctx context.Context, msgs []*nats.Msg) (uint64, error) {
	if len(msgs) == 1 {
		ack, err := l.js.PublishMsg(ctx, msgs[0], jetstream.WithRetryAttempts(0))
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, l.js, msgs)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func (l *Log) appendError(ctx context.Context, stream events.Stream, expect events.Expect, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("append %s: %w: %w", stream, events.ErrUnknown, err)
	}
	if !conflicts(err) {
		return fmt.Errorf("append %s: %w", stream, refusal(api))
	}
	conflict := &events.ConflictError{Stream: stream, Expected: expect}
	if last, err := l.last(ctx, stream); err == nil {
		conflict.Actual = last
	}
	return conflict
}

// last returns the sequence of a control stream's newest event, be it purged, 0
// without one.
func (l *Log) last(ctx context.Context, stream events.Stream) (uint64, error) {
	partition := l.layout.Of(stream)
	last, err := l.lastIn(ctx, partition, stream)
	if err != nil || last > 0 || partition != events.ControlPartition {
		return last, err
	}
	p, err := l.present(ctx, false)
	if err != nil {
		return 0, err
	}
	return l.lastInBase(ctx, p, stream)
}

func (l *Log) lastIn(ctx context.Context, partition uint16, stream events.Stream) (uint64, error) {
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return 0, err
	}
	msg, err := s.GetLastMsgForSubject(ctx, stream.Filter())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return msg.Sequence, nil
}
