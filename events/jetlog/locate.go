package jetlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// Locate implements events.Log.
func (l *Log) Locate(ctx context.Context, partition uint16, from events.From) (events.Cursor, error) {
	epoch, ok := l.epochs[partition]
	if !ok {
		return events.Cursor{}, fmt.Errorf("locate %s in partition %d: the log has no such partition: %w", from, partition, events.ErrInvalid)
	}
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return events.Cursor{}, fmt.Errorf("locate %s in partition %d: %w", from, partition, err)
	}
	c, err := from.Locate(&locator{ctx: ctx, log: l, stream: s, partition: partition, epoch: epoch})
	if err != nil {
		return events.Cursor{}, fmt.Errorf("locate %s in partition %d: %w", from, partition, err)
	}
	return c, nil
}

// A locator looks at one stream as it was when it was asked for.
type locator struct {
	ctx       context.Context // of the one call that it lives for
	log       *Log
	stream    jetstream.Stream
	partition uint16
	epoch     uint32
}

// Bounds implements events.Locator.
func (l *locator) Bounds() (oldest, newest events.Position, err error) {
	info := l.stream.CachedInfo()
	at := func(seq uint64) events.Position {
		return events.Position{Epoch: l.epoch, Partition: l.partition, Seq: seq}
	}
	return at(oldestOf(info)), at(info.State.LastSeq), nil
}

// Since implements events.Locator by the stream's own time stamps, which its
// leader has an index for. An imported event bears an earlier arrival time than
// the stamp, never a later one: nothing of what is asked for stands before.
func (l *locator) Since(at time.Time) (seq uint64, ok bool, err error) {
	request, err := json.Marshal(map[string]any{"start_time": at, "next_by_subj": ">"})
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	reply, err := l.log.cfg.Read.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+streamName(l.partition), request)
	if err != nil {
		return 0, false, fmt.Errorf("look up the first event since %s: %w", at, err)
	}
	var answer struct {
		Error *struct {
			Code        int
			Description string
		}
		Message *struct{ Seq uint64 }
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return 0, false, fmt.Errorf("look up the first event since %s: %w", at, err)
	case answer.Error != nil && answer.Error.Code == 404:
		return 0, false, nil
	case answer.Error != nil:
		return 0, false, fmt.Errorf("look up the first event since %s: %s", at, answer.Error.Description)
	case answer.Message == nil || answer.Message.Seq == 0:
		return 0, false, fmt.Errorf("look up the first event since %s: an answer without a message", at)
	}
	return answer.Message.Seq, true, nil
}

// ID implements events.Locator.
func (l *locator) ID(seq uint64) (string, error) {
	msg, err := l.stream.GetMsg(l.ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	d := decoder{epoch: l.epoch, partition: l.partition}
	e, err := d.decode(msg.Subject, msg.Header, msg.Data, msg.Sequence, msg.Time)
	return e.ID, err
}
