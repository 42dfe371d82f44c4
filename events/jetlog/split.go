package jetlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// Split divides the telemetry partitions of a log into cfg.Partitions, a multiple
// of what it has, and returns how many it had. Nothing is moved: the streams that
// are there keep all they hold and take fewer slots from then on, new ones begin
// with the others (events.Layout). It takes as long as making the streams does.
//
// Nobody should write meanwhile. A process that does all the same, and has not heard
// of it, has its events refused (see moved). What interrupts a split is mended by
// calling it again, or by the next Open with that number of partitions; any other
// Open is refused until then.
//
// cfg.Sync is called after each step.
func Split(ctx context.Context, cfg Config) (had int, err error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("split the log: %w", err) }
	if err := cfg.complete(); err != nil {
		return fail(err)
	}
	l := &Log{cfg: cfg}
	if l.js, err = jetstream.New(cfg.Publish); err != nil {
		return fail(err)
	}
	l.reader = l.js
	control, err := l.js.Stream(ctx, controlStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fail(errors.New("there is none yet (remedy: tacho serve makes one of as many partitions as --partitions says)"))
	}
	if err != nil {
		return fail(err)
	}
	meta := control.CachedInfo().Config.Metadata
	if err := l.refilled(meta); err != nil {
		return fail(err)
	}
	counts, err := events.ParseCounts(meta[metaPartitions])
	if err != nil {
		return fail(err)
	}
	had = counts[len(counts)-1]
	switch begun := meta[metaSplit]; {
	case begun != "":
		if counts, err = events.ParseCounts(begun); err == nil && counts[len(counts)-1] != cfg.Partitions {
			err = fmt.Errorf("it is being split into %d, which was interrupted (remedy: --partitions %d)", counts[len(counts)-1], counts[len(counts)-1])
		}
		if err != nil {
			return fail(err)
		}
	case had == cfg.Partitions:
		return had, nil
	default:
		layout, err := numbers(counts).Split(cfg.Partitions, nowhere)
		if err != nil {
			return fail(err)
		}
		counts = layout.Counts()
	}
	if _, err := l.split(ctx, control, counts); err != nil {
		return fail(err)
	}
	return had, nil
}

