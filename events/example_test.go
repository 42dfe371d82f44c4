package events_test

import (
	"context"
	"fmt"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// drive stores some telemetry, as the gateway would.
func drive(l events.Log, speeds ...int) {
	for _, speed := range speeds {
		payload := fmt.Appendf(nil, `{"speed":%d}`, speed)
		stored := make(chan error, 1)
		err := l.Enqueue(context.Background(), events.Event{
			Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", ID: events.UniqueID(), Payload: payload,
		}, func(err error) { stored <- err })
		if err == nil {
			err = <-stored
		}
		if err != nil {
			fmt.Println(err)
		}
	}
}

// A service reads the whole history of one message type and stays for what
// comes.
func ExampleSubscribe() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := memlog.New(memlog.Options{}) // or jetlog.Open
	defer log.Close()
	drive(log, 30, 50)

	for e, err := range events.Subscribe(ctx, log, events.Subscription{
		From:   events.Beginning, // or Now, or Since(time.Now().Add(-time.Hour))
		Filter: events.Filter{Kinds: []events.Kind{events.Telemetry}, Type: "position"},
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(e.Stream.ID, string(e.Payload))
		switch e.Position.Seq {
		case 2:
			drive(log, 70) // live from here on
		case 3:
			stop() // the sequence ends
		}
	}
	// Output:
	// car-1 {"speed":30}
	// car-1 {"speed":50}
	// car-1 {"speed":70}
}

// A service that was stopped goes on exactly after the last event it has dealt
// with.
func ExampleCursors_Token() {
	ctx := context.Background()
	log := memlog.New(memlog.Options{})
	defer log.Close()
	drive(log, 30, 50, 70)
	want := events.Subscription{Filter: events.Filter{Kinds: []events.Kind{events.Telemetry}}}

	token := "" // where the service keeps what it makes of the events
	for range 3 {
		if token != "" {
			after, err := events.ParseCursors(token)
			if err != nil {
				fmt.Println(err)
				return
			}
			want.After = after
		}
		at, err := want.Start(ctx, log)
		if err != nil {
			fmt.Println(err) // the log was purged that far, or is another one
			return
		}
		for e, err := range want.Filter.Follow(ctx, log, at) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(string(e.Payload))
			at.Advance(&e)
			token = at.Token()
			break // killed
		}
	}
	// Output:
	// {"speed":30}
	// {"speed":50}
	// {"speed":70}
}
