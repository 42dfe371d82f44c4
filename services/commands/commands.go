package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// What a caller can act on, beside the errors of package command.
var (
	ErrNoDevice = errors.New("no such device")
	ErrTooMany  = errors.New("device has too many open commands") // cancel some, or wait for their deadlines
	ErrTooLong  = errors.New("command has too many steps")        // only its end is recorded
)

// A Config says what the commands stand on. Log is required.
type Config struct {
	Log       events.Log
	Known     func(device string) bool // whether there is such a device; nil: any
	Elsewhere func(device string) bool // whether another process has a connection of it; nil: none has
	Limits    Limits
	Logger    *slog.Logger
	Metrics   prometheus.Registerer
	Now       func() time.Time // nil: time.Now
}

// Limits bound what commands may cost. A zero field is its default.
type Limits struct {
	Open     int           // commands of one device without a final state; 1,000
	InFlight int           // commands of one device, sent and not acknowledged; 8
	Attempt  time.Duration // how long an acknowledgement is waited for; 10 s
	Attempts int           // on one connection, before it is ended for not acknowledging; 2
	Horizon  time.Duration // how far ahead a deadline may lie; 30 days
	Steps    int           // of one command; beyond them only its end is recorded; 1,000
	Bytes    int           // of parameters, and of a device's answer; 64 KiB
	Kept     int           // commands of the whole fleet that are kept in memory after their end; 20,000
}

func (l *Limits) complete() {
	or(&l.Open, 1000)
	or(&l.InFlight, 8)
	or(&l.Attempt, 10*time.Second)
	or(&l.Attempts, 2)
	or(&l.Horizon, 30*24*time.Hour)
	or(&l.Steps, 1000)
	or(&l.Bytes, 64<<10)
	or(&l.Kept, 20_000)
}

func or[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// Commands are those of a whole fleet. All methods may be called from several
// goroutines.
type Commands struct {
	log       events.Log
	known     func(string) bool
	elsewhere func(string) bool
	limits    Limits
	logger    *slog.Logger
	clock     clock
	metrics   *metrics
	out       Outlet                     // nil: this process has no devices
	past      atomic.Pointer[events.Log] // see Past

	stopping chan struct{} // closed when Run ends
	stop     sync.Once
	work     crew

	mu       sync.Mutex
	entries  map[key]*entry
	devices  map[string]*device // those with open commands
	ended    []*entry           // kept after their end, oldest first
	watchers map[key]*watcher
	timers   timers
	rearm    chan struct{} // the first timer is another
	cursor   events.Cursor
}

// A key names a command: ids are a device's own.
type key struct{ device, id string }

func (k key) stream() events.Stream {
	return events.Stream{Kind: events.Command, ID: k.device, Name: k.id}
}

// An entry is one command in memory, guarded by Commands.mu.
type entry struct {
	key
	c      command.Command
	at     events.Position // of its newest fact that is folded
	seen   uint64          // sequence of the newest that the fold has met while the entry was not loaded
	loaded bool

	queue   []*task // decisions to come
	working bool

	flying  bool  // written by this process, and not yet acknowledged
	tries   int   // on this connection
	sentAt  int64 // when it was last sent, epoch milliseconds
	again   int64 // not sent again before, epoch milliseconds
	wake    int64 // when its timer is due, 0 without
	slot    int   // of its timer
	counted bool  // among those of its device
	kept    bool  // among those kept after their end
}

// A device is one with open commands.
type device struct {
	id       string
	open     map[*entry]bool
	flying   int
	pumping  bool // a goroutine looks for what can be sent
	pumpMore bool // and is to look again
}

// Open returns the commands as of the log's present end.
func Open(ctx context.Context, c Config) (*Commands, error) {
	c.Limits.complete()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Commands{
		log: c.Log, known: c.Known, elsewhere: c.Elsewhere, limits: c.Limits, logger: c.Logger, metrics: newMetrics(c.Metrics),
		stopping: make(chan struct{}), entries: map[key]*entry{}, devices: map[string]*device{}, watchers: map[key]*watcher{},
		rearm: make(chan struct{}, 1),
	}
	if s.clock.now = c.Now; c.Now == nil {
		s.clock.now = time.Now
	}
	s.clock.start = s.clock.now()
	tail, err := events.Newest(ctx, s.log, events.ControlPartition)
	if err == nil && tail.Seq > 0 {
		err = s.foldTo(ctx, tail.Seq)
	}
	if err != nil {
		return nil, fmt.Errorf("open commands: %w", err)
	}
	return s, nil
}

// Past gives the commands the log's whole history, in which those are looked up that
// had ended when it was compacted.
func (s *Commands) Past(log events.Log) { s.past.Store(&log) }

// Now is the time by which deadlines pass. It never goes back, so a deadline that
// is some time ahead is counted from it: by a wall clock that was set back it
// would be in the past.
func (s *Commands) Now() time.Time { return time.UnixMilli(s.clock.ms()) }

// spawn runs f in a goroutine that Run waits for.
func (s *Commands) spawn(f func()) { s.work.spawn(f) }

// A crew is goroutines at work. Unlike those of a sync.WaitGroup more may begin
// while somebody waits.
type crew struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when nobody is at work; nil: nobody waits
}

func (c *crew) spawn(f func()) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	go func() {
		defer c.leave()
		f()
	}()
}

func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// wait returns when nobody is at work. Only one may wait.
func (c *crew) wait() {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	<-idle
}

// A clock never goes back: what was past a deadline stays past it when the
// wall clock is set back.
type clock struct {
	now   func() time.Time
	start time.Time
	last  atomic.Int64
}

// ms returns the time in epoch milliseconds: the wall clock's, or what has
// passed since the start where that is more.
func (c *clock) ms() int64 {
	now := c.now()
	ms := max(now.UnixMilli(), c.start.UnixMilli()+now.Sub(c.start).Milliseconds())
	for {
		last := c.last.Load()
		if ms <= last {
			return last
		}
		if c.last.CompareAndSwap(last, ms) {
			return ms
		}
	}
}
