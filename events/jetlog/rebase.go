package jetlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/tachograph/tachograph/events"
)

// metaOver is, of a base's stream, the revision of the base that it was made over.
// One that was made over an older base than the one before the present cannot come
// to be the present one any more.
const metaOver = "tacho-over"

// Rebase makes facts of the control partition, which come in the order of their
// positions, its base up to a position, in the place of the base over. What the log
// has up to there is not needed by folds from then on, and Purge may take it.
//
// Killed at any moment it has happened or not: the facts are stored and synced
// (Config.Sync) before one message says that they are the base. What a killed one
// has left is removed by the next.
//
// Errors: events.ErrRebased when another process was first, and that of facts.
func (l *Log) Rebase(ctx context.Context, over events.Base, upTo events.Position, facts iter.Seq2[events.Event, error]) error {
	fail := func(err error) error { return fmt.Errorf("rebase the log on %s: %w", upTo, err) }
	if epoch := l.epochs[events.ControlPartition]; upTo.Partition != events.ControlPartition || upTo.Epoch != epoch || upTo.Seq < over.UpTo.Seq {
		return fail(fmt.Errorf("the log is of epoch %d and has a base at %s: %w", epoch, over.UpTo, events.ErrInvalid))
	}
	p := pointer{ID: nuid.Next(), Epoch: upTo.Epoch, UpTo: upTo.Seq}
	s, err := l.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: baseStream(p.ID), Subjects: []string{baseSubject(p.ID) + ">"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardNew, MaxBytes: -1, Replicas: l.cfg.Replicas, AllowDirect: true,
		Metadata: map[string]string{metaOver: strconv.FormatUint(over.Revision, 10)},
	})
	if err != nil {
		return fail(err)
	}
	if err := l.fillBase(ctx, s, &p, facts); err != nil {
		if now, lerr := l.present(ctx, true); lerr == nil && now.seq > over.Revision {
			err = fmt.Errorf("%w (%w)", events.ErrRebased, err) // who was first has removed what is being made
		}
		return fail(errors.Join(err, l.dropBase(ctx, p.ID)))
	}
	if err := l.point(ctx, over, &p); err != nil {
		if !errors.Is(err, events.ErrUnknown) { // else it may be the present one
			err = errors.Join(err, l.dropBase(ctx, p.ID))
		}
		return fail(err)
	}
	// From here on it is the present one, whatever fails.
	err = l.cfg.Fault("base pointed at")
	if err == nil {
		err = l.syncAll()
	}
	if err == nil {
		err = l.dropOld(ctx, over, p)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// fillBase stores a base's facts, and returns once they are as durable as the log.
func (l *Log) fillBase(ctx context.Context, s jetstream.Stream, p *pointer, facts iter.Seq2[events.Event, error]) (err error) {
	if p.Facts, err = l.storeBase(ctx, *p, facts); err != nil {
		return err
	}
	info, err := s.Info(ctx)
	if err == nil && info.State.Msgs != p.Facts {
		err = fmt.Errorf("%d of %d facts are stored", info.State.Msgs, p.Facts)
	}
	if err == nil {
		err = l.cfg.Fault("base stored")
	}
	if err == nil {
		err = l.syncAll()
	}
	if err == nil {
		err = l.cfg.Fault("base synced")
	}
	return err
}

func (l *Log) syncAll() error {
	if l.cfg.Sync == nil {
		return nil
	}
	return l.cfg.Sync()
}

// storeBase stores facts in a base's stream.
func (l *Log) storeBase(ctx context.Context, p pointer, facts iter.Seq2[events.Event, error]) (n uint64, err error) {
	js, err := jetstream.New(l.cfg.Publish, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		return 0, err
	}
	defer js.CleanupPublisher()
	prefix, last := baseSubject(p.ID), uint64(0)
	var waiting []jetstream.PubAckFuture
	settle := func(most int) error {
		for len(waiting) > most {
			select {
			case <-waiting[0].Ok():
			case err := <-waiting[0].Err():
				return err
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(answerTimeout):
				return fmt.Errorf("no answer in %s", answerTimeout)
			}
			waiting = waiting[1:]
		}
		return nil
	}
	for e, err := range facts {
		if err == nil && (e.Position.Seq <= last || e.Position.Seq > p.UpTo) {
			err = fmt.Errorf("the fact at %s is not between %d and %d: %w", e.Position, last, p.UpTo, events.ErrInvalid)
		}
		if err != nil {
			return n, err
		}
		last = e.Position.Seq
		h := headerOf(&e)
		if h == nil {
			h = nats.Header{}
		}
		h[headerReceived] = []string{e.Received.UTC().Format(time.RFC3339Nano)}
		h[headerSeq] = []string{strconv.FormatUint(e.Position.Seq, 10)}
		f, err := js.PublishMsgAsync(&nats.Msg{Subject: prefix + e.Subject(), Header: h, Data: e.Payload})
		if err == nil {
			waiting = append(waiting, f)
			n++
			err = settle(2000)
		}
		if err == nil {
			err = l.cfg.Fault("base fact")
		}
		if err != nil {
			return n, err
		}
	}
	return n, settle(0)
}

// point has a base be the present one, if the one it was made over still is.
func (l *Log) point(ctx context.Context, over events.Base, p *pointer) error {
	_, err := l.js.Stream(ctx, basesStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = l.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: basesStream, Subjects: []string{basesSubject}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
			Discard: jetstream.DiscardNew, MaxBytes: -1, Replicas: l.cfg.Replicas, AllowDirect: true,
		})
	}
	if err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: basesSubject, Data: text, Header: nats.Header{nats.ExpectedLastSubjSeqHdr: []string{strconv.FormatUint(over.Revision, 10)}}}
	ack, err := l.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && (api.ErrorCode == codeWrongLastSequence || api.ErrorCode == codeWrongLastSequenceConstant):
		return events.ErrRebased
	case errors.As(err, &api):
		return refusal(api)
	case err != nil:
		return fmt.Errorf("%w: %w", events.ErrUnknown, err)
	}
	p.seq = ack.Sequence
	if p.UpTo > 0 {
		if p.stream, err = l.reader.Stream(ctx, baseStream(p.ID)); err != nil {
			return fmt.Errorf("%w: %w", events.ErrUnknown, err)
		}
	}
	l.basing.Lock()
	defer l.basing.Unlock()
	l.learn(*p, time.Now())
	return nil
}

