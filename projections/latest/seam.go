package latest

import (
	"context"
	"fmt"
	"time"
)

const seamPoll = 50 * time.Millisecond

// awaitSeam waits until the bucket has what the log has of the partition's devices
// in partitions in which they were before it was split: their documents are folded
// on from there. Whoever folds those goes on to their ends without this one.
func (p *Projection) awaitSeam(ctx context.Context) error {
	way := p.cfg.Log.Layout().Way(p.cfg.Partition)
	for _, before := range way[:len(way)-1] {
		for {
			at, err := Reached(ctx, p.cfg.KV, before.Partition)
			if err != nil {
				return err
			}
			bounds, err := p.cfg.Log.Bounds(ctx, before.Partition)
			if err != nil {
				return err
			}
			upTo := min(before.UpTo, bounds.Newest.Seq) // what is at the seam may have been removed
			if at.Seq >= upTo {
				break
			}
			p.mu.Lock()
			p.status.LastError = fmt.Sprintf("seam: waits until the view has partition %d up to %d, it is at %d", before.Partition, upTo, at.Seq)
			p.mu.Unlock()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(seamPoll):
			}
		}
	}
	return nil
}
