package columnar

import (
	"context"
	"errors"
	"time"
)

// write inserts batch after batch: at once when one is full, else when it is
// old enough. While one is inserted the next one grows, so a server that is
// slow gets fewer and larger blocks by itself. A writer that is behind, and reads
// on, has no delay to save: its batches may become full.
func (w *Writer) write(ctx context.Context, read <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var readErr error
	ended, before := false, 0
	for {
		w.mu.Lock()
		age, n, full := time.Since(w.current.began), w.current.events, w.full
		late := n > before && time.Since(w.current.newest) > behind
		w.mu.Unlock()
		limit := w.age
		if late && age < behind {
			limit, before = min(age+w.age, behind), n
		}
		switch {
		case n > 0 && (full || ended || age >= limit):
			if err := w.insertBatch(ctx, w.take()); err != nil {
				if ctx.Err() != nil && !errors.Is(err, ErrFenced) {
					return nil // read again after the checkpoint next time
				}
				return err
			}
			before = 0
			continue
		case ended:
			return readErr
		}
		pending, in := w.rollUpDue()
		if pending && in == 0 {
			if err := w.rollUp(ctx); errors.Is(err, errDamaged) {
				w.rollUpLater(err)
			} else if err != nil {
				if ctx.Err() != nil && !errors.Is(err, ErrFenced) {
					return nil // goes on after its own checkpoint next time
				}
				return err
			}
			continue
		}
		switch {
		case n > 0 && pending:
			timer.Reset(min(limit-age, in))
		case n > 0:
			timer.Reset(limit - age)
		case pending:
			timer.Reset(in)
		}
		select {
		case <-w.due:
		case <-timer.C:
		case readErr = <-read:
			ended = true
		}
	}
}

// take closes the current batch and lets the reader go on with a new one.
func (w *Writer) take() *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.current
	w.current, w.full = newBatch(w.mem), false
	close(w.taken)
	w.taken = make(chan struct{})
	return b
}

func (w *Writer) wake() {
	select {
	case w.due <- struct{}{}:
	default:
	}
}

// behind is the age of what is read at which a writer is catching up, and for how
// long its batches may grow then.
const behind = 3 * time.Second

// adapt sets the age of the next batch by what the last one took: inserting
// shall fill no more than a quarter of the time. So a quiet fleet's rows wait
// for MaxAge, while many tables, or a server that is busy merging, get fewer
// and larger blocks.
func (w *Writer) adapt(took time.Duration) {
	w.age = min(max(w.cfg.MaxAge, 4*took), max(w.cfg.MaxAge, 5*time.Second))
}
