package jetlog

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Interest tells who listens to public subjects, which only a server in this
// process can.
type Interest interface {
	Any() bool              // does anybody listen to any subject of telemetry
	In(subject string) bool // does anybody listen to this one
}

// How often it is asked whether somebody listens, and for how long nobody must
// before the reader ends.
const (
	interestPause    = 100 * time.Millisecond
	interestPatience = 5 * time.Second
)

// rememberedSubjects is how many subjects' last sequences are kept.
const rememberedSubjects = 1 << 16

// Announce publishes telemetry on its public subjects while somebody listens,
// until ctx ends; without Config.Interest the server does it (RePublish), and
// Announce has nothing to do. Who subscribes hears every event that is stored
// afterwards, and possibly some that were stored within the moment before.
func (l *Log) Announce(ctx context.Context) {
	if l.cfg.Interest == nil {
		return
	}
	var all sync.WaitGroup
	for p := range uint16(l.layout.Telemetry()) {
		a := &announcer{Log: l, partition: p, last: map[string]uint64{}}
		all.Go(func() { a.run(ctx) })
	}
	all.Wait()
}

// An announcer serves one partition.
type announcer struct {
	*Log
	partition uint16
	from      uint64            // sequence of the last event that was announced, or that nobody listened to
	last      map[string]uint64 // by subject: sequence of its last event, while somebody listens
}

func (a *announcer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for started := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(interestPause)
		// The end of the log is looked up first: whoever begins to listen after
		// that hears all that is beyond it.
		tail, err := a.Tail(ctx, a.partition)
		if err != nil {
			continue // the next round finds out
		}
		listened := a.cfg.Interest.Any()
		if !listened || !started {
			a.from, started = tail.Seq, true
		}
		if listened {
			if err := a.announce(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Logger.Warn("events are not announced; trying again", "partition", a.partition, "error", err)
			}
		}
	}
}

// announce publishes events until nobody listens any more.
func (a *announcer) announce(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go a.watch(ctx, stop)
	clear(a.last)
	for msg, err := range a.deliver(ctx, a.partition, a.from+1, nil, pullMessages) {
		if err != nil {
			return err
		}
		seq, _, at, err := metadata(msg.Reply())
		if err != nil {
			return err
		}
		if subject := publicSubject(msg.Subject()); subject != "" && a.cfg.Interest.In(subject) {
			if err := a.publish(ctx, subject, msg, seq, at); err != nil {
				return err
			}
		} else if _, known := a.last[msg.Subject()]; known {
			a.last[msg.Subject()] = seq
		}
		a.from = seq
	}
	return nil
}

// watch ends the reader once nobody has listened for a while.
func (a *announcer) watch(ctx context.Context, stop func()) {
	t := time.NewTicker(interestPatience / 5)
	defer t.Stop()
	for alone := 0; alone < 5; alone++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if a.cfg.Interest.Any() {
			alone = -1
		}
	}
	stop()
}

// publish sends what RePublish would: the message, and where it stands.
func (a *announcer) publish(ctx context.Context, subject string, msg jetstream.Msg, seq uint64, at time.Time) error {
	last, known := a.last[msg.Subject()]
	if !known {
		var err error
		if last, err = a.lastBefore(ctx, msg.Subject(), seq); err != nil {
			return err
		}
		if len(a.last) >= rememberedSubjects {
			clear(a.last)
		}
	}
	a.last[msg.Subject()] = seq
	h := nats.Header{
		"Nats-Stream":        []string{streamName(a.partition)},
		"Nats-Subject":       []string{msg.Subject()},
		"Nats-Sequence":      []string{strconv.FormatUint(seq, 10)},
		"Nats-Last-Sequence": []string{strconv.FormatUint(last, 10)},
		"Nats-Time-Stamp":    []string{at.Format(time.RFC3339Nano)},
	}
	for name, values := range msg.Headers() {
		h[name] = values
	}
	return a.cfg.Publish.PublishMsg(&nats.Msg{Subject: subject, Header: h, Data: msg.Data()})
}

// lastBefore looks up the event that precedes another on its subject (JetStream
// ADR-31, direct get with multi_last); 0 when there is none.
func (a *announcer) lastBefore(ctx context.Context, subject string, seq uint64) (uint64, error) {
	if seq <= 1 {
		return 0, nil
	}
	request, err := json.Marshal(map[string]any{"multi_last": []string{subject}, "up_to_seq": seq - 1})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := a.cfg.Read.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+streamName(a.partition), request)
	if err != nil {
		return 0, fmt.Errorf("look up the event before %d on %s: %w", seq, subject, err)
	}
	if reply.Header.Get("Status") != "" {
		return 0, nil // no such message
	}
	last, err := strconv.ParseUint(reply.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("look up the event before %d on %s: %w", seq, subject, err)
	}
	return last, nil
}

// publicSubject makes tacho.telemetry.<device>.<type> of
// in.<slot>.<device>.<type>.<schema>; "" of anything else.
func publicSubject(subject string) string {
	rest, ok := strings.CutPrefix(subject, "in.")
	if !ok {
		return ""
	}
	_, rest, ok = strings.Cut(rest, ".")
	end := strings.LastIndexByte(rest, '.')
	if !ok || end < 0 {
		return ""
	}
	return "tacho.telemetry." + rest[:end]
}
