package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// What a caller of the directory can act on.
var (
	ErrExists   = errors.New("device exists")  // choose another id, or issue a new token
	ErrNotFound = errors.New("no such device") // add it first
)

// A Device is one that may speak.
type Device struct {
	ID    string
	Added time.Time
}

// A Directory answers who may speak, from memory, and keeps itself in step with
// the log. All methods may be called from several goroutines.
type Directory struct {
	log    events.Log
	logger *slog.Logger

	mu       sync.RWMutex
	devices  map[string]*entry
	owners   map[digest]string // digest of each valid token: its device
	sorted   []string          // ids in order; nil when it must be made anew
	cursor   events.Cursor
	changed  chan struct{} // closed and replaced after every event
	running  int
	onRevoke []func(id string)
}

// An entry outlives its device, so that a later one of the same id is appended
// at the right position.
type entry struct {
	Device
	exists     bool
	issued     bool // a token was issued since it was added
	digest     digest
	registry   uint64 // newest sequence of registry/{id}
	credential uint64 // and of credential/{id}
}

// Open returns the directory as of the log's present end.
func Open(ctx context.Context, log events.Log, logger *slog.Logger) (*Directory, error) {
	d := &Directory{
		log: log, logger: logger,
		devices: map[string]*entry{}, owners: map[digest]string{}, changed: make(chan struct{}),
	}
	if err := d.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("open directory of devices: %w", err)
	}
	return d, nil
}

// Run keeps the directory in step with other processes until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	d.mu.Lock()
	d.running++
	after := d.cursor
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.running--
		close(d.changed) // who waits for the fold must now fold itself
		d.changed = make(chan struct{})
		d.mu.Unlock()
	}()
	for e, err := range events.Facts(ctx, d.log, after) {
		if err != nil {
			return fmt.Errorf("follow devices: %w", err)
		}
		d.fold(e)
	}
	return nil
}

// await returns when the fold has reached seq.
func (d *Directory) await(ctx context.Context, seq uint64) error {
	for {
		d.mu.RLock()
		reached, running, changed := d.cursor.Position.Seq >= seq, d.running > 0, d.changed
		d.mu.RUnlock()
		switch {
		case reached:
			return nil
		case !running:
			return d.foldTo(ctx, seq)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// catchUp returns when the fold has reached the log's present end.
func (d *Directory) catchUp(ctx context.Context) error {
	tail, err := events.Newest(ctx, d.log, events.ControlPartition)
	if err != nil {
		return err
	}
	return d.await(ctx, tail.Seq)
}

// foldTo folds up to seq. It may run beside Run: an event is folded once, and
// Run may have begun since the caller looked and be further than seq by now.
func (d *Directory) foldTo(ctx context.Context, seq uint64) error {
	d.mu.RLock()
	after := d.cursor
	d.mu.RUnlock()
	if after.Position.Seq >= seq {
		return nil // what follows may never come
	}
	for e, err := range events.Facts(ctx, d.log, after) {
		if err != nil {
			return err
		}
		d.fold(e)
		if e.Position.Seq >= seq {
			return nil
		}
	}
	return ctx.Err()
}

// OnRevoke registers f to be called with the id of a device whose token is no
// longer valid: removed, revoked or replaced. f must not block.
func (d *Directory) OnRevoke(f func(id string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onRevoke = append(slices.Clone(d.onRevoke), f)
}

// Authenticate tells whether token is the device's. It takes as long for a
// wrong token, an unknown device and a right token.
func (d *Directory) Authenticate(device, token string) bool {
	sum, ok := digestOf(token)
	var want digest
	d.mu.RLock()
	if e := d.devices[device]; e != nil && e.issued {
		want = e.digest
	} else {
		ok = false
	}
	d.mu.RUnlock()
	return subtle.ConstantTimeCompare(sum[:], want[:]) == 1 && ok
}

// Owner returns the device that token belongs to. Looking a digest up in a map
// is safe: to steer the comparison one would have to choose SHA-256's output.
func (d *Directory) Owner(token string) (id string, ok bool) {
	sum, plausible := digestOf(token)
	if !plausible {
		return "", false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok = d.owners[sum]
	return id, ok
}

// Get returns a device.
func (d *Directory) Get(id string) (Device, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.devices[id]; e != nil && e.exists {
		return e.Device, true
	}
	return Device{}, false
}

// List returns up to limit devices with ids greater than after, in order.
func (d *Directory) List(after string, limit int) []Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sorted == nil {
		d.sorted = make([]string, 0, len(d.devices))
		for id, e := range d.devices {
			if e.exists {
				d.sorted = append(d.sorted, id)
			}
		}
		slices.Sort(d.sorted)
	}
	i, found := slices.BinarySearch(d.sorted, after)
	if found {
		i++
	}
	n := max(0, min(limit, len(d.sorted)-i))
	list := make([]Device, n)
	for k := range list {
		list[k] = d.devices[d.sorted[i+k]].Device
	}
	return list
}
