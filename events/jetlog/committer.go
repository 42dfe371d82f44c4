package jetlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/tachograph/tachograph/events"
)

// A committer is the group commit of one telemetry partition.
//
//	Enqueue ─► queue ─► publisher: one batch of all that waits ─► server
//	                                                               │ acknowledges the batch
//	done(nil) ◄─ in order ◄─ finisher: one fsync for all batches acknowledged since the last ◄┘
//
// Nothing waits for a batch to fill: a batch is what came in while the last
// ones were on their way, so a single message pays one round trip and one
// fsync, and a flood shares them.
type committer struct {
	l         *Log
	stream    string
	partition uint16
	send      func(*batch) error // hands a batch to the server
	inbox     string             // fast-ingest replies arrive under it
	sub       *nats.Subscription

	mu       sync.Mutex
	queue    []load // the next batches, oldest first; items come to the last one
	spare    [][]item
	waiting  int           // queued or on their way
	space    chan struct{} // closed and replaced when waiting shrinks
	stopping bool
	moved    *events.Layout    // what the log was split into without this process; nil: it was not
	byID     map[string]*batch // on their way

	largest atomic.Int64 // payload that the server takes, as the last batch found it

	wake  chan struct{}
	order chan *batch // to the finisher, oldest first; its capacity bounds the batches on their way
	ended sync.WaitGroup

	// gate is held by the publisher while it sends, and by the finisher while
	// it finds out what became of a batch: nothing new may be on its way then.
	gate      sync.Mutex
	confirmed uint64 // stream sequence up to which every batch's fate is known
}

type item struct {
	event    events.Event
	done     func(error)
	imported bool   // it keeps its arrival time
	filler   string // a subject to fill a gap on, instead of an event; see Refill
}

func (it *item) appendSubject(b []byte) []byte {
	if it.filler != "" {
		return append(b, it.filler...)
	}
	return it.event.AppendSubject(b)
}

// headers may be nil.
func (it *item) headers() nats.Header {
	if it.filler != "" {
		return nil
	}
	h := headerOf(&it.event)
	if it.imported {
		if h == nil {
			h = nats.Header{}
		}
		h[headerReceived] = []string{it.event.Received.UTC().Format(time.RFC3339Nano)}
	}
	return h
}

// A load is what one batch will have. Its items' memory is used again and again.
type load struct {
	items []item
	bytes int
}

func (w *load) full() bool { return len(w.items) == batchEvents || w.bytes >= batchBytes }

// batch limits: one batch is at most what the server acknowledges in one go
// for atomic batches, and a quarter of its usual buffer in bytes.
const (
	batchEvents    = 1000
	batchBytes     = 4 << 20
	batchesOnWay   = 4
	answerTimeout  = 5 * time.Second
	resolveTimeout = 15 * time.Second // after Close only; before, it takes as long as it takes
)

func startCommitter(l *Log, partition uint16) (*committer, error) {
	c := &committer{
		l: l, stream: streamName(partition), partition: partition,
		inbox: nats.NewInbox(),
		space: make(chan struct{}), wake: make(chan struct{}, 1),
		byID: map[string]*batch{}, order: make(chan *batch, batchesOnWay),
	}
	c.send = c.sendFast
	if l.cfg.Durability == Disk && l.syncs[partition] == nil {
		c.send = c.sendAtomic
	}
	tail, err := l.Tail(context.Background(), partition)
	if err != nil {
		return nil, err
	}
	c.confirmed = tail.Seq
	c.largest.Store(int64(l.maxPayload()))
	if c.sub, err = l.cfg.Publish.Subscribe(c.inbox+".>", c.answer); err != nil {
		return nil, fmt.Errorf("listen for acknowledgements of %s: %w", c.stream, err)
	}
	_ = c.sub.SetPendingLimits(-1, -1) // bounded by the batches on their way
	c.ended.Add(2)
	go c.publish()
	go c.finish()
	return c, nil
}

// Enqueue implements events.Log.
func (l *Log) Enqueue(ctx context.Context, e events.Event, done func(error)) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	if e.Stream.Kind != events.Telemetry || e.Stream.Name != "" {
		return fmt.Errorf("enqueue %s: only telemetry is enqueued, and no replays: %w", e.Stream, events.ErrInvalid)
	}
	c := l.groups[l.layout.Of(e.Stream)]
	if limit := int(c.largest.Load()); len(e.Payload) > limit {
		return fmt.Errorf("enqueue %s: %d bytes, at most %d: %w", e.Stream, len(e.Payload), limit, events.ErrTooLarge)
	}
	return c.enqueue(ctx, item{event: e, done: done})
}

