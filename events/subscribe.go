package events

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"sync"
)

// A Subscription says what Subscribe yields. The zero Subscription is the whole
// log from its beginning.
type Subscription struct {
	Filter

	// After goes on exactly after what it says, partition by partition; it is
	// what the subscription's cursors were. Partitions that it doesn't name
	// begin at From; those that a split has made of one that it names, with their
	// first event.
	After Cursors
	From  From
}

// Start finds where in each partition the subscription begins. The errors are
// those of Log.Locate, and ErrInvalid when After names a partition that holds
// nothing of what is wanted.
func (s Subscription) Start(ctx context.Context, l Log) (Cursors, error) {
	start, layout := Cursors{}, l.Layout()
	for _, p := range s.Filter.Partitions(layout) {
		from := s.From
		if last, ok := s.After[p]; ok {
			from = After(last)
		} else if s.Follows(layout, p) {
			b, err := l.Bounds(ctx, p)
			if err != nil {
				return nil, err
			}
			from = After(Cursor{Position: Position{Epoch: b.Oldest.Epoch, Partition: p}})
		}
		c, err := l.Locate(ctx, p, from)
		if err != nil {
			return nil, err
		}
		start[p] = c
	}
	for p, c := range s.After {
		if _, ok := start[p]; !ok {
			return nil, fmt.Errorf("subscribe after %s: partition %d holds nothing of what is asked for: %w", c.Position, p, ErrInvalid)
		}
	}
	return start, nil
}

// Follows tells of a partition that After doesn't name, but one from which a split
// has made it: After is of before, and what came since begins with the partition.
func (s Subscription) Follows(l Layout, partition uint16) bool {
	for seam, ok := l.Seam(partition); ok; seam, ok = l.Seam(seam.From) {
		if _, named := s.After[seam.From]; named {
			return true
		}
	}
	return false
}

// Subscribe yields the wanted events of all partitions that hold some: the
// history, then each new one, until ctx ends (then the sequence just ends).
// The events of one partition, and those of one device, come in the order of the
// log; between devices of different partitions there is no order.
//
// It reads no faster than the sequence is taken: a slow reader holds up
// nobody, and at most some MiB a partition for itself. Any error is the last:
// those of Start and of Log.Follow. A purge does not wait for a subscription:
// one that it overtakes ends with *TruncatedError.
//
// Who wants to go on later keeps what Start returned, advances it with each
// event (Cursors.Advance), and gives it back as After.
func Subscribe(ctx context.Context, l Log, s Subscription) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		start, err := s.Start(ctx, l)
		if err != nil {
			if ctx.Err() == nil {
				yield(Event{}, err)
			}
			return
		}
		for e, err := range s.Filter.Follow(ctx, l, start) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// Follow yields the wanted events after the cursors, as Subscribe does. The
// cursors stay as they are.
func (f Filter) Follow(ctx context.Context, l Log, after Cursors) iter.Seq2[Event, error] {
	if len(after) == 1 {
		for p, c := range after {
			return guarded(ctx, l, p, c, f)
		}
	}
	after = maps.Clone(after)
	return func(yield func(Event, error) bool) {
		type item struct {
			Event
			err error
		}
		ctx, cancel := context.WithCancel(ctx)
		var readers sync.WaitGroup
		defer readers.Wait()
		defer cancel()
		items := make(chan item)
		for _, seq := range after.alongSeams(ctx, l, f) {
			readers.Go(func() {
				for e, err := range seq {
					select {
					case items <- item{e, err}:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		for {
			select {
			case <-ctx.Done():
				return
			case i := <-items:
				if !yield(i.Event, i.err) || i.err != nil {
					return
				}
			}
		}
	}
}
