package forgotten

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A Request is one that data be forgotten, and what became of it.
type Request struct {
	ID     string `json:"id"`
	Device string `json:"device"`
	Asked
	Began    *Began          `json:"began,omitempty"` // nil: not yet
	Done     *Done           `json:"done,omitempty"`  // nil: not yet
	Position events.Position `json:"-"`               // of the fact that asked
	last     uint64
}

// Covers tells whether an event that arrived at a time is to be forgotten.
func (r *Request) Covers(received time.Time) bool {
	return received.Before(r.To) && (r.From.IsZero() || !received.Before(r.From))
}

// Last is the sequence of the request's newest fact.
func (r *Request) Last() uint64 { return r.last }

// A Ledger holds all requests. Its methods may be called from several
// goroutines.
type Ledger struct {
	mu       sync.Mutex
	devices  map[string][]*Request // in the order of the log
	cursor   events.Cursor
	changed  chan struct{} // closed and replaced with each fact
	unusable uint64
}

// New returns an empty ledger.
func New() *Ledger { return &Ledger{devices: map[string][]*Request{}, changed: make(chan struct{})} }

// Open returns the ledger as of the log's present end.
func Open(ctx context.Context, log events.Log) (*Ledger, error) {
	l := New()
	tail, err := events.Newest(ctx, log, events.ControlPartition)
	if err != nil {
		return nil, fmt.Errorf("open ledger of what was forgotten: %w", err)
	}
	if tail.Seq == 0 {
		return l, nil
	}
	for e, err := range events.Facts(ctx, log, events.Cursor{}) {
		if err != nil {
			return nil, fmt.Errorf("open ledger of what was forgotten: %w", err)
		}
		l.Fold(e)
		if e.Position.Seq >= tail.Seq {
			return l, nil
		}
	}
	return nil, fmt.Errorf("open ledger of what was forgotten: %w", ctx.Err())
}

// Run keeps the ledger in step with the log until ctx ends (nil).
func (l *Ledger) Run(ctx context.Context, log events.Log) error {
	l.mu.Lock()
	after := l.cursor
	l.mu.Unlock()
	for e, err := range events.Facts(ctx, log, after) {
		if err != nil {
			return fmt.Errorf("follow what is to be forgotten: %w", err)
		}
		l.Fold(e)
	}
	return nil
}

// Fold takes one event of the control partition, each in its turn.
func (l *Ledger) Fold(e events.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Position.Seq <= l.cursor.Position.Seq {
		return
	}
	l.cursor = events.Cursor{Position: e.Position, ID: e.ID}
	if e.Stream.Kind != events.Forgotten {
		return
	}
	if err := l.evolve(e); err != nil {
		l.unusable++
		return
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Ledger) evolve(e events.Event) error {
	r := l.find(e.Stream.ID, e.Stream.Name)
	switch {
	case e.Type == TypeAsked && r == nil:
		r = &Request{ID: e.Stream.Name, Device: e.Stream.ID, Position: e.Position, last: e.Position.Seq}
		if err := json.Unmarshal(e.Payload, &r.Asked); err != nil {
			return err
		}
		l.devices[r.Device] = append(l.devices[r.Device], r)
	case e.Type == TypeBegan && r != nil, e.Type == TypeDone && r != nil:
		next := *r // those who hold the old one keep it as it was
		next.last = e.Position.Seq
		var fact any
		if e.Type == TypeBegan {
			next.Began = &Began{}
			fact = next.Began
		} else {
			next.Done = &Done{}
			fact = next.Done
		}
		if err := json.Unmarshal(e.Payload, fact); err != nil {
			return err
		}
		all := l.devices[r.Device]
		all[slices.Index(all, r)] = &next
	default:
		return fmt.Errorf("fact %s of forgetting %s: out of its order", e.Type, e.Stream.ID)
	}
	return nil
}

// find needs the lock.
func (l *Ledger) find(device, id string) *Request {
	for _, r := range l.devices[device] {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// Covers tells whether an event of a device that arrived at a time was, or is
// to be, forgotten: it must not be brought back, and is no loss.
func (l *Ledger) Covers(device string, received time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.devices[device], func(r *Request) bool { return r.Covers(received) })
}

// Get returns a request; false when there is none.
func (l *Ledger) Get(id string) (Request, bool) {
	for _, r := range l.All() {
		if r.ID == id {
			return r, true
		}
	}
	return Request{}, false
}

// Await returns a request once it is in the ledger. The error is that of ctx.
func (l *Ledger) Await(ctx context.Context, id string) (Request, error) {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if r, ok := l.Get(id); ok {
			return r, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Request{}, fmt.Errorf("await request %s in the ledger of what was forgotten: %w", id, ctx.Err())
		}
	}
}

// All returns the requests, the oldest first.
func (l *Ledger) All() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []Request{}
	for _, device := range l.devices {
		for _, r := range device {
			all = append(all, *r)
		}
	}
	slices.SortFunc(all, func(a, b Request) int { return cmp.Compare(a.Position.Seq, b.Position.Seq) })
	return all
}

// Open returns those that are not done, the oldest first, and a channel that is
// closed with the next fact.
func (l *Ledger) Open() (open []Request, changed <-chan struct{}) {
	l.mu.Lock()
	changed = l.changed
	l.mu.Unlock()
	for _, r := range l.All() {
		if r.Done == nil {
			open = append(open, r)
		}
	}
	return open, changed
}
