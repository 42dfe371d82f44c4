package shadows

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// A Config says what the shadows stand on. Log is required.
type Config struct {
	Log    events.Log
	Limits Limits
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now

	// Connected tells whether the device has a connection, to whichever process;
	// nil: only those of this process are known.
	Connected func(device string) bool
	Metrics   prometheus.Registerer
}

// Limits bound what a stranger can ask for. Zero fields stand for the defaults.
type Limits struct {
	Document       shadow.Limits
	DeviceInFlight int // requests of a device to one shadow that wait; 10, as at AWS
	InFlight       int // requests of all to one shadow that wait; 200
	NamesPerDevice int // named shadows of one device; 100
}

func (l *Limits) complete() {
	for _, d := range []struct{ field, otherwise *int }{
		{&l.DeviceInFlight, ptr(10)}, {&l.InFlight, ptr(200)}, {&l.NamesPerDevice, ptr(100)}, {&l.Document.Name, ptr(64)},
	} {
		if *d.field == 0 {
			*d.field = *d.otherwise
		}
	}
}

func ptr(n int) *int { return &n }

// Shadows are those of a whole fleet, in memory, as of the log's end. All
// methods may be called from several goroutines.
type Shadows struct {
	log    events.Log
	limits Limits
	logger *slog.Logger
	now    func() time.Time
	out    Outlet // nil: this process has no devices
	owed   owed

	past atomic.Pointer[events.Log] // see Past

	connected func(device string) bool // may be nil
	requests  *prometheus.CounterVec

	mu      sync.RWMutex
	devices map[string]map[string]*entry // by device and name; "" is the classic shadow
	cursor  events.Cursor
	waiting bool
	changed chan struct{} // closed and replaced when the cursor moved and somebody waits
	view    *view         // nil: another process writes it
}

// An entry is one shadow. It stays when its shadow is deleted: the version
// lives on.
type entry struct {
	device, name string

	mu       sync.Mutex
	doc      shadow.Document
	position events.Position // of the newest fact; Seq is 0 before the first
	pending  int64           // since when the device is not as desired, epoch milliseconds; 0: it is
	rejected *Rejection      // of the device's own requests, the last since it is pending
	queue    []*ask
	fromDev  int // those in the queue that a device asked for
	working  bool
	dropped  bool            // it is not among the shadows any more: all that was asked of it was refused
	appended []string        // ids of what is being appended
	met      events.Position // where the fold has met the last of them
	marks    marks           // of the fold
}

// Open returns the shadows as of the log's present end.
func Open(ctx context.Context, c Config) (*Shadows, error) {
	s := unfolded(c)
	tail, err := events.Newest(ctx, s.log, events.ControlPartition)
	if err == nil {
		err = s.foldTo(ctx, tail.Seq)
	}
	if err != nil {
		return nil, fmt.Errorf("open shadows: %w", err)
	}
	return s, nil
}

// Past gives the shadows the log's whole history, in which those of their changes are
// looked up that the log was compacted of.
func (s *Shadows) Past(log events.Log) { s.past.Store(&log) }

// whole is the log as far back as this process can look.
func (s *Shadows) whole() events.Log {
	if past := s.past.Load(); past != nil {
		return *past
	}
	return s.log
}

// unfolded returns the shadows as of the log's beginning.
func unfolded(c Config) *Shadows {
	c.Limits.complete()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Shadows{
		log: c.Log, limits: c.Limits, logger: c.Logger, now: c.Now,
		devices: map[string]map[string]*entry{}, changed: make(chan struct{}), connected: c.Connected, requests: newMetrics(c.Metrics),
	}
	s.owed.devices = map[string]bool{}
	return s
}

// Limits are those of a document.
func (s *Shadows) Limits() shadow.Limits { return s.limits.Document }

// Get returns a shadow's document; one that was never made has Exists false.
func (s *Shadows) Get(device, name string) (shadow.Document, events.Position) {
	e := s.find(device, name)
	if e == nil {
		return shadow.Document{Name: name}, events.Position{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doc, e.position
}

// Names returns up to limit names of a device's named shadows that come after
// the given one, in order. The classic shadow has no name and is not among them.
func (s *Shadows) Names(device, after string, limit int) (names []string) {
	for _, e := range s.of(device) {
		if e.name > after && e.exists() {
			names = append(names, e.name)
		}
	}
	slices.Sort(names)
	return names[:min(limit, len(names))]
}

func (e *entry) exists() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doc.Exists
}

func (s *Shadows) find(device, name string) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.devices[device][name]
}

// of returns all shadows of a device.
func (s *Shadows) of(device string) []*entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*entry, 0, len(s.devices[device]))
	for _, e := range s.devices[device] {
		all = append(all, e)
	}
	return all
}

// all returns every shadow.
func (s *Shadows) all() (all []*entry) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, names := range s.devices {
		for _, e := range names {
			all = append(all, e)
		}
	}
	return all
}

// hold returns the entry of a shadow, a new one if there is none yet, locked.
func (s *Shadows) hold(device, name string) *entry {
	for {
		e := s.make(device, name)
		if e.mu.Lock(); !e.dropped {
			return e
		}
		e.mu.Unlock()
	}
}

// drop forgets an entry whose shadow never was. The caller holds e.mu.
func (s *Shadows) drop(e *entry) {
	e.dropped = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if names := s.devices[e.device]; names[e.name] == e {
		if delete(names, e.name); len(names) == 0 {
			delete(s.devices, e.device)
		}
	}
}

// make returns the entry of a shadow, a new one if there is none yet.
func (s *Shadows) make(device, name string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.devices[device][name]
	if e == nil {
		e = &entry{device: device, name: name, doc: shadow.Document{Name: name}}
		if s.devices[device] == nil {
			s.devices[device] = map[string]*entry{}
		}
		s.devices[device][name] = e
	}
	return e
}
