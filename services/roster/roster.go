package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/gateway"
)

// Bucket is the KV bucket of gateways' heartbeats.
const Bucket = "gateways"

// BucketConfig is how the bucket is made: an entry that is not renewed is gone
// after some seconds.
func BucketConfig(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "gateways that are alive", History: 1, Storage: jetstream.MemoryStorage, TTL: 4 * beat, Replicas: max(1, replicas),
	}
}

// How often a gateway's heart beats, and how often it is looked who is gone.
const (
	beat  = 1500 * time.Millisecond
	sweep = 2 * time.Second
)

// A Config says what the roster stands on. Log is required.
type Config struct {
	Log     events.Log
	Gateway bool                            // this process has connections of its own
	Beats   jetstream.KeyValue              // see BucketConfig; nil: the process only listens, and says of nobody that he is gone
	Remake  func(ctx context.Context) error // makes the bucket where a NATS that was started anew has lost it; goes with Beats
	Grace   time.Duration                   // before a device that is gone is said to be offline; 30 s
	Logger  *slog.Logger
}

// A Roster is who is connected, as of the log's end. All methods may be called
// from several goroutines.
type Roster struct {
	log    events.Log
	me     string // this process, as a gateway
	serves bool   // it is one
	beats  jetstream.KeyValue
	remake func(ctx context.Context) error
	grace  time.Duration
	logger *slog.Logger
	shards [64]shard

	mu      sync.Mutex
	devices map[string]*entry
	local   map[string]gateway.Connection // of this process, by id
	strikes map[string]int                // sessions that seem to be wrong, and how often they did
	alive   map[string]bool               // gateways, as of the last look
	cursor  events.Cursor
	changed chan struct{}
}

type entry struct {
	presence.Device
	position events.Position
}

// A Status is what is known of a device's connections.
type Status struct {
	Connected bool
	Since     time.Time // zero: it was never there
	Reason    string    // why the last connection ended
	Sessions  int
	Version   uint64
}

// Open returns the roster as of the log's present end.
func Open(ctx context.Context, c Config) (*Roster, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Grace <= 0 {
		c.Grace = 30 * time.Second
	}
	r := &Roster{
		log: c.Log, me: events.UniqueID(), serves: c.Gateway, beats: c.Beats, remake: c.Remake, grace: c.Grace, logger: c.Logger,
		devices: map[string]*entry{}, local: map[string]gateway.Connection{}, strikes: map[string]int{}, changed: make(chan struct{}),
	}
	for i := range r.shards {
		r.shards[i].kick = make(chan struct{}, 1)
	}
	tail, err := events.Newest(ctx, r.log, events.ControlPartition)
	if err == nil && tail.Seq > 0 {
		err = r.foldTo(ctx, tail.Seq)
	}
	if err == nil && r.serves {
		err = r.live(ctx) // before the first device comes
	}
	if err == nil && r.beats != nil {
		r.alive, err = r.hearts(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open roster: %w", err)
	}
	return r, nil
}

// Get returns what is known of a device.
func (r *Roster) Get(device string) Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.devices[device]
	if e == nil {
		return Status{}
	}
	s := Status{Connected: e.Connected(), Reason: e.Reason, Sessions: len(e.Sessions), Version: e.Version}
	if e.Since != 0 {
		s.Since = time.UnixMilli(e.Since).UTC()
	}
	if s.Connected {
		s.Reason = ""
	}
	return s
}

// Elsewhere tells whether another process, which is alive, has a connection of
// the device.
func (r *Roster) Elsewhere(device string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.devices[device]; e != nil {
		for _, s := range e.Sessions {
			if s.Gateway != r.me && r.alive[s.Gateway] {
				return true
			}
		}
	}
	return false
}

func (r *Roster) foldTo(ctx context.Context, seq uint64) error {
	for e, err := range events.Facts(ctx, r.log, r.cursor) {
		if err != nil {
			return err
		}
		r.fold(e)
		if e.Position.Seq >= seq {
			return nil
		}
	}
	return ctx.Err()
}

// fold takes one event of the control partition, each in its turn.
func (r *Roster) fold(ev events.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cursor = events.Cursor{Position: ev.Position, ID: ev.ID}
	close(r.changed)
	r.changed = make(chan struct{})
	if ev.Stream.Kind != events.Presence {
		return
	}
	f, err := presence.ParseFact(ev.Payload)
	if err != nil {
		r.logger.Error("event is no fact of a device's presence, it changes nothing", "position", ev.Position.String(), "stream", ev.Stream.String(), "error", err)
		return
	}
	r.apply(ev.Stream.ID, f, ev.Position)
}

// apply evolves a device once per fact, whoever comes first with it. The caller
// holds r.mu.
func (r *Roster) apply(device string, f presence.Fact, at events.Position) {
	e := r.devices[device]
	if e == nil {
		e = &entry{}
		r.devices[device] = e
	}
	if at.Seq > e.position.Seq {
		e.Evolve(f)
		e.position = at
	}
}

// await returns when the fold has reached what is now the log's end.
func (r *Roster) await(ctx context.Context) error {
	tail, err := events.Newest(ctx, r.log, events.ControlPartition)
	if err != nil {
		return err
	}
	for {
		r.mu.Lock()
		reached, changed := r.cursor.Position.Seq >= tail.Seq, r.changed
		r.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A decision makes a fact of a device's present state, or none.
type decision func(d *presence.Device, at int64) (presence.Fact, bool)

// append decides on changes of one device and appends what is news together, at
// the expected position.
func (r *Roster) append(ctx context.Context, device string, changes ...change) error {
	var err error
	for range 16 {
		facts, last := r.decide(device, changes)
		if len(facts) == 0 {
			return nil
		}
		evs := make([]events.Event, len(facts))
		for i, f := range facts {
			payload, err := f.Payload()
			if err != nil {
				return err
			}
			evs[i] = events.Event{Stream: events.Stream{Kind: events.Presence, ID: device}, Type: f.Type, ID: events.UniqueID(), Payload: payload}
		}
		var pos events.Position
		if pos, err = r.log.Append(ctx, events.At(last), evs...); err == nil {
			r.mu.Lock()
			pos.Seq -= uint64(len(facts)) // a batch is stored without gaps
			for _, f := range facts {
				pos.Seq++
				r.apply(device, f, pos)
			}
			r.mu.Unlock()
			return nil
		}
		var conflict *events.ConflictError
		if !errors.As(err, &conflict) && !errors.Is(err, events.ErrUnknown) {
			return err
		}
		if aerr := r.await(ctx); aerr != nil {
			return errors.Join(err, aerr)
		}
	}
	return err
}

// decide returns the facts of changes to a device, in their order, and after
// which sequence they are to be appended.
func (r *Roster) decide(device string, changes []change) (facts []presence.Fact, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var d presence.Device
	if e := r.devices[device]; e != nil {
		d, last = e.Clone(), e.position.Seq
	}
	for _, c := range changes {
		if f, news := c.decide(&d, c.at); news {
			d.Evolve(f)
			facts = append(facts, f)
		}
	}
	return facts, last
}
