package jetlog

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// How much an inspection asks for at a time.
const (
	inspectMessages = 2000
	inspectBytes    = 4 << 20
	inspectPatience = 30 * time.Second // for the next message of an answer
	unreadableRun   = 16               // messages that are tried one by one
)

var _ events.Inspector = (*Log)(nil)

// Extent implements events.Inspector.
func (l *Log) Extent(ctx context.Context, partition uint16) (first, last events.Position, err error) {
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return first, last, fmt.Errorf("extent of partition %d: %w", partition, err)
	}
	last = events.Position{Epoch: l.epochs[partition], Partition: partition, Seq: s.CachedInfo().State.LastSeq}
	if first = last; last.Seq > 0 {
		first.Seq = metaSeq(s.CachedInfo(), metaPurged) + 1
	}
	return first, last, nil
}

// Inspect implements events.Inspector. It asks for batches of messages instead
// of making a consumer: a consumer that comes to a message which the server
// cannot read waits there for ever, looking as one does that has read all.
//
// nats-server answers "not found" for a message whose block is damaged as well as
// for one that was removed; which it is stands in the stream's own list. Where
// more than unreadableRun in a row are unreadable, the end of the stretch is
// searched for instead of trying each, as every try reads the block anew.
func (l *Log) Inspect(ctx context.Context, partition uint16, from, to uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		in := &inspection{l: l, partition: partition, next: from, to: to, yield: yield,
			d: decoder{epoch: l.epochs[partition], partition: partition}}
		if err := in.run(ctx); err != nil && !in.enough {
			yield(events.Event{}, fmt.Errorf("inspect partition %d: %w", partition, err))
		}
	}
}

// An inspection is one reading of a partition.
type inspection struct {
	l         *Log
	partition uint16
	d         decoder
	state     jetstream.StreamState
	next, to  uint64
	missing   int // unreadable ones in a row
	yield     func(events.Event, error) bool
	enough    bool // the reader wants no more
}

func (in *inspection) run(ctx context.Context) error {
	if _, ok := in.l.epochs[in.partition]; !ok {
		return fmt.Errorf("the log has no such partition: %w", events.ErrInvalid)
	}
	if err := in.look(ctx); err != nil {
		return err
	}
	for in.next <= in.to && !in.enough {
		before := in.next
		if err := in.batch(ctx); err != nil {
			return err
		}
		if in.next > before || in.enough {
			in.missing = 0
			continue
		}
		if in.missing == 0 {
			if err := in.look(ctx); err != nil {
				return err
			}
			if in.next > before {
				continue
			}
		}
		end := in.next + 1
		if in.missing >= unreadableRun {
			var err error
			if end, err = in.nextReadable(ctx); err != nil {
				return err
			}
		}
		in.skip(min(end, in.to+1))
	}
	return nil
}

// look brings up to date what the stream says it holds.
func (in *inspection) look(ctx context.Context) error {
	s, err := in.l.reader.Stream(ctx, streamName(in.partition))
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return err
	}
	in.state = info.State
	slices.Sort(in.state.Deleted)
	// A server that comes upon a damaged block may cut it off, at either end.
	in.to, in.next = min(in.to, in.state.LastSeq), max(in.next, in.state.FirstSeq, 1)
	return nil
}

// batch yields what comes at next and after it.
func (in *inspection) batch(ctx context.Context) error {
	for msg, err := range in.l.getBatch(ctx, in.partition, in.next, inspectMessages) {
		if err != nil {
			return err
		}
		seq, e, err := inspected(&in.d, msg)
		if seq < in.next { // or its place cannot be read
			return err
		}
		if seq > in.to {
			return nil
		}
		if seq > in.next {
			if err := in.look(ctx); err != nil {
				return err
			}
			if in.skip(seq); in.enough {
				return nil
			}
		}
		if err != nil {
			err = in.unreadable(seq, err.Error())
		}
		if in.next = seq + 1; !in.yield(e, err) {
			in.enough = true
			return nil
		}
	}
	return nil
}

// skip goes on to end, with an error for each position that was not removed.
func (in *inspection) skip(end uint64) {
	for ; in.next < end && !in.enough; in.next++ {
		if _, removed := slices.BinarySearch(in.state.Deleted, in.next); removed {
			continue
		}
		in.missing++
		in.enough = !in.yield(events.Event{}, in.unreadable(in.next, "the server has it and does not find it: its block is damaged"))
	}
}

// nextReadable returns the sequence after next at which the log can be read
// again, or the one after the last.
func (in *inspection) nextReadable(ctx context.Context) (uint64, error) {
	bad, good := in.next, in.to+1
	for step := uint64(1); bad+step <= in.to; step *= 2 {
		ok, err := in.readable(ctx, bad+step)
		if err != nil {
			return 0, err
		}
		if ok {
			good = bad + step
			break
		}
		bad += step
	}
	for bad+1 < good {
		middle := bad + (good-bad)/2
		ok, err := in.readable(ctx, middle)
		if err != nil {
			return 0, err
		}
		if ok {
			good = middle
		} else {
			bad = middle
		}
	}
	return good, nil
}

func (in *inspection) readable(ctx context.Context, seq uint64) (bool, error) {
	for _, err := range in.l.getBatch(ctx, in.partition, seq, 1) {
		return err == nil, err
	}
	return false, nil
}

func (in *inspection) unreadable(seq uint64, cause string) error {
	return &events.UnreadableError{Position: events.Position{Epoch: in.d.epoch, Partition: in.partition, Seq: seq}, Cause: cause}
}

// inspected decodes a message of a batch, whose place is in its headers. seq is 0
// when not even that can be read.
func inspected(d *decoder, msg *nats.Msg) (seq uint64, e events.Event, err error) {
	if seq, err = strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return 0, e, fmt.Errorf("an answer without a sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return seq, e, err
	}
	e, err = d.decode(msg.Header.Get(jetstream.SubjectHeader), msg.Header, msg.Data, seq, at.UTC())
	return seq, e, err
}

// getBatch yields messages from a sequence on: as many as a batch holds, none
// where the next one is not there or cannot be read.
func (l *Log) getBatch(ctx context.Context, partition uint16, from uint64, most int) iter.Seq2[*nats.Msg, error] {
	return func(yield func(*nats.Msg, error) bool) {
		request, err := json.Marshal(map[string]any{"seq": from, "batch": most, "max_bytes": inspectBytes})
		if err != nil {
			yield(nil, err)
			return
		}
		inbox := l.cfg.Read.NewInbox()
		sub, err := l.cfg.Read.SubscribeSync(inbox)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := l.cfg.Read.PublishRequest("$JS.API.DIRECT.GET."+streamName(partition), inbox, request); err != nil {
			yield(nil, err)
			return
		}
		for {
			waiting, cancel := context.WithTimeout(ctx, inspectPatience)
			msg, err := sub.NextMsgWithContext(waiting)
			cancel()
			if err != nil {
				yield(nil, err)
				return
			}
			switch status := msg.Header.Get("Status"); status {
			case "":
				if !yield(msg, nil) {
					return
				}
			case "204", "404": // the batch's end; nothing to be had at from
				return
			default:
				yield(nil, fmt.Errorf("direct get: %s %s", status, msg.Header.Get("Description")))
				return
			}
		}
	}
}