func (l *Log) dropBase(ctx context.Context, id string) error {
	err := l.js.DeleteStream(context.WithoutCancel(ctx), baseStream(id))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// dropOld removes the streams of bases that were and of those that can't come to be:
// all but the present one, the one before it, from which a process that starts may
// be reading, and those that somebody is making over the present one.
func (l *Log) dropOld(ctx context.Context, over events.Base, now pointer) error {
	before, err := l.pointerAt(ctx, over.Revision)
	if err != nil {
		return err
	}
	return l.dropBases(ctx, func(id string, madeOver uint64) bool {
		return id != now.ID && id != before.ID && madeOver < now.seq
	})
}

// pointerAt returns a pointer of earlier; with no id there is none.
func (l *Log) pointerAt(ctx context.Context, seq uint64) (p pointer, err error) {
	if seq == 0 {
		return p, nil
	}
	s, err := l.reader.Stream(ctx, basesStream)
	if err != nil {
		return p, err
	}
	msg, err := s.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(msg.Data, &p)
	}
	return p, err
}

// dropBases removes those of the bases' streams that go.
func (l *Log) dropBases(ctx context.Context, goes func(id string, madeOver uint64) bool) error {
	streams := l.js.ListStreams(ctx, jetstream.WithStreamListSubject("base.>"))
	var ids []string
	for info := range streams.Info() {
		id, ok := strings.CutPrefix(info.Config.Name, basesStream+"_")
		if ok && goes(id, metaSeq(info, metaOver)) {
			ids = append(ids, id)
		}
	}
	if err := streams.Err(); err != nil {
		return fmt.Errorf("list the bases of the log: %w", err)
	}
	for _, id := range ids {
		if err := l.dropBase(ctx, id); err != nil {
			return fmt.Errorf("remove an old base of the log: %w", err)
		}
	}
	return nil
}

// DropBases removes the streams of all bases but the present one, at once: so that
// of what was left out of that nothing stays. Those that somebody is making do not come
// to be: the present one is said to be that once more.
func (l *Log) DropBases(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("remove old bases of the log: %w", err) }
	for {
		now, err := l.present(ctx, true)
		some := now.seq > 0
		if err == nil && !some { // one that was killed may have left what was to be the first
			err = l.dropBases(ctx, func(string, uint64) bool { some = true; return false })
			now.Epoch = l.epochs[events.ControlPartition]
		}
		if err == nil && some {
			err = l.point(ctx, events.Base{Revision: now.seq}, &now)
		}
		if errors.Is(err, events.ErrRebased) {
			continue
		}
		if err == nil {
			err = l.dropBases(ctx, func(id string, madeOver uint64) bool { return id != now.ID && madeOver < now.seq })
		}
		if err == nil {
			err = l.syncAll()
		}
		if err != nil {
			return fail(err)
		}
		return nil
	}
}
