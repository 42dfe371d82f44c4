package jetlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
	metaPartitions = "tacho-partitions" // numbers of telemetry partitions: when the log was made, after each split
	metaSeam       = "tacho-seam"       // of a partition that a split has made: the one it came from, a dot, the last sequence there
	metaSplit      = "tacho-split"      // of the control stream: what the numbers will be when the split that was begun is done
	metaPurged     = "tacho-purged"     // the newest sequence that was purged
	metaForgotten  = "tacho-forgotten"  // what is missing at the beginning, below this sequence, was forgotten, not purged
	metaRefill     = "tacho-refill"     // of the control stream: what the log is being refilled from
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
			metaPartitions: l.layout.String(),
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
		c.Subjects = telemetrySubjects(l.layout, partition)
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

// telemetrySubjects are those that a partition takes.
func telemetrySubjects(layout events.Layout, partition uint16) (all []string) {
	if layout.Telemetry() == 1 {
		return []string{"in.*.*.*.*"}
	}
	for _, slot := range layout.SlotsOf(partition) {
		all = append(all, "in."+strconv.Itoa(int(slot))+".*.*.*")
	}
	return all
}

// openLayout finds out which partition has which slots. A split that was begun is
// brought to its end, if it leads to the number that is wanted.
func (l *Log) openLayout(ctx context.Context) (events.Layout, error) {
	control, err := l.js.Stream(ctx, controlStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return events.NewLayout(l.cfg.Partitions), nil
	}
	if err != nil {
		return events.Layout{}, fmt.Errorf("open stream %s: %w", controlStream, err)
	}
	meta := control.CachedInfo().Config.Metadata
	if err := l.refilled(meta); err != nil {
		return events.Layout{}, err
	}
	if begun := meta[metaSplit]; begun != "" {
		counts, err := events.ParseCounts(begun)
		if err == nil && counts[len(counts)-1] != l.cfg.Partitions {
			err = fmt.Errorf("it is being split into %d telemetry partitions, which was interrupted (remedy: --partitions %d)", counts[len(counts)-1], counts[len(counts)-1])
		}
		if err == nil {
			_, err = l.split(ctx, control, counts)
		}
		if err != nil {
			return events.Layout{}, err
		}
		meta = map[string]string{metaPartitions: begun}
	}
	layout, err := l.layoutOf(ctx, meta[metaPartitions])
	if err == nil && layout.Telemetry() != l.cfg.Partitions {
		err = fmt.Errorf("it has %d telemetry partitions, not %d (remedy: --partitions %d; tacho split makes more of them)", layout.Telemetry(), l.cfg.Partitions, layout.Telemetry())
	}
	return layout, err
}

// layoutOf reads the seams of a log of such partitions.
func (l *Log) layoutOf(ctx context.Context, text string) (events.Layout, error) {
	counts, err := events.ParseCounts(text)
	if err != nil {
		return events.Layout{}, err
	}
	seams := map[uint16]events.Seam{}
	for p := counts[0]; p < counts[len(counts)-1]; p++ {
		s, err := l.js.Stream(ctx, streamName(uint16(p)))
		if err != nil {
			return events.Layout{}, fmt.Errorf("open stream %s: %w", streamName(uint16(p)), err)
		}
		if seams[uint16(p)], err = parseSeam(s.CachedInfo().Config.Metadata[metaSeam]); err != nil {
			return events.Layout{}, fmt.Errorf("open stream %s: %w", streamName(uint16(p)), err)
		}
	}
	return events.MakeLayout(counts, seams)
}

// refilled refuses a log that is being refilled to everybody but who refills it.
func (l *Log) refilled(control map[string]string) error {
	if from := control[metaRefill]; from != "" && !l.cfg.Refill {
		return fmt.Errorf("the log is being refilled from the archive %s, which was interrupted (remedy: run the import again, it goes on where it was)", from)
	}
	return nil
}

func seamText(s events.Seam) string {
	return strconv.Itoa(int(s.From)) + "." + strconv.FormatUint(s.Seq, 10)
}

func parseSeam(text string) (events.Seam, error) {
	from, seq, _ := strings.Cut(text, ".")
	p, err1 := strconv.ParseUint(from, 10, 16)
	n, err2 := strconv.ParseUint(seq, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return events.Seam{}, fmt.Errorf("metadata %s is %q: %w", metaSeam, text, err)
	}
	return events.Seam{From: uint16(p), Seq: n}, nil
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
		return fail(fmt.Errorf("it was created for %q telemetry partitions, not %q", n, want.Metadata[metaPartitions]))
	}
	v, err := strconv.ParseUint(have.Metadata[metaEpoch], 10, 32)
	if err != nil || v == 0 {
		return fail(fmt.Errorf("metadata %s is %q", metaEpoch, have.Metadata[metaEpoch]))
	}
	if err := l.refilled(have.Metadata); err != nil {
		return fail(err)
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
