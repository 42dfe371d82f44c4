package jetlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// The facts of a base stand in a stream of their own, BASE_<id>, each under the
// subject that it has in the log behind base.<id>. The stream BASE says which of
// them is the present one: its newest message does, and none is put there that does
// not expect the one before it. So of several processes one wins, and a base is the
// present one from one moment to the next, when all of it is there.
const (
	basesStream  = "BASE"
	basesSubject = "base.current"
	headerSeq    = "Sq" // of a fact in a base: its sequence in the log
)

func baseStream(id string) string  { return basesStream + "_" + id }
func baseSubject(id string) string { return "base." + id + "." }

// A pointer is a message of the stream BASE. One up to 0 has no facts, and only keeps
// others from becoming the first.
type pointer struct {
	ID    string `json:"id"`
	Epoch uint32 `json:"epoch"`
	UpTo  uint64 `json:"up_to"`
	Facts uint64 `json:"facts"`

	seq    uint64           // of the message
	stream jetstream.Stream // of the facts; nil without any
}

// baseFor is how long a process takes what it has learned of the base for true. A
// purge waits for longer, see Log.Purge.
func (c *Config) baseFor() time.Duration { return c.Settle / 4 }

// present returns the pointer to the present base; with seq 0 there is none.
func (l *Log) present(ctx context.Context, fresh bool) (pointer, error) {
	l.basing.Lock()
	defer l.basing.Unlock()
	if !fresh && time.Since(l.looked) < l.cfg.baseFor() {
		return l.base, nil
	}
	fail := func(err error) (pointer, error) {
		return pointer{}, fmt.Errorf("look for the base of the log: %w", err)
	}
	var p pointer
	asked := time.Now()
	s, err := l.reader.Stream(ctx, basesStream)
	if err == nil {
		var msg *jetstream.RawStreamMsg
		if msg, err = s.GetLastMsgForSubject(ctx, basesSubject); err == nil {
			p.seq = msg.Sequence
			err = json.Unmarshal(msg.Data, &p)
		}
	}
	if err == nil && p.UpTo > 0 {
		p.stream, err = l.reader.Stream(ctx, baseStream(p.ID))
	}
	if err != nil && (p.seq > 0 || !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, jetstream.ErrMsgNotFound)) {
		return fail(err)
	}
	if epoch := l.epochs[events.ControlPartition]; p.seq > 0 && p.Epoch != epoch {
		return fail(fmt.Errorf("it is of epoch %d, the log of %d: %w", p.Epoch, epoch, events.ErrDiverged))
	}
	l.learn(p, asked)
	return l.base, nil
}

// A known base is one up to a sequence, since a moment.
type known struct {
	upTo uint64
	at   time.Time
}

// learn remembers what was the present base when it was asked. It needs basing.
func (l *Log) learn(p pointer, asked time.Time) {
	switch {
	case p.seq < l.base.seq: // of a replica that is behind
		return
	case p.seq > l.base.seq:
		l.known = append(l.known, known{p.UpTo, time.Now()})
	}
	for len(l.known) > 1 && time.Since(l.known[1].at) >= l.cfg.Settle {
		l.known = l.known[1:]
	}
	l.base, l.looked = p, asked
}

// settled is up to where every process knows that folds need nothing of the log. Of a
// base that comes after another the same is known as of that: they only go on.
func (l *Log) settled() (upTo uint64) {
	l.basing.Lock()
	defer l.basing.Unlock()
	for _, k := range l.known {
		if time.Since(k.at) >= l.cfg.Settle {
			upTo = max(upTo, k.upTo)
		}
	}
	return upTo
}

// Base implements events.Log.
func (l *Log) Base(ctx context.Context) (events.Base, error) {
	p, err := l.present(ctx, false)
	if err != nil || p.UpTo == 0 {
		return events.Base{Revision: p.seq}, err
	}
	return events.Base{
		UpTo:  events.Position{Epoch: p.Epoch, Partition: events.ControlPartition, Seq: p.UpTo},
		Facts: p.Facts, Revision: p.seq,
		Read: func(ctx context.Context, of *events.Stream) iter.Seq2[events.Event, error] {
			return func(yield func(events.Event, error) bool) {
				if err := l.readBase(ctx, p, of, yield); err != nil {
					yield(events.Event{}, fmt.Errorf("read the base of the log: %w", err))
				}
			}
		},
	}, nil
}

// openBase returns a base's stream, once it is sure that all of it is there.
func (l *Log) openBase(ctx context.Context, p pointer) (jetstream.Stream, error) {
	s, err := l.reader.Stream(ctx, baseStream(p.ID))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", baseStream(p.ID), err)
	}
	if n := s.CachedInfo().State.Msgs; n != p.Facts {
		return nil, fmt.Errorf("stream %s holds %d facts, %d belong there (remedy: restore the log's backup)", baseStream(p.ID), n, p.Facts)
	}
	return s, nil
}

// readBase yields facts of a base.
func (l *Log) readBase(ctx context.Context, p pointer, of *events.Stream, yield func(events.Event, error) bool) error {
	prefix, left := baseSubject(p.ID), p.Facts
	s, err := l.openBase(ctx, p)
	if err != nil {
		return err
	}
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: abandoned}
	if of != nil {
		subject := prefix + of.Filter()
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
		if err != nil {
			return err
		}
		left = 0
		for _, n := range info.State.Subjects {
			left += n
		}
		config.FilterSubjects = []string{subject}
	}
	if left == 0 {
		return nil
	}
	consumer, err := s.OrderedConsumer(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandoned)
		defer cancel()
		if info := consumer.CachedInfo(); info != nil {
			_ = s.DeleteConsumer(ctx, info.Name) // or it ends by itself
		}
	}()
	msgs, err := consumer.Messages(pullMessages, jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	d := decoder{epoch: p.Epoch, partition: events.ControlPartition}
	for left > 0 {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue // the client has already asked again
		}
		if err != nil {
			return err
		}
		e, err := d.kept(msg.Subject(), prefix, msg.Headers(), msg.Data())
		if err != nil {
			return err
		}
		if left--; !yield(e, nil) {
			return nil
		}
	}
	return nil
}

// kept is the event that a base's message holds.
func (d *decoder) kept(subject, prefix string, h nats.Header, data []byte) (events.Event, error) {
	seq, err := strconv.ParseUint(h.Get(headerSeq), 10, 64)
	if err != nil || len(subject) <= len(prefix) {
		return events.Event{}, fmt.Errorf("message %s of a base has no sequence: %w", subject, events.ErrInvalid)
	}
	return d.decode(subject[len(prefix):], h, data, seq, time.Time{})
}

// lastInBase returns the sequence of the newest fact that a base has of a stream, 0
// without one.
func (l *Log) lastInBase(ctx context.Context, p pointer, of events.Stream) (uint64, error) {
	if p.UpTo == 0 {
		return 0, nil
	}
	prefix := baseSubject(p.ID)
	msg, err := p.stream.GetLastMsgForSubject(ctx, prefix+of.Filter())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look into the base of the log: %w", err)
	}
	d := decoder{epoch: p.Epoch, partition: events.ControlPartition}
	e, err := d.kept(msg.Subject, prefix, msg.Header, msg.Data)
	return e.Position.Seq, err
}
