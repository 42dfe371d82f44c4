// Package catalog is the fold of the schemas that were ever registered: one
// registry in a process, shared by all that decode.
//
// It promises that a version of a schema means the same in every process, and
// that two processes that register at once both succeed or are both told why
// not. It refuses to guess: a registration that this binary cannot compile (a
// newer release wrote it) is logged and counted, and that schema stands still
// here until the binary is replaced; all others go on.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

// A Catalog keeps a schemas.Registry in step with the log. It is safe for all
// goroutines.
type Catalog struct {
	log      events.Log
	logger   *slog.Logger
	registry *schemas.Registry
	unusable atomic.Uint64

	mu      sync.Mutex
	state   state
	changed chan struct{} // closed and replaced when a schema was registered
}

// Open folds the log up to its present end, then registers the built-in
// vehicle schemas that are missing or have grown.
func Open(ctx context.Context, log events.Log, logger *slog.Logger) (*Catalog, error) {
	return OpenWith(ctx, log, logger, vehicle.Schemas())
}

// OpenWith is Open with other built-in schemas.
func OpenWith(ctx context.Context, log events.Log, logger *slog.Logger, builtIn []vehicle.Named) (*Catalog, error) {
	registry := schemas.NewRegistry()
	c := &Catalog{log: log, logger: logger, registry: registry, state: newState(registry), changed: make(chan struct{})}
	if err := c.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	for _, named := range builtIn {
		if c.had(named) {
			continue
		}
		_, _, err := c.Add(ctx, named.Name, named.Source)
		var incompatible *schemas.IncompatibleError
		switch {
		case errors.As(err, &incompatible), errors.Is(err, ErrUnusable):
			// A newer release, or the operator, has gone another way: theirs counts.
			logger.Warn("built-in schema does not follow the registered one, which stays", "schema", named.Name, "error", err)
		case err != nil:
			return nil, fmt.Errorf("open catalog: built-in schema %s: %w", named.Name, err)
		}
	}
	return c, nil
}

// had tells whether any version of a schema is the built-in one: if a later one
// is current, a newer release wrote it and this older one must not undo that.
func (c *Catalog) had(named vehicle.Named) bool {
	for v := uint32(1); ; v++ {
		s, ok := c.registry.Version(named.Name, v)
		if !ok {
			return false
		}
		if s.Source() == named.Source {
			return true
		}
	}
}

// Schemas returns the registry. Only the catalog adds to it.
func (c *Catalog) Schemas() *schemas.Registry { return c.registry }

// Unusable counts the registrations in the log that this binary cannot use.
func (c *Catalog) Unusable() uint64 { return c.unusable.Load() }

// Run keeps the registry in step until ctx ends (nil). It returns an error when
// the log cannot be followed any more, such as events.ErrDiverged.
func (c *Catalog) Run(ctx context.Context) error {
	for e, err := range events.Facts(ctx, c.log, c.cursor()) {
		if err != nil {
			return fmt.Errorf("catalog: %w", err)
		}
		c.fold(e)
	}
	return nil
}

// catchUp folds up to the log's present end. It may overlap with Run.
func (c *Catalog) catchUp(ctx context.Context) error {
	tail, err := events.Newest(ctx, c.log, events.ControlPartition)
	if err != nil {
		return err
	}
	after := c.cursor()
	if after.Position.Seq >= tail.Seq {
		return nil
	}
	for e, err := range events.Facts(ctx, c.log, after) {
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

func (c *Catalog) cursor() events.Cursor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.cursor
}

// fold applies an event unless it has been.
func (c *Catalog) fold(e events.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	registered, err := c.state.evolve(e)
	if err != nil {
		c.unusable.Add(1)
		c.logger.Error("schema in the log cannot be used here; a newer release may have registered it",
			"schema", e.Stream.ID, "position", e.Position.String(), "error", err)
	}
	if registered {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// attempts is how often Add looks again after another writer was first or an
// append's outcome was unknown.
const attempts = 32

// Add registers a version of a schema and returns once this process uses it;
// Run need not be running. The source of the current version again changes
// nothing.
//
// Errors: *schemas.InvalidError, *schemas.IncompatibleError, ErrUnusable, and
// those of events.Log.Append.
func (c *Catalog) Add(ctx context.Context, name string, src schemas.Source) (s *schemas.Schema, changed bool, err error) {
	for try := range attempts {
		e, expect, s, err := c.decide(name, src)
		if err != nil {
			return nil, false, err
		}
		if e == nil {
			return s, changed, nil
		}
		_, err = c.log.Append(ctx, expect, *e)
		var conflict *events.ConflictError
		switch {
		case err == nil, errors.Is(err, events.ErrUnknown):
			changed = true
		case !errors.As(err, &conflict):
			return nil, false, fmt.Errorf("register schema %s: %w", name, err)
		}
		if err != nil && try > 0 {
			if err := sleep(ctx, time.Duration(try)*5*time.Millisecond); err != nil {
				return nil, false, fmt.Errorf("register schema %s: %w", name, err)
			}
		}
		if err := c.catchUp(ctx); err != nil {
			return nil, false, fmt.Errorf("register schema %s: read it back: %w", name, err)
		}
	}
	return nil, false, fmt.Errorf("register schema %s: other writers were first %d times: %w", name, attempts, events.ErrUnknown)
}

func (c *Catalog) decide(name string, src schemas.Source) (*events.Event, events.Expect, *schemas.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.decide(name, src)
}

// patience is after how long a wait for a schema is told to the operator.
const patience = 5 * time.Second

// Await returns a version of a schema as soon as it is folded. An event names
// the version its gateway knew, so a reader that is behind with the catalog
// waits instead of misreading. late hears when that takes longer than it should: the
// version may be gone, or of a release that can read more. The error is that of ctx.
func (c *Catalog) Await(ctx context.Context, name string, version uint32, late ...func(error)) (*schemas.Schema, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if s, ok := c.registry.Version(name, version); ok {
			return s, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			c.logger.Warn("waiting for a schema that is not in use here yet", "schema", name, "version", version)
			for _, tell := range late {
				tell(fmt.Errorf("version %d of schema %s is not known here (remedy: run the release that registered it, or bring the log's control facts back from an archive)", version, name))
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for version %d of schema %s: %w", version, name, ctx.Err())
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
