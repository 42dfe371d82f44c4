package history_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/history"
)

// A service that was away for longer than the log keeps telemetry goes on after
// the last event that it has dealt with: what was purged comes from ClickHouse, then
// the log, then what is new.
func Example() {
	handle := func(ctx context.Context, log events.Log, token string) error {
		archive := &columnar.Archive{Server: columnar.Server{URL: "http://127.0.0.1:8123", User: "tacho", Password: "…"}}
		whole := history.New(log, archive, nil, slog.Default())
		after, err := events.ParseCursors(token)
		if err != nil {
			return err
		}
		want := events.Subscription{Filter: events.Filter{Kinds: []events.Kind{events.Telemetry}, Type: "position"}, After: after}
		at, err := want.Start(ctx, whole)
		if err != nil {
			return err // neither the log nor ClickHouse has all that came since, or it is another log
		}
		for e, err := range want.Filter.Follow(ctx, whole, at) {
			if err != nil {
				return err
			}
			fmt.Println(e.Stream.ID, string(e.Payload))
			at.Advance(&e) // at.Token() is where to go on
		}
		return ctx.Err()
	}
	_ = handle
}
