// Package catalog is the fold of the schemas that were ever registered: one
// registry in a process, shared by all that decode.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

// typeRegistered is the type of the one event there is: a version of a schema
// was registered. Its payload is a registration.
const typeRegistered = "registered"

type registration struct {
	Version uint32         `json:"version"`
	Source  schemas.Source `json:"source"`
}

// A Catalog keeps a schemas.Registry in step with the log.
type Catalog struct {
	log      events.Log
	logger   *slog.Logger
	registry *schemas.Registry

	mu      sync.Mutex
	cursor  events.Cursor
	last    map[string]uint64 // sequence of each schema's newest event
	changed chan struct{}     // closed and replaced after every event
}

// Open folds the log up to its present end, then registers the built-in
// vehicle schemas that are missing or have grown.
func Open(ctx context.Context, log events.Log, logger *slog.Logger) (*Catalog, error) {
	c := &Catalog{log: log, logger: logger, registry: schemas.NewRegistry(), last: map[string]uint64{}, changed: make(chan struct{})}
	if err := c.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	for _, named := range vehicle.Schemas() {
		if err := c.addBuiltIn(ctx, named); err != nil {
			return nil, fmt.Errorf("open catalog: built-in schema %s: %w", named.Name, err)
		}
	}
	return c, nil
}

func (c *Catalog) addBuiltIn(ctx context.Context, named vehicle.Named) error {
	for {
		s, err := c.registry.Check(named.Name, named.Source)
		if incompatible := (*schemas.IncompatibleError)(nil); errors.As(err, &incompatible) {
			// A newer release, or the operator, has gone another way: theirs counts.
			c.logger.Warn("built-in schema is not compatible with the registered one, which stays", "schema", named.Name, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		if current, ok := c.registry.Current(named.Name); ok && current.Version() == s.Version() {
			return nil
		}
		err = c.append(ctx, named.Name, s.Version(), named.Source)
		if conflict := (*events.ConflictError)(nil); err != nil && !errors.As(err, &conflict) {
			return err
		}
		if err := c.catchUp(ctx); err != nil { // a conflict: another process is starting as well
			return err
		}
	}
}

// Schemas returns the registry. Only the catalog adds to it.
func (c *Catalog) Schemas() *schemas.Registry { return c.registry }

// Run keeps the registry in step until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	c.mu.Lock()
	after := c.cursor
	c.mu.Unlock()
	for e, err := range c.log.Follow(ctx, events.ControlPartition, after) {
		if err != nil {
			return fmt.Errorf("catalog: %w", err)
		}
		c.fold(e)
	}
	return nil
}

// catchUp folds up to the log's present end.
func (c *Catalog) catchUp(ctx context.Context) error {
	tail, err := c.log.Tail(ctx, events.ControlPartition)
	if err != nil {
		return err
	}
	if c.cursor.Position.Seq >= tail.Seq {
		return nil
	}
	for e, err := range c.log.Follow(ctx, events.ControlPartition, c.cursor) {
		if err != nil {
			return err
		}
		c.fold(e)
		if e.Position.Seq >= tail.Seq {
			return nil
		}
	}
	return ctx.Err()
}

func (c *Catalog) fold(e events.Event) {
	if e.Stream.Kind == events.SchemaKind && e.Type == typeRegistered {
		if err := c.foldSchema(e); err != nil {
			// A newer binary may know more; what it registered is parked here until
			// this one is replaced, and its messages wait in the log.
			c.logger.Error("schema in the log cannot be used", "schema", e.Stream.ID, "position", e.Position.String(), "error", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Stream.Kind == events.SchemaKind {
		c.last[e.Stream.ID] = e.Position.Seq
	}
	c.cursor = events.Cursor{Position: e.Position, ID: e.ID}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Catalog) foldSchema(e events.Event) error {
	var r registration
	if err := json.Unmarshal(e.Payload, &r); err != nil {
		return err
	}
	s, _, err := c.registry.Add(e.Stream.ID, r.Source)
	if err != nil {
		return err
	}
	if s.Version() != r.Version {
		return fmt.Errorf("it is version %d in the log and %d here", r.Version, s.Version())
	}
	return nil
}

// Add registers a version of a schema and returns once this process uses it.
// The source of the current version again changes nothing.
//
// Errors: *schemas.InvalidError, *schemas.IncompatibleError, and those of
// events.Log.Append.
func (c *Catalog) Add(ctx context.Context, name string, src schemas.Source) (s *schemas.Schema, changed bool, err error) {
	for {
		if s, err = c.registry.Check(name, src); err != nil {
			return nil, false, err
		}
		if current, ok := c.registry.Current(name); ok && current.Version() == s.Version() {
			return current, false, nil
		}
		err = c.append(ctx, name, s.Version(), src)
		var conflict *events.ConflictError
		switch {
		case err == nil:
			if s, err = c.Await(ctx, name, s.Version()); err != nil {
				return nil, false, fmt.Errorf("schema %s is registered, but not yet in use here: %w", name, err)
			}
			return s, true, nil
		case !errors.As(err, &conflict):
			return nil, false, fmt.Errorf("register schema %s: %w", name, err)
		}
		if err := c.awaitSeq(ctx, name, conflict.Actual); err != nil {
			return nil, false, err
		}
	}
}

func (c *Catalog) append(ctx context.Context, name string, version uint32, src schemas.Source) error {
	payload, err := json.Marshal(registration{version, src})
	if err != nil {
		return err
	}
	c.mu.Lock()
	last := c.last[name]
	c.mu.Unlock()
	_, err = c.log.Append(ctx, events.At(last), events.Event{
		Stream: events.Stream{Kind: events.SchemaKind, ID: name}, Type: typeRegistered,
		ID: events.UniqueID(), Schema: version, Payload: payload,
	})
	return err
}

// Await returns a version of a schema as soon as it is folded. An event names
// the version its gateway knew, so a reader that is behind with the catalog
// waits instead of misreading.
func (c *Catalog) Await(ctx context.Context, name string, version uint32) (*schemas.Schema, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if s, ok := c.registry.Version(name, version); ok {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for version %d of schema %s: %w", version, name, ctx.Err())
		}
	}
}

// awaitSeq waits until the fold has seen another process's registration.
func (c *Catalog) awaitSeq(ctx context.Context, name string, seq uint64) error {
	for {
		c.mu.Lock()
		seen, changed := c.last[name], c.changed
		c.mu.Unlock()
		if seen >= seq && seq > 0 {
			return nil
		}
		select {
		case <-changed:
			if seq == 0 {
				return nil // the log could not tell; look again after any event
			}
		case <-time.After(time.Second):
			if seq == 0 {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("register schema %s: another process was first: %w", name, ctx.Err())
		}
	}
}
