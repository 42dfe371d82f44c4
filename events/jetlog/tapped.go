package jetlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"
	"unsafe"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// What a tapped reader asks for at a time, and how long it waits for a sign of
// life. At least two messages have to fit.
const (
	tapBytes   = 8 << 20
	tapExpires = 30 * time.Second
	tapBeat    = 5 * time.Second
	tapLearn   = 2 * time.Second // for the message that it sends itself
)

// errUntapped means that deliveries do not come by the tap.
var errUntapped = errors.New("the connection cannot be tapped")

// scanTapped is scan for the whole of a partition, from beneath nats.go where that
// can be.
func (l *Log) scanTapped(ctx context.Context, partition uint16, from uint64, reconnects *uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		lasting, stop := l.whileConnected(ctx, *reconnects)
		defer stop()
		r := &tappedReader{l: l, partition: partition, d: decoder{epoch: l.epochs[partition], partition: partition}}
		err := r.run(lasting, from, yield)
		switch {
		case errors.Is(err, errUntapped) && lasting.Err() == nil:
			for e, err := range l.scan(ctx, partition, from, nil, pullMessages, reconnects) {
				if !yield(e, err) {
					return
				}
			}
		case ctx.Err() != nil || r.enough:
		case lasting.Err() != nil:
			yield(events.Event{}, errRenewed)
		case errors.Is(err, errRenewed):
			yield(events.Event{}, err)
		case err != nil:
			yield(events.Event{}, fmt.Errorf("read partition %d: %w", partition, err))
		}
	}
}

// A tappedReader is one scan: a consumer, a subscription, and what is asked for.
type tappedReader struct {
	l         *Log
	partition uint16
	d         decoder
	inbox     string
	next      string // where to ask for more
	delivered uint64 // the consumer's count
	enough    bool   // the caller wants no more

	messages, bytes int // asked for and not delivered yet
	most            int // bytes
}

// run yields events until something ends it; nil when the caller wants no more.
func (r *tappedReader) run(ctx context.Context, from uint64, yield func(events.Event, error) bool) error {
	nc, t := r.l.cfg.Read, tapOf(r.l.cfg.Read)
	r.inbox, r.most = nc.NewInbox(), max(tapBytes, 2*int(nc.MaxPayload()))
	d := t.expect(r.inbox)
	defer t.forget(d)
	sub, err := nc.Subscribe(r.inbox, d.passed)
	if err != nil {
		return startError{err}
	}
	defer func() { _ = sub.Unsubscribe() }()
	sub.SetClosedHandler(func(string) { d.lose() }) // the connection was closed, for good
	if err := nc.Publish(r.inbox, nil); err != nil {
		return startError{err}
	}
	timer := time.NewTimer(tapLearn)
	defer timer.Stop()
	select {
	case <-d.bound:
	case <-d.stray:
		return errUntapped
	case <-timer.C:
		return errUntapped
	case <-ctx.Done():
		return ctx.Err()
	}
	consumer, err := r.l.reader.CreateConsumer(ctx, streamName(r.partition), jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: 5 * time.Minute,
		Replicas:          1,
		MemoryStorage:     true,
	})
	if err != nil {
		return startError{err}
	}
	path := streamName(r.partition) + "." + consumer.CachedInfo().Name
	defer func() { _ = nc.Publish("$JS.API.CONSUMER.DELETE."+path, nil) }() // or it ends by itself
	r.next = "$JS.API.CONSUMER.MSG.NEXT." + path
	if err := r.pull(); err != nil {
		return startError{err}
	}
	for {
		all, lost := d.take()
		for _, frames := range all {
			if err := r.read(frames, yield); err != nil || r.enough {
				return err
			}
			if err := r.pull(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lost && nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		if lost {
			return errRenewed
		}
		if len(all) > 0 {
			continue
		}
		timer.Reset(2 * tapBeat)
		select {
		case <-d.signal:
		case <-timer.C:
			return errRenewed
		case <-ctx.Done():
		}
	}
}

// pull asks for more once half of what was asked for has come.
func (r *tappedReader) pull() error {
	const most = int(pullMessages)
	if r.messages > most/2 && r.bytes > r.most/2 {
		return nil
	}
	messages, bytes := most-r.messages, r.most-r.bytes
	if messages <= 0 || bytes <= 0 {
		return nil
	}
	request, err := json.Marshal(map[string]any{"batch": messages, "max_bytes": bytes, "expires": tapExpires, "idle_heartbeat": tapBeat})
	if err != nil {
		return err
	}
	if err := r.l.cfg.Read.PublishRequest(r.next, r.inbox, request); err != nil {
		if errors.Is(err, nats.ErrConnectionClosed) {
			return err
		}
		return errRenewed // it connects again
	}
	r.messages, r.bytes = r.messages+messages, r.bytes+bytes
	return nil
}

// read yields the events of whole frames.
func (r *tappedReader) read(frames []byte, yield func(events.Event, error) bool) error {
	for len(frames) > 0 {
		end := bytes.IndexByte(frames, '\n') + 1
		f, ok := parseLine(frames[:end])
		if !ok || f.sid == nil || len(frames) < end+f.size+2 {
			return errRenewed // the tap lets none through
		}
		headers, data := frames[end:end+f.headers:end+f.headers], frames[end+f.headers:end+f.size:end+f.size]
		frames = frames[end+f.size+2:]
		if f.headers > 0 {
			if status, ok := statusOf(headers); ok {
				if err := r.status(status, headers); err != nil {
					return err
				}
				continue
			}
		}
		r.messages, r.bytes = r.messages-1, r.bytes-len(f.subject)-len(f.reply)-f.size
		if r.bytes <= 0 {
			r.messages = 0 // the server ends a request then
		}
		seq, delivery, at, err := metadata(text(f.reply))
		if err != nil {
			return err
		}
		if delivery != r.delivered+1 {
			return errRenewed
		}
		r.delivered = delivery
		e, err := r.d.decodeEnvelope(text(f.subject), rawEnvelope(headers), data, seq, at)
		if err != nil {
			return err
		}
		if !yield(e, nil) {
			r.enough = true
			return nil
		}
	}
	return nil
}

// status takes what a server says of a request.
func (r *tappedReader) status(status string, headers []byte) error {
	code, about := status[:3], bytes.ToLower([]byte(status[3:]))
	switch {
	case code == "100": // a heartbeat
		return nil
	case code == "408", code == "409" && (bytes.Contains(about, []byte("exceeds maxbytes")) || bytes.Contains(about, []byte("batch completed"))):
		messages, _ := strconv.Atoi(rawHeader(headers, "Nats-Pending-Messages"))
		size, _ := strconv.Atoi(rawHeader(headers, "Nats-Pending-Bytes"))
		r.messages, r.bytes = max(0, r.messages-messages), max(0, r.bytes-size)
		return nil
	}
	return errRenewed
}

// text is a string that shares its bytes, which are never written again.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
