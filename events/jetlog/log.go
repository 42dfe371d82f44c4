package jetlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// Log is an events.Log in JetStream.
type Log struct {
	cfg    Config
	js     jetstream.JetStream // over cfg.Publish
	reader jetstream.JetStream // over cfg.Read
	layout events.Layout
	epochs map[uint16]uint32
	syncs  map[uint16]*blockFiles // Disk on this host only
	groups []*committer           // one per telemetry partition

	beginnings sync.Mutex // held while what is said of a stream's beginning changes

	basing sync.Mutex
	base   pointer   // to the present base
	looked time.Time // when that was asked
	known  []known   // bases, oldest first: the newest that this process has known for Config.Settle, and those after it

	closing sync.Once
	closed  chan struct{}
	err     error
}

var _ events.Log = (*Log)(nil)

// Open opens the log and creates what is missing of its streams.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &Log{cfg: cfg, epochs: map[uint16]uint32{}, syncs: map[uint16]*blockFiles{}, closed: make(chan struct{})}
	var err error
	if l.js, err = jetstream.New(cfg.Publish); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if l.reader, err = jetstream.New(cfg.Read); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if l.layout, err = l.openLayout(ctx); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	for _, p := range l.Partitions() {
		if l.epochs[p], err = l.openStream(ctx, p); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		if cfg.Durability == Disk && cfg.StoreDir != "" {
			if l.syncs[p], err = openBlockFiles(cfg, streamName(p)); err != nil {
				return nil, fmt.Errorf("open log: %w", err)
			}
		}
	}
	for p := range uint16(l.layout.Telemetry()) {
		c, err := startCommitter(l, p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open log: %w", err), l.Close())
		}
		l.groups = append(l.groups, c)
	}
	return l, nil
}

// Partitions implements events.Log.
func (l *Log) Partitions() []uint16 { return l.layout.Partitions() }

// Layout implements events.Log.
func (l *Log) Layout() events.Layout { return l.layout }

// Durability returns what acknowledged events survive, and whether that is
// known: Disk on a server elsewhere depends on its sync_interval, which a
// client cannot see.
func (l *Log) Durability() (d Durability, known bool) {
	return l.cfg.Durability, l.cfg.Durability != Disk || l.cfg.StoreDir != ""
}

// Syncs returns how many fsyncs of block files the log has made so far.
func (l *Log) Syncs() uint64 {
	var n uint64
	for _, s := range l.syncs {
		n += s.count.Load()
	}
	return n
}

// Tail implements events.Log.
func (l *Log) Tail(ctx context.Context, partition uint16) (events.Position, error) {
	s, err := l.reader.Stream(ctx, streamName(partition))
	if err != nil {
		return events.Position{}, fmt.Errorf("tail of partition %d: %w", partition, err)
	}
	return events.Position{Epoch: l.epochs[partition], Partition: partition, Seq: s.CachedInfo().State.LastSeq}, nil
}

// Close implements events.Log. The connections stay open: they are the caller's.
func (l *Log) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		for _, c := range l.groups {
			l.err = errors.Join(l.err, c.stop())
		}
		for _, s := range l.syncs {
			l.err = errors.Join(l.err, s.close())
		}
	})
	return l.err
}
