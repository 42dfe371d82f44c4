package columnar

import (
	"context"
	"errors"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// parkAll stores what did not decode in the log's dead-letter stream as well,
// many at a time so that they share the log's commits. A dead letter's stream
// is named after the place it comes from, so parking it again finds it there.
//
// What the dead-letter stream refuses for good does not hold up the partition:
// the table dead_letters has it, and so has the log where it came from.
func (w *Writer) parkAll(ctx context.Context, dead []deadLetter) error {
	const together = 64
	for ; len(dead) > 0; dead = dead[min(together, len(dead)):] {
		err := w.persist(ctx, "park", func() error {
			some := dead[:min(together, len(dead))]
			errs := make([]error, len(some))
			var wg sync.WaitGroup
			for i := range some {
				wg.Go(func() { errs[i] = w.park(ctx, &some[i]) })
			}
			wg.Wait()
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) park(ctx context.Context, d *deadLetter) error {
	_, err := w.cfg.Log.Append(ctx, events.Fresh, d.park())
	var there *events.ConflictError
	switch {
	case errors.As(err, &there):
		return nil
	case errors.Is(err, events.ErrFull), errors.Is(err, events.ErrTooLarge), errors.Is(err, events.ErrInvalid):
		w.cfg.Logger.Error("dead letter is in the table only", "device", d.event.Stream.ID, "position", d.event.Position.String(), "error", err)
		return nil
	}
	return err
}