// Numbers returns how many telemetry partitions a log had when it was made and
// after each split, the one included that is under way; nil when there is no log.
func Numbers(ctx context.Context, cfg Config) ([]int, error) {
	fail := func(err error) ([]int, error) { return nil, fmt.Errorf("look at the log's partitions: %w", err) }
	js, err := jetstream.New(cfg.Publish)
	if err != nil {
		return fail(err)
	}
	control, err := js.Stream(ctx, controlStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	meta := control.CachedInfo().Config.Metadata
	text := meta[metaSplit]
	if text == "" {
		text = meta[metaPartitions]
	}
	counts, err := events.ParseCounts(text)
	if err != nil {
		return fail(err)
	}
	return counts, nil
}

// numbers is a layout for the numbers of its partitions alone: it knows no seams.
func numbers(counts []int) events.Layout {
	layout := events.NewLayout(counts[0])
	for _, n := range counts[1:] {
		layout, _ = layout.Split(n, nowhere) // they were parsed
	}
	return layout
}

func nowhere(uint16) uint64 { return 0 }

// split makes the log one of such numbers of partitions. Each step can be repeated,
// and the next one is begun when it is on the disk:
//
//	write down what is to be; streams take nothing, then fewer slots; new streams; write down what is
//
// A partition takes nothing of the slots that leave it when the new ones begin, so
// its last sequence then is a seam that nothing can cross.
func (l *Log) split(ctx context.Context, control jetstream.Stream, counts []int) (events.Layout, error) {
	layout, chain := numbers(counts), events.CountsText(counts)
	old := counts[len(counts)-2]
	step := func(name string, do func() error) error {
		err := l.cfg.Fault(name)
		if err == nil {
			err = do()
		}
		if err == nil && l.cfg.Sync != nil {
			err = l.cfg.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	err := step("write down what is to be", func() error {
		return l.rewrite(ctx, control, func(c *jetstream.StreamConfig) { c.Metadata[metaSplit] = chain })
	})
	for p := range uint16(old) {
		if err != nil {
			return layout, err
		}
		if err = step("close "+streamName(p), func() error { return l.closeForSplit(ctx, layout, p) }); err == nil {
			err = step("narrow "+streamName(p), func() error { return l.narrow(ctx, layout, chain, p) })
		}
	}
	for p := uint16(old); p < uint16(layout.Telemetry()); p++ {
		if err != nil {
			return layout, err
		}
		err = step("make "+streamName(p), func() error { return l.makePart(ctx, layout, chain, p) })
	}
	if err == nil {
		err = step("write down what is", func() error {
			dead, err := l.js.Stream(ctx, deadLetterStream)
			if err != nil {
				return err
			}
			if err := l.rewrite(ctx, dead, func(c *jetstream.StreamConfig) { c.Metadata[metaPartitions] = chain }); err != nil {
				return err
			}
			return l.rewrite(ctx, control, func(c *jetstream.StreamConfig) {
				c.Metadata[metaPartitions] = chain
				delete(c.Metadata, metaSplit)
			})
		})
	}
	return layout, err
}

// closeForSplit lets the stream of a partition take nothing, unless its subjects are
// among those that it had: the server subscribes to new subjects before it ends old ones,
// and stores a message twice that matches both. Who sends to it has no answer until it is
// narrowed, and sends again (see mend).
func (l *Log) closeForSplit(ctx context.Context, layout events.Layout, p uint16) error {
	s, err := l.js.Stream(ctx, streamName(p))
	if err != nil || slices.Contains(s.CachedInfo().Config.Subjects, telemetrySubjects(layout, p)[0]) {
		return err
	}
	return l.rewrite(ctx, s, func(c *jetstream.StreamConfig) { c.Subjects = []string{"split." + streamName(p)} })
}

// narrow lets the stream of a partition take the slots that it keeps.
func (l *Log) narrow(ctx context.Context, layout events.Layout, chain string, p uint16) error {
	s, err := l.js.Stream(ctx, streamName(p))
	if err != nil {
		return err
	}
	return l.rewrite(ctx, s, func(c *jetstream.StreamConfig) {
		c.Subjects, c.Metadata[metaPartitions] = telemetrySubjects(layout, p), chain
	})
}

// makePart makes the stream of a partition that a split makes, unless it is there.
func (l *Log) makePart(ctx context.Context, layout events.Layout, chain string, p uint16) error {
	if _, err := l.js.Stream(ctx, streamName(p)); err == nil || !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	seam, _ := layout.Seam(p)
	// The server stores what it takes in one after the other: what came before
	// the stream took fewer slots is stored when it refuses this.
	barrier := &nats.Msg{Subject: fillerSubject(seam.From, layout), Header: nats.Header{}}
	barrier.Header.Set(nats.ExpectedStreamHdr, "barrier")
	if _, err := l.cfg.Publish.RequestMsgWithContext(ctx, barrier); err != nil {
		return fmt.Errorf("barrier in %s: %w", streamName(seam.From), err)
	}
	from, err := l.js.Stream(ctx, streamName(seam.From))
	if err != nil {
		return err
	}
	info := from.CachedInfo()
	epoch, err := strconv.ParseUint(info.Config.Metadata[metaEpoch], 10, 32)
	if err != nil {
		return fmt.Errorf("metadata %s of stream %s is %q", metaEpoch, info.Config.Name, info.Config.Metadata[metaEpoch])
	}
	seam.Seq = info.State.LastSeq
	if was, ok := l.cfg.Seams[p]; ok && l.cfg.Refill {
		seam = was
	}
	// As the one it came from, whatever the configuration of this process says.
	c := info.Config
	c.Name, c.Subjects = streamName(p), telemetrySubjects(layout, p)
	c.Metadata = map[string]string{
		metaEpoch: strconv.FormatUint(epoch+1, 10), metaPartitions: chain, metaSeam: seamText(seam),
	}
	_, err = l.js.CreateStream(ctx, c)
	return err
}

// rewrite changes what is written down of a stream.
func (l *Log) rewrite(ctx context.Context, s jetstream.Stream, change func(*jetstream.StreamConfig)) error {
	info, err := s.Info(ctx)
	if err != nil {
		return err
	}
	cfg := info.Config
	change(&cfg)
	_, err = l.js.UpdateStream(ctx, cfg)
	return err
}
