package jetlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// The streams' names are part of the layout (DESIGN.md, "Subjects").
const (
	controlStream    = "CONTROL"
	deadLetterStream = "DEAD_LETTERS"
)

func streamName(partition uint16) string {
	switch partition {
	case events.ControlPartition:
		return controlStream
	case events.DeadLetterPartition:
		return deadLetterStream
	default:
		return "TELEMETRY_" + strconv.Itoa(int(partition))
	}
}

// What a stream's metadata says of the layout it was created with.
const (
	metaEpoch      = "tacho-epoch"
	metaPartitions = "tacho-partitions"
	metaPurged     = "tacho-purged"    // the newest sequence that was purged
	metaForgotten  = "tacho-forgotten" // what is missing at the beginning, below this sequence, was forgotten, not purged
	metaRefill     = "tacho-refill"    // of the control stream: what the log is being refilled from
)

func (l *Log) streamConfig(partition uint16) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:               streamName(partition),
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew, // a full log refuses; it never forgets by itself
		MaxBytes:           l.cfg.MaxBytes,
		Replicas:           l.cfg.Replicas,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		AllowBatchPublish:  true,
		Metadata: map[string]string{
			metaEpoch:      "1",
			metaPartitions: strconv.Itoa(l.cfg.Partitions),
		},
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = -1
	}
	switch partition {
	case events.ControlPartition:
		c.Subjects = []string{"fact.>", "secret.>"}
		c.RePublish = &jetstream.RePublish{Source: "fact.*.*.>", Destination: "tacho.{{wildcard(2)}}.>"}
	case events.DeadLetterPartition:
		c.Subjects = []string{"dead.>"}
		c.RePublish = &jetstream.RePublish{Source: "dead.*.*.*.*", Destination: "tacho.dead.{{wildcard(2)}}.{{wildcard(3)}}"}
	default:
		if l.cfg.Partitions == 1 {
			c.Subjects = []string{"in.*.*.*.*"}
		} else {
			for slot := range events.Slots {
				if events.PartitionOf(uint8(slot), l.cfg.Partitions) == partition {
					c.Subjects = append(c.Subjects, "in."+strconv.Itoa(slot)+".*.*.*")
				}
			}
		}
		if l.cfg.Interest == nil {
			c.RePublish = &jetstream.RePublish{Source: "in.*.*.*.*", Destination: "tacho.telemetry.{{wildcard(2)}}.{{wildcard(3)}}"}
		}
		if l.cfg.Durability == Fast {
			c.PersistMode = jetstream.AsyncPersistMode
			c.AllowAtomicPublish = false
		}
	}
	return c
}

// openStream finds or creates a partition's stream and reads its epoch.
func (l *Log) openStream(ctx context.Context, partition uint16) (epoch uint32, err error) {
	want := l.streamConfig(partition)
	fail := func(err error) (uint32, error) { return 0, fmt.Errorf("open stream %s: %w", want.Name, err) }
	s, err := l.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = l.js.CreateStream(ctx, want)
	}
	if err != nil {
		return fail(err)
	}
	have := s.CachedInfo().Config
	if n := have.Metadata[metaPartitions]; n != want.Metadata[metaPartitions] {
		return fail(fmt.Errorf("it was created for %q telemetry partitions, not %d; the number is fixed", n, l.cfg.Partitions))
	}
	v, err := strconv.ParseUint(have.Metadata[metaEpoch], 10, 32)
	if err != nil || v == 0 {
		return fail(fmt.Errorf("metadata %s is %q", metaEpoch, have.Metadata[metaEpoch]))
	}
	if from := have.Metadata[metaRefill]; from != "" && !l.cfg.Refill {
		return fail(fmt.Errorf("the log is being refilled from the archive %s, which was interrupted (remedy: run the import again, it goes on where it was)", from))
	}
	if have.PersistMode != want.PersistMode {
		l.cfg.Logger.Warn("persist mode is fixed when a stream is created; the stream keeps its own",
			"stream", want.Name, "durability", l.cfg.Durability.String())
	}
	if (have.RePublish == nil) != (want.RePublish == nil) { // the log was moved into, or out of, an embedded server
		have.RePublish = want.RePublish
		if _, err := l.js.UpdateStream(ctx, have); err != nil {
			return fail(err)
		}
	}
	return uint32(v), nil
}