// maxPayload leaves room for the headers in what the server takes.
func (l *Log) maxPayload() int { return int(l.cfg.Publish.MaxPayload()) - 1024 }

func (c *committer) enqueue(ctx context.Context, it item) error {
	for {
		c.mu.Lock()
		if moved := c.moved; moved != nil && moved.Of(it.event.Stream) != c.partition {
			c.mu.Unlock()
			return fmt.Errorf("enqueue %s: %w", it.event.Stream, errMoved(*moved))
		}
		if c.stopping {
			c.mu.Unlock()
			return fmt.Errorf("enqueue %s: %w", it.event.Stream, events.ErrClosed)
		}
		if c.waiting < c.l.cfg.Window {
			c.waiting++
			c.put(it)
			c.mu.Unlock()
			select {
			case c.wake <- struct{}{}:
			default:
			}
			return nil
		}
		space := c.space
		c.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return fmt.Errorf("enqueue %s: the log's window is full: %w", it.event.Stream, ctx.Err())
		}
	}
}

// put queues one item. The caller holds c.mu.
func (c *committer) put(it item) {
	if n := len(c.queue); n == 0 || c.queue[n-1].full() {
		var next load
		if n := len(c.spare); n > 0 {
			next.items, c.spare = c.spare[n-1], c.spare[:n-1]
		}
		c.queue = append(c.queue, next)
	}
	last := &c.queue[len(c.queue)-1]
	last.items = append(last.items, it)
	last.bytes += len(it.event.Payload) + 64
}

// take removes the next batch's items from the queue; nil when it is empty.
func (c *committer) take() (items []item, stopping bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil, c.stopping
	}
	items = c.queue[0].items
	c.queue = slices.Delete(c.queue, 0, 1)
	return items, false
}

// publish sends batches until the committer is stopped and the queue is empty.
func (c *committer) publish() {
	defer c.ended.Done()
	defer close(c.order)
	for {
		items, stopping := c.take()
		if items == nil {
			if stopping {
				return
			}
			<-c.wake
			continue
		}
		c.largest.Store(int64(c.l.maxPayload())) // whose lock is too dear for each event
		b := &batch{id: nuid.Next(), items: items, answered: make(chan struct{})}
		c.gate.Lock()
		c.register(b)
		if err := c.send(b); err != nil {
			b.fail(err)
		}
		c.gate.Unlock()
		c.order <- b
	}
}

func (c *committer) register(b *batch) {
	c.mu.Lock()
	c.byID[b.id] = b
	c.mu.Unlock()
}

func (c *committer) forget(b *batch) {
	c.mu.Lock()
	delete(c.byID, b.id)
	c.mu.Unlock()
}

// finish waits for the oldest batch, takes along every batch that was
// acknowledged meanwhile, syncs once and tells the senders, in order.
func (c *committer) finish() {
	defer c.ended.Done()
	var group []*batch
	next, ok := <-c.order
	for ok {
		b := next
		b.wait()
		group = append(group[:0], b)
	more:
		for {
			select {
			case next, ok = <-c.order:
				if !ok || !next.isAnswered() {
					break more
				}
				group = append(group, next)
			default:
				c.settle(group)
				group = group[:0]
				next, ok = <-c.order
				break more
			}
		}
		c.settle(group)
	}
}

// settle brings every item of the batches to an end.
func (c *committer) settle(group []*batch) {
	if len(group) == 0 {
		return
	}
	for _, b := range group {
		if b.err != nil || b.stored < len(b.items) {
			c.mend(b)
		} else {
			c.confirmed = max(c.confirmed, b.seq)
		}
		c.forget(b)
	}
	err := c.sync()
	n := 0
	for _, b := range group {
		for i := range b.items {
			outcome := err
			if b.outcomes != nil && b.outcomes[i] != nil {
				outcome = b.outcomes[i]
			}
			b.items[i].done(outcome)
		}
		n += len(b.items)
	}
	c.mu.Lock()
	for _, b := range group {
		if clear(b.items); len(c.spare) <= batchesOnWay {
			c.spare = append(c.spare, b.items[:0])
		}
	}
	c.waiting -= n
	close(c.space)
	c.space = make(chan struct{})
	c.mu.Unlock()
}

func (c *committer) sync() error {
	if s := c.l.syncs[c.partition]; s != nil {
		if err := s.sync(); err != nil {
			c.l.cfg.Logger.Error("sync failed; nothing is acknowledged", "stream", c.stream, "error", err)
			return fmt.Errorf("%w: %w", events.ErrUnknown, err)
		}
	}
	return nil
}

func (c *committer) stop() error {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.ended.Wait()
	if err := c.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("close %s: %w", c.stream, err)
	}
	return nil
}
