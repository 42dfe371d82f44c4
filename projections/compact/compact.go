package compact

import (
	"cmp"
	"slices"

	"github.com/tachograph/tachograph/events"
)

// A Compaction takes control facts in the order of their positions: those of the base
// before, then the log's. The zero value has none.
type Compaction struct {
	keepers map[events.Stream]keeper
	taken   uint64
}

// A keeper has the facts of one stream.
type keeper interface {
	add(e events.Event)

	// facts are those to keep, in their order. The newest that the stream has must be
	// at the position of the last of them.
	facts() ([]events.Event, error)

	// over tells that nothing of the stream is to be kept.
	over() bool
}

// Add takes a fact. It keeps what it was given.
func (c *Compaction) Add(e events.Event) {
	if c.keepers == nil {
		c.keepers = map[events.Stream]keeper{}
	}
	c.taken++
	k := c.keepers[e.Stream]
	if k == nil {
		switch e.Stream.Kind {
		case events.Presence:
			k = &connections{}
		case events.Command:
			k = &order{}
		case events.Shadow:
			k = &document{}
		default:
			k = &everything{}
		}
		c.keepers[e.Stream] = k
	}
	if k.add(e); k.over() {
		delete(c.keepers, e.Stream)
	}
}

// Taken is how many facts were added.
func (c *Compaction) Taken() uint64 { return c.taken }

// Facts returns what is to be kept, in the order of their positions. An error tells
// that folds could not be had the same from less; nothing must be purged then.
func (c *Compaction) Facts() ([]events.Event, error) {
	var all []events.Event
	for _, k := range c.keepers {
		some, err := k.facts()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b events.Event) int { return cmp.Compare(a.Position.Seq, b.Position.Seq) })
	return all, nil
}

// everything keeps every fact.
type everything struct{ all []events.Event }

func (k *everything) add(e events.Event)             { k.all = append(k.all, e) }
func (k *everything) facts() ([]events.Event, error) { return k.all, nil }
func (k *everything) over() bool                     { return false }
