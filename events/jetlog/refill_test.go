package jetlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// archived is a partition's events, with gaps at the beginning, in the middle and
// at the end (position 40).
func archived(partition uint16) (evs []events.Event) {
	at := time.Date(2026, 5, 1, 10, 0, 0, 123456000, time.UTC)
	for seq := uint64(3); seq <= 37; seq++ {
		if seq > 10 && seq < 20 {
			continue
		}
		device := fmt.Sprintf("car-%d", seq%3)
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 2, Payload: fmt.Appendf(nil, `{"n":%d}`, seq)}
		e.ID = events.DeriveID(device, e.Type, e.Payload)
		switch {
		case partition == events.ControlPartition:
			e.Stream.Kind, e.Type = events.Shadow, "updated"
			e.ID = events.UniqueID()
		case partition == events.DeadLetterPartition:
			e.Stream.Kind, e.Schema = events.DeadLetter, 0
			e.Stream.Name = events.LetterID{Position: events.Position{Epoch: 1, Seq: seq}}.String()
		case seq == 5:
			e.ID = events.UniqueID()
		}
		e.Position, e.Received = events.Position{Epoch: 1, Partition: partition, Seq: seq}, at.Add(time.Duration(seq)*time.Minute)
		evs = append(evs, e)
	}
	return evs
}

func after(evs []events.Event, stop int) func(uint64) iter.Seq2[events.Event, error] {
	return func(seq uint64) iter.Seq2[events.Event, error] {
		return func(yield func(events.Event, error) bool) {
			for i, e := range evs {
				if i == stop {
					yield(events.Event{}, errors.New("interrupted"))
					return
				}
				if e.Position.Seq > seq && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// TestRefill: an empty log gets every event at its position with its id and its
// arrival time, and nothing in the gaps; interrupted it goes on, and nobody can
// use it until it is whole.
func TestRefill(t *testing.T) {
	for _, d := range []Durability{Disk, OS, Fast} {
		t.Run(d.String(), func(t *testing.T) {
			dir := t.TempDir()
			s := startServer(t, dir, false)
			cfg := Config{Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s), Durability: d, StoreDir: dir, Refill: true}
			l := open(t, cfg)
			if err := l.BeginRefill(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			tell := func(uint64) {}
			for _, p := range l.Partitions() {
				evs, upTo := archived(p), events.Position{Epoch: 1, Partition: p, Seq: 40}
				if err := l.Refill(t.Context(), upTo, after(evs, 12), tell); err == nil || !strings.Contains(err.Error(), "interrupted") {
					t.Fatal(err)
				}
				if _, err := Open(t.Context(), Config{Publish: cfg.Publish, Read: cfg.Read, Durability: d}); err == nil || !strings.Contains(err.Error(), "remedy") {
					t.Fatal("a log that is half full was opened: ", err)
				}
				if err := l.BeginRefill(t.Context(), "b"); !errors.Is(err, ErrNotEmpty) {
					t.Fatal(err)
				}
				if err := l.BeginRefill(t.Context(), "a"); err != nil {
					t.Fatal(err)
				}
				if err := l.Refill(t.Context(), upTo, after(evs, -1), tell); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.EndRefill(t.Context(), func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			cfg.Refill = false
			l = open(t, cfg)
			if err := l.BeginRefill(t.Context(), "a"); !errors.Is(err, ErrNotEmpty) {
				t.Fatal(err)
			}
			for _, p := range l.Partitions() {
				tail, err := l.Tail(t.Context(), p)
				if err != nil || tail.Seq != 40 {
					t.Fatal(tail, err)
				}
				want := archived(p)
				ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
				got := 0
				for e, err := range l.Follow(ctx, p, events.Cursor{}) {
					if err != nil {
						t.Fatal(err)
					}
					w := want[got]
					if p == events.ControlPartition { // ids are new with each call
						w.ID = e.ID
					}
					if w.Position.Seq == 5 {
						w.ID = e.ID
					}
					if fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", w) {
						t.Fatalf("got  %+v\nwant %+v", e, w)
					}
					if got++; got == len(want) {
						break
					}
				}
				stop()
				if got != len(want) {
					t.Fatalf("partition %d: %d of %d events", p, got, len(want))
				}
			}
		})
	}
}
