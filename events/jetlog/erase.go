package jetlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Erase removes single events of a partition for good: the server overwrites
// each with random bytes. For that it writes the whole block file anew (up to 8
// MiB, synced), and the stream stands meanwhile, so Erase rests after each for as
// long as it took. What is gone already is passed over. tell hears how many are
// done.
//
// The newest are erased first, so that whoever finds out again what to erase,
// after a crash, still finds what made him erase it. When Erase has returned, the
// bytes are gone from a server of this host, also after a power failure. After a
// crash Scrub has to be called before the server starts again.
func (l *Log) Erase(ctx context.Context, partition uint16, seqs []uint64, tell func(done int)) error {
	l.beginnings.Lock()
	defer l.beginnings.Unlock()
	fail := func(err error) error { return fmt.Errorf("erase in partition %d: %w", partition, err) }
	if len(seqs) == 0 {
		return nil
	}
	s, err := l.js.Stream(ctx, streamName(partition))
	if err != nil {
		return fail(err)
	}
	seqs = slices.Clone(seqs)
	slices.Sort(seqs)
	first, err := firstLeft(ctx, s, seqs)
	if err != nil {
		return fail(err)
	}
	if first > s.CachedInfo().State.FirstSeq {
		if err := l.note(ctx, s, metaForgotten, first); err != nil {
			return fail(err)
		}
	}
	done, err := l.erasing(partition)
	if err != nil {
		return fail(err)
	}
	defer l.disturb(partition)()
	for i, seq := range slices.Backward(seqs) {
		began := time.Now()
		if err := s.SecureDeleteMsg(ctx, seq); err != nil {
			if _, there := s.GetMsg(ctx, seq); !errors.Is(there, jetstream.ErrMsgNotFound) {
				return fail(fmt.Errorf("sequence %d: %w", seq, err))
			}
		}
		tell(len(seqs) - i)
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-time.After(time.Since(began)):
		}
	}
	if l.cfg.StoreDir != "" {
		if err := syncPath(l.blockDir(partition)); err != nil {
			return fail(err)
		}
	}
	if err := done(); err != nil {
		return fail(err)
	}
	return nil
}

// firstLeft returns where the stream will begin without some of its messages,
// given ascending.
func firstLeft(ctx context.Context, s jetstream.Stream, seqs []uint64) (uint64, error) {
	state := s.CachedInfo().State
	first := state.FirstSeq
	for first <= state.LastSeq {
		if _, goes := slices.BinarySearch(seqs, first); !goes {
			_, err := s.GetMsg(ctx, first)
			if err == nil {
				break
			}
			if !errors.Is(err, jetstream.ErrMsgNotFound) {
				return 0, err
			}
		}
		first++
	}
	return first, nil
}
