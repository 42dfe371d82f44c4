package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	Notes io.Writer

	connected, accepted atomic.Int64
	refused             atomic.Int64
}

// LedgerPath is where a node's data folder keeps the demo's ledger.
func LedgerPath(dir string) string { return filepath.Join(dir, "fleet", "acknowledged.tsv") }

// progress is what the next start needs besides the ledger: the shift must
// stay, as it is part of the messages' bytes.
type progress struct {
	Shift time.Duration `json:"shift_ns"` // from the recorded day to the day that ended when the demo first started
}

func (d *Demo) progress() (progress, error) {
	var p progress
	path := filepath.Join(d.Node.Dir, "fleet", "demo.json")
	b, err := os.ReadFile(path)
	if err == nil {
		return p, json.Unmarshal(b, &p)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	end := d.Fixes[len(d.Fixes)-1].Time
	p.Shift = time.Since(end).Round(time.Millisecond)
	if b, err = json.Marshal(p); err != nil {
		return p, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return p, err
	}
	return p, os.WriteFile(path, b, 0o600)
}

// A message is a fix on its way.
type message struct {
	due     time.Duration // after the demo's start
	payload []byte
	entry   ledger.Entry
}

// Run plays until the day is over or ctx ends.
func (d *Demo) Run(ctx context.Context) error {
	p, err := d.progress()
	if err != nil {
		return fmt.Errorf("demo: progress: %w", err)
	}
	acked, err := ledger.Open(LedgerPath(d.Node.Dir))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer acked.Close()
	devices := Devices(d.Fixes)
	tokens, err := d.Node.Tokens(ctx, devices)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	perDevice := map[string][]message{}
	var start time.Time // of the day's part that is left
	for i := range d.Fixes {
		f := &d.Fixes[i]
		payload := f.Payload(p.Shift)
		entry := ledger.Entry{Device: f.Device, Type: "position", ID: events.DeriveID(f.Device, "position", payload)}
		if acked.Has(entry) {
			continue
		}
		if start.IsZero() {
			start = f.Time
		}
		due := time.Duration(float64(f.Time.Sub(start)) / d.Speed)
		perDevice[f.Device] = append(perDevice[f.Device], message{due, payload, entry})
	}
	d.accepted.Store(int64(acked.Len()))
	began := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, len(devices))
	for i, device := range devices {
		if len(perDevice[device]) == 0 {
			continue
		}
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
			d.refused.Add(1) // kept, and sent again: it is the same event
			time.Sleep(200 * time.Millisecond)
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
	return d.connected.Load(), d.accepted.Load(), int64(len(d.Fixes))
}
