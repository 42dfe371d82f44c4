package latest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// A claim is a document that is ahead of the view's position: the event it
// names must come by.
type claim struct {
	seq        uint64
	device, id string
}

// remedy is what to do when the log is not the one that the bucket was folded
// from. Nothing is lost with the bucket.
const remedy = `delete the KV bucket "latest" and start again; the view is then folded anew from the log`

// resume finds out where the view stands: its cursor, and the documents that
// were written after it. As the cursor is written last, those are the ones with
// a later revision, at most what one crash left behind.
func (p *Projection) resume(ctx context.Context) error {
	kv := p.cfg.KV
	p.cursor, p.ahead = events.Cursor{Position: events.Position{Partition: p.cfg.Partition}}, nil
	claims := map[string]claim{}
	var after uint64
	switch e, err := kv.Get(ctx, positionKey(p.cfg.Partition)); {
	case err == nil:
		if err := json.Unmarshal(e.Value(), &p.cursor); err != nil {
			return fmt.Errorf("read position: %s: %w", remedy, errors.Join(errDamaged, err))
		}
		after = e.Revision()
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("read position: %w", err)
	}
	opts := []jetstream.WatchOpt{jetstream.IgnoreDeletes()}
	if after > 0 {
		opts = append(opts, jetstream.ResumeFromRevision(after+1))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.Watch(ctx, "*", opts...)
	if err != nil {
		return fmt.Errorf("look for documents ahead of the position: %w", err)
	}
	defer func() { _ = w.Stop() }() // it is over, whatever the server says
	last := p.cursor.Position
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("look for documents ahead of the position: %w", ctx.Err())
		case e, open := <-w.Updates():
			if !open {
				return errors.New("look for documents ahead of the position: the connection was closed")
			}
			if e == nil {
				p.ahead = slices.SortedFunc(maps.Values(claims), func(a, b claim) int { return cmp.Compare(a.seq, b.seq) })
				return p.checkTail(ctx, last)
			}
			var d struct {
				Device   string          `json:"device"`
				ID       string          `json:"id"`
				Position events.Position `json:"position"`
			}
			if err := json.Unmarshal(e.Value(), &d); err != nil {
				return fmt.Errorf("read document %s: %s: %w", e.Key(), remedy, errors.Join(errDamaged, err))
			}
			if d.Position.Partition == p.cfg.Partition && before(p.cursor.Position, d.Position) {
				claims[d.Device] = claim{d.Position.Seq, d.Device, d.ID} // a later one replaces it
				if before(last, d.Position) {
					last = d.Position
				}
			}
		}
	}
}

// checkTail refuses a log that is shorter than what was folded from it.
func (p *Projection) checkTail(ctx context.Context, last events.Position) error {
	tail, err := p.cfg.Log.Tail(ctx, p.cfg.Partition)
	if err != nil {
		return fmt.Errorf("read the log's tail: %w", err)
	}
	if before(tail, last) {
		return fmt.Errorf("the bucket is at %s, the log ends at %s: %w", last, tail, events.ErrDiverged)
	}
	return nil
}

// check holds an event against the documents that claim to be folded from it.
// Until all claims are met the position is not written: it would hide the
// documents ahead from the next start.
func (p *Projection) check(e *events.Event) error {
	if len(p.ahead) == 0 || e.Position.Seq < p.ahead[0].seq {
		return nil
	}
	c := p.ahead[0]
	if c.seq != e.Position.Seq || c.device != e.Stream.ID || c.id != e.ID {
		return fmt.Errorf("the document of %s is folded from event %s at %d, where the log has %s of %s at %d: %w",
			c.device, c.id, c.seq, e.ID, e.Stream.ID, e.Position.Seq, events.ErrDiverged)
	}
	p.ahead = p.ahead[1:]
	return nil
}
