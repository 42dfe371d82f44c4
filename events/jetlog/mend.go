package jetlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// mend brings a batch to an end that the server did not take whole: what is
// missing is sent again, what the server refuses is refused to its sender, and
// what nobody knows is first looked for in the stream's tail (DESIGN D3).
// Sent again, an event may come behind younger ones of its device; each has
// its own time, so no fold depends on that.
func (c *committer) mend(b *batch) {
	c.gate.Lock()
	defer c.gate.Unlock()
	b.outcomes = make([]error, len(b.items))
	missing := make([]int, 0, len(b.items)-b.stored)
	for i := b.stored; i < len(b.items); i++ {
		missing = append(missing, i)
	}
	err := b.err
	var giveUp <-chan time.Time
	for attempt := 0; len(missing) > 0; attempt++ {
		time.Sleep(min(time.Duration(attempt)*50*time.Millisecond, 2*time.Second))
		alone := false
		if c.isStopping() && giveUp == nil {
			giveUp = time.After(resolveTimeout)
		}
		select {
		case <-giveUp:
			for _, i := range missing {
				b.outcomes[i] = errors.Join(events.ErrUnknown, err)
			}
			return
		default:
		}
		switch {
		case errors.Is(err, events.ErrFull) || errors.Is(err, events.ErrTooLarge) && len(missing) == 1:
			for _, i := range missing {
				b.outcomes[i] = err
			}
			return
		case errors.Is(err, events.ErrUnknown):
			if !errors.Is(err, errOfMany) { // a refusal, which its sender hears of
				c.l.cfg.Logger.Warn("outcome of an append is unknown; looking for it in the log", "stream", c.stream, "events", len(missing), "error", err)
			}
			still, lookErr := c.lookFor(b, missing)
			if lookErr != nil {
				err = fmt.Errorf("%w: %w", events.ErrUnknown, lookErr)
				continue
			}
			missing = c.refuseMoved(b, still)
			alone = errors.Is(err, errOfMany)
		case attempt > 0 || errors.Is(err, errTorn): // alone it may be refused for a reason of its own
			before := len(missing)
			missing = c.refuseMoved(b, missing)
			alone = errors.Is(err, errTorn) && len(missing) == before
		}
		missing, err = c.sendAgain(b, missing, attempt, alone)
	}
}

func (c *committer) isStopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// sendAgain sends what is missing, or of it only the first, as a batch of its own
// and returns what is still missing. A first event that is refused twice is refused
// to its sender, so that it can't hold up the others.
//
// It does not move c.confirmed: the part comes behind what younger batches have stored.
func (c *committer) sendAgain(b *batch, missing []int, attempt int, alone bool) ([]int, error) {
	if len(missing) == 0 {
		return nil, nil
	}
	part := &batch{id: b.id + "r" + strconv.Itoa(attempt), answered: make(chan struct{})}
	sent := missing
	if alone {
		sent = missing[:1]
	}
	for _, i := range sent {
		part.items = append(part.items, b.items[i])
	}
	c.register(part)
	defer c.forget(part)
	if err := c.send(part); err != nil {
		part.fail(err)
	}
	part.wait()
	if part.err == nil {
		return missing[len(sent):], nil
	}
	rest := missing[part.stored:]
	torn := len(sent) > 1 && errors.Is(part.err, errTorn)
	if part.stored == 0 && !torn && !errors.Is(part.err, events.ErrUnknown) && !errors.Is(part.err, events.ErrFull) {
		b.outcomes[rest[0]] = part.err
		return rest[1:], nil
	}
	return rest, part.err
}

// refuseMoved refuses to their senders those of the missing items that the log takes
// elsewhere since it was split by somebody else: they are not in it, and no stream
// takes them from this process, which must be started anew. It returns the others.
func (c *committer) refuseMoved(b *batch, missing []int) []int {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	s, err := c.l.js.Stream(ctx, c.stream)
	if err != nil {
		return missing // the next attempt finds out
	}
	chain := s.CachedInfo().Config.Metadata[metaPartitions]
	counts, err := events.ParseCounts(chain)
	if err != nil || chain == c.l.layout.String() {
		return missing
	}
	now := numbers(counts)
	c.mu.Lock()
	if c.moved == nil {
		c.l.cfg.Logger.Error("the log was split; messages of devices that moved are refused until this process is started anew", "stream", c.stream, "partitions", now.Telemetry())
	}
	c.moved = &now
	c.mu.Unlock()
	rest := missing[:0:0]
	for _, i := range missing {
		if now.Of(b.items[i].event.Stream) != c.partition {
			b.outcomes[i] = errMoved(now)
			continue
		}
		rest = append(rest, i)
	}
	return rest
}

func errMoved(now events.Layout) error {
	return fmt.Errorf("the log was split into %d telemetry partitions (remedy: start this process anew with --partitions %d): %w", now.Telemetry(), now.Telemetry(), events.ErrClosed)
}

// lookFor returns which of the missing items are not in the stream. It waits
// until the server answers, so that nothing that was sent before is still on
// its way: the barrier is an append that the server must refuse, and it takes
// the appends of a stream in the order in which they reached it.
func (c *committer) lookFor(b *batch, missing []int) ([]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	if err := c.l.cfg.Publish.FlushWithContext(ctx); err != nil {
		return nil, fmt.Errorf("reach the server: %w", err)
	}
	barrier := &nats.Msg{Subject: fillerSubject(c.partition, c.l.layout), Header: nats.Header{}}
	barrier.Header.Set(nats.ExpectedStreamHdr, "barrier")
	if _, err := c.l.cfg.Publish.RequestMsgWithContext(ctx, barrier); err != nil {
		return nil, fmt.Errorf("barrier: %w", err)
	}
	bounds, err := c.l.Bounds(ctx, c.partition)
	if err != nil {
		return nil, err
	}
	there := map[string]int{}
	if bounds.Newest.Seq > c.confirmed {
		for e, err := range c.l.scan(ctx, c.partition, c.confirmed+1, nil, pullMessages, nil) {
			if err != nil {
				return nil, err
			}
			there[e.Stream.ID+"\x00"+e.ID]++
			if e.Position.Seq >= bounds.Newest.Seq {
				break
			}
		}
	}
	still := missing[:0:0]
	for _, i := range missing {
		key := b.items[i].event.Stream.ID + "\x00" + b.items[i].event.ID
		if there[key] > 0 {
			there[key]--
			continue
		}
		still = append(still, i)
	}
	return still, nil
}
