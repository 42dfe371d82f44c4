package jetlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// oldestOf returns the first sequence of a stream that was not purged. A stream
// that begins later than its metadata accounts for was purged by somebody else.
func oldestOf(info *jetstream.StreamInfo) uint64 {
	purged, forgotten := metaSeq(info, metaPurged), metaSeq(info, metaForgotten)
	if first := info.State.FirstSeq; first > max(purged+1, forgotten) {
		return first
	}
	return purged + 1
}

// metaSeq reads a sequence of a stream's metadata; 0 when there is none.
func metaSeq(info *jetstream.StreamInfo, key string) uint64 {
	seq, err := strconv.ParseUint(info.Config.Metadata[key], 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// Bounds implements events.Log.
func (l *Log) Bounds(ctx context.Context, partition uint16) (events.Bounds, error) {
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return events.Bounds{}, fmt.Errorf("bounds of partition %d: %w", partition, err)
	}
	newest, err := newestOf(ctx, s)
	if err != nil {
		return events.Bounds{}, fmt.Errorf("bounds of partition %d: %w", partition, err)
	}
	at := events.Position{Epoch: l.epochs[partition], Partition: partition}
	b := events.Bounds{Oldest: at, Newest: at}
	b.Oldest.Seq, b.Newest.Seq = oldestOf(s.CachedInfo()), newest
	return b, nil
}

// newestOf returns the sequence of the newest message that was not removed.
func newestOf(ctx context.Context, s jetstream.Stream) (newest uint64, err error) {
	state := s.CachedInfo().State
	switch {
	case state.Msgs == 0:
		return 0, nil
	case state.NumDeleted == 0:
		return state.LastSeq, nil
	}
	// Of ">" the server answers with the last sequence, be it there or not.
	for _, root := range []string{"in.>", "fact.>", "secret.>", "dead.>"} {
		msg, err := s.GetLastMsgForSubject(ctx, root)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if newest = max(newest, msg.Sequence); newest == state.LastSeq {
			break
		}
	}
	return newest, nil
}

// Purge removes a partition's events up to a position and returns what it holds
// then. The newest event stays. On a server of this host it goes only as far as
// whole block files reach: the server rewrites a file that is cut without
// syncing it, and a power failure at that moment would take what was
// acknowledged. What is purged is written down first, so that no reader takes
// what is left for all there was.
//
// Control facts are purged only as far as there is a base that this process has known
// for Config.Settle: until then another may have looked whether a stream is new by the
// base before it (Config.baseFor).
func (l *Log) Purge(ctx context.Context, upTo events.Position) (events.Bounds, error) {
	l.beginnings.Lock()
	defer l.beginnings.Unlock()
	fail := func(err error) (events.Bounds, error) {
		return events.Bounds{}, fmt.Errorf("purge up to %s: %w", upTo, err)
	}
	if upTo.Epoch != l.epochs[upTo.Partition] {
		return fail(fmt.Errorf("the log is of epoch %d: %w", l.epochs[upTo.Partition], events.ErrInvalid))
	}
	if upTo.Partition == events.ControlPartition {
		settled, err := l.mayPurge(ctx, upTo)
		if err != nil {
			return fail(err)
		}
		upTo.Seq = min(upTo.Seq, settled)
	}
	s, err := l.js.Stream(ctx, streamName(upTo.Partition))
	if err != nil {
		return fail(err)
	}
	info := s.CachedInfo()
	keep, err := l.firstToStay(ctx, s, upTo)
	if err != nil {
		return fail(err)
	}
	if keep > 1 && keep > oldestOf(info) {
		if err := l.note(ctx, s, metaPurged, keep-1); err != nil {
			return fail(err)
		}
	}
	// A purge that was written down may not have happened, or not have reached
	// the disk.
	if purged := metaSeq(s.CachedInfo(), metaPurged); info.State.FirstSeq <= purged && info.State.Msgs > 0 {
		defer l.disturb(upTo.Partition)()
		if err := s.Purge(ctx, jetstream.WithPurgeSequence(purged+1)); err != nil {
			return fail(err)
		}
		if err := l.note(ctx, s, metaPurged, purged); err != nil { // another may have put it back meanwhile
			return fail(err)
		}
	}
	return l.Bounds(ctx, upTo.Partition)
}

// firstToStay is the first sequence that a purge up to a position leaves.
func (l *Log) firstToStay(ctx context.Context, s jetstream.Stream, upTo events.Position) (uint64, error) {
	newest, err := newestOf(ctx, s)
	if err != nil {
		return 0, err
	}
	keep := min(upTo.Seq+1, newest)
	if l.cfg.StoreDir == "" {
		return keep, nil
	}
	return blockBefore(l.blockDir(upTo.Partition), keep)
}

// Purgeable returns up to where Purge could go of what it is asked for.
func (l *Log) Purgeable(ctx context.Context, upTo events.Position) (events.Position, error) {
	s, err := l.js.Stream(ctx, streamName(upTo.Partition))
	if err == nil {
		upTo.Seq, err = l.firstToStay(ctx, s, upTo)
	}
	if err != nil {
		return events.Position{}, fmt.Errorf("see how far partition %d can be purged: %w", upTo.Partition, err)
	}
	upTo.Seq = max(upTo.Seq, 1) - 1
	return upTo, nil
}

// ErrUnsettled tells that the base is too young to purge what it stands for: ask
// again in a minute.
var ErrUnsettled = errors.New("the log's base is too young")

// mayPurge returns up to where folds need nothing of what is to be purged of the
// control partition, by what it looks up and not by what it remembers.
func (l *Log) mayPurge(ctx context.Context, upTo events.Position) (settled uint64, err error) {
	p, err := l.present(ctx, true)
	if err != nil {
		return 0, err
	}
	if upTo.Seq > p.UpTo {
		return 0, fmt.Errorf("folds begin at %d: %w", p.UpTo, events.ErrInvalid)
	}
	if _, err := l.openBase(ctx, p); err != nil {
		return 0, err
	}
	if settled = l.settled(); settled == 0 {
		return 0, ErrUnsettled
	}
	return settled, nil
}

// noteAttempts is how often a note is written that others, who note at the same time,
// put back to what they had read: the server has no update upon a condition.
const noteAttempts = 10

// note raises a sequence of a stream's metadata. The caller holds beginnings.
func (l *Log) note(ctx context.Context, s jetstream.Stream, key string, seq uint64) error {
	for attempt := 0; ; attempt++ {
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		if metaSeq(info, key) >= seq {
			return nil
		}
		cfg := info.Config
		if attempt == noteAttempts {
			return fmt.Errorf("write down %s of stream %s: somebody else changed it at the same time, %d times", key, cfg.Name, attempt)
		}
		cfg.Metadata[key] = strconv.FormatUint(seq, 10)
		if _, err := l.js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("write down %s of stream %s: %w", key, cfg.Name, err)
		}
	}
}

// disturb is called before the server replaces or removes block files of a
// partition, the function it returns afterwards.
func (l *Log) disturb(partition uint16) (done func()) {
	b := l.syncs[partition]
	if b == nil {
		return func() {}
	}
	b.changing.Add(1)
	return func() { b.changing.Add(-1) }
}
