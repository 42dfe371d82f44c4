package fault

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// importing appends to the log itself what arrived in other months, so that one
// block of the writer spans several partitions of ClickHouse.
func (s *Senders) importing(ctx context.Context, r *rand.Rand) {
	nc, err := nats.Connect(s.to.natsURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		s.bad.Store(&err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		s.bad.Store(&err)
		return
	}
	for !s.paused.Load() && ctx.Err() == nil {
		typ := []string{typeMeter, typePosition}[r.IntN(2)]
		for range 10 {
			payload := s.message(r, typ)
			e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: importer}, Type: typ, Schema: 1, Payload: payload}
			msg := nats.NewMsg(e.Subject())
			msg.Data = payload
			msg.Header.Set("At", time.Date(2026, time.Month(1+r.IntN(6)), 1+r.IntN(27), 0, 0, 0, 0, time.UTC).Format(time.RFC3339Nano))
			for {
				short, cancel := context.WithTimeout(ctx, 2*time.Second)
				_, err := js.PublishMsg(short, msg)
				cancel()
				if err == nil {
					break
				}
				if pause(ctx, 50*time.Millisecond) != nil {
					return
				}
			}
			s.note(importer, typ, [][]byte{payload})
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}
