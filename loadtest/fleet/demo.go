package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

// A Demo plays recorded drives: one real MQTT client a vehicle, at a multiple
// of the day's speed. A vehicle keeps a message until it is acknowledged,
// through reconnects and restarts; what was acknowledged is in the ledger.
type Demo struct {
	Node  *Node
	Fixes []Fix   // in the order of their times
	Speed float64 // 60: a minute of the day each second
	Loop  bool    // a day that is over begins anew, and ends at that moment

	connected, accepted, total atomic.Int64
}

// LedgerPath is where a node's data folder keeps the demo's ledger.
func LedgerPath(dir string) string { return filepath.Join(dir, "fleet", "acknowledged.tsv") }

// progress is what the next start needs besides the ledger: the shift must
// stay, as it is part of the messages' bytes.
type progress struct {
	Shift time.Duration `json:"shift_ns"` // from the recorded day to the day that ended when the demo began
}

func (d *Demo) progressFile() string { return filepath.Join(d.Node.Dir, "fleet", "demo.json") }

// begin starts a day that ends now.
func (d *Demo) begin() (p progress, err error) {
	end := d.Fixes[len(d.Fixes)-1].Time
	p.Shift = time.Since(end).Round(time.Millisecond)
	return p, writeJSON(d.progressFile(), p)
}

// resume finds the day that the last start left, or begins one.
func (d *Demo) resume() (p progress, err error) {
	b, err := os.ReadFile(d.progressFile())
	if errors.Is(err, fs.ErrNotExist) {
		return d.begin()
	}
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(b, &p)
}

// A message is a fix on its way.
type message struct {
	due     time.Duration // after the demo's start
	payload []byte
	entry   ledger.Entry
}

// Run plays until the day is over or ctx ends.
func (d *Demo) Run(ctx context.Context) error {
	if len(d.Fixes) == 0 || !(d.Speed > 0) {
		return fmt.Errorf("demo: %d fixes at speed %v", len(d.Fixes), d.Speed)
	}
	p, err := d.resume()
	if err != nil {
		return fmt.Errorf("demo: progress: %w", err)
	}
	acked, err := ledger.Open(LedgerPath(d.Node.Dir))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer acked.Close()
	tokens, err := d.Node.Tokens(ctx, Devices(d.Fixes))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for {
		left := d.left(p, acked)
		if len(left) > 0 {
			if err := d.play(ctx, left, tokens, acked); err != nil || ctx.Err() != nil {
				return err
			}
		}
		if err := acked.Sync(); err != nil {
			return fmt.Errorf("demo: ledger: %w", err)
		}
		if !d.Loop {
			return nil
		}
		if p, err = d.begin(); err != nil {
			return fmt.Errorf("demo: progress: %w", err)
		}
	}
}

// left are the day's messages that are not acknowledged yet, by device. The
// first of them is due at once.
func (d *Demo) left(p progress, acked *ledger.File) map[string][]message {
	perDevice := map[string][]message{}
	var start time.Time
	done := int64(0)
	for i := range d.Fixes {
		f := &d.Fixes[i]
		payload := f.Payload(p.Shift)
		entry := ledger.Entry{Device: f.Device, Type: "position", ID: events.DeriveID(f.Device, "position", payload)}
		if acked.Has(entry) {
			done++
			continue
		}
		if start.IsZero() {
			start = f.Time
		}
		due := time.Duration(float64(f.Time.Sub(start)) / d.Speed)
		perDevice[f.Device] = append(perDevice[f.Device], message{due, payload, entry})
	}
	d.accepted.Store(done)
	d.total.Store(int64(len(d.Fixes)))
	return perDevice
}

func (d *Demo) play(ctx context.Context, perDevice map[string][]message, tokens map[string]string, acked *ledger.File) error {
	began := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, len(perDevice))
	for i, device := range slices.Sorted(maps.Keys(perDevice)) {
		wg.Go(func() {
			err := d.drive(ctx, device, tokens[device], i%2 == 1, began, perDevice[device], acked)
			if err != nil && ctx.Err() == nil {
				errs <- fmt.Errorf("demo: %s: %w", device, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// drive is one vehicle's day.
func (d *Demo) drive(ctx context.Context, device, token string, five bool, began time.Time, msgs []message, acked *ledger.File) error {
	conn, err := dial(ctx, d.Node.MQTT, device, token, five)
	if err != nil {
		return err
	}
	d.connected.Add(1)
	defer d.connected.Add(-1)
	defer conn.close()
	for _, m := range msgs {
		select {
		case <-time.After(time.Until(began.Add(m.due))):
		case <-ctx.Done():
			return nil
		}
		for {
			err := conn.publish(ctx, "telemetry/position", m.payload)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			// Kept, and sent again: it is the same event.
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if err := acked.Add(m.entry); err != nil {
			return err
		}
		d.accepted.Add(1)
	}
	return nil
}

// Counts tells the vehicles connected and the messages acknowledged, of how many.
func (d *Demo) Counts() (connected, accepted, total int64) {
	return d.connected.Load(), d.accepted.Load(), d.total.Load()
}
