package latest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

func eventAt(seq int, typ string, version uint32, payload string, received time.Time) events.Event {
	return events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: typ, ID: fmt.Sprintf("id-%d", seq), Schema: version,
		Payload: []byte(payload), Position: events.Position{Epoch: 1, Seq: uint64(seq)}, Received: received,
	}
}

// However the events are cut into batches, wherever the state went through its
// document in between, and however often events come again, it is the same.
func TestBatchesChangeNothing(t *testing.T) {
	registry := builtIn(t)
	seeds := uint64(8)
	if testing.Short() { // one goroutine: nothing for the race detector
		seeds = 1
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 1))
		var evs []events.Event
		arrival := time.Now()
		for i := range 1000 {
			typ, version, payload := message(r)
			arrival = arrival.Add(time.Duration(r.IntN(3000)) * time.Microsecond)
			evs = append(evs, eventAt(i+1, typ, version, payload, arrival))
		}
		fold := func(size func() int, reread bool) string {
			state, f := &State{Device: "car-1"}, newFolder(Rules{})
			for i := 0; i < len(evs); {
				n := min(size(), len(evs)-i)
				for k := max(0, i-3); k < i+n; k++ { // the last three come again
					e := evs[k]
					schema, _ := registry.Version(e.Type, e.Schema)
					f.add(state, &e, schema)
				}
				f.evolve()
				if i += n; reread {
					var again State
					if err := again.UnmarshalJSON(state.AppendJSON(nil)); err != nil {
						t.Fatal(err)
					}
					state = &again
				}
			}
			return string(state.AppendJSON(nil))
		}
		want := fold(func() int { return 1 }, false)
		for name, got := range map[string]string{
			"all at once":         fold(func() int { return 1000 }, false),
			"random":              fold(func() int { return 1 + r.IntN(200) }, false),
			"random through JSON": fold(func() int { return 1 + r.IntN(20) }, true),
			"as Fold does it":     documentOf(t, registry, evs),
			"one through JSON":    fold(func() int { return 1 }, true),
		} {
			if got != want {
				t.Fatalf("seed %d, %s:\ngot  %s\nwant %s", seed, name, got, want)
			}
		}
		if strings.Count(want, `"_raw"`) > maxRawKeys {
			t.Fatal("too many messages without a schema")
		}
	}
}

func documentOf(t *testing.T, registry *schemas.Registry, evs []events.Event) string {
	state := foldAll(t, registry, evs)
	return string(state.AppendJSON(nil))
}

// Where times differ and are believed, the order of arrival does not matter.
func TestOrderOfArrivalChangesNothing(t *testing.T) {
	registry := builtIn(t)
	type known struct{ value, time string }
	values := func(evs []events.Event) map[string]known {
		state := foldAll(t, registry, evs)
		all := map[string]known{}
		for _, m := range state.Messages {
			for _, s := range m.Signals {
				all[m.Type+"."+s.Name] = known{string(s.Value), s.Time.String()}
			}
		}
		return all
	}
	r := rand.New(rand.NewPCG(5, 5))
	var payloads []string
	for i := range 300 {
		fields := []string{"speed", "altitude", "latitude", "heading", "stranger"}
		payloads = append(payloads, fmt.Sprintf(`{"time":%d,"%s":%d}`, noon.UnixMilli()-int64(i)*7, fields[r.IntN(5)], i))
	}
	var want map[string]known
	for range 20 {
		var evs []events.Event
		for i, p := range payloads {
			evs = append(evs, eventAt(i+1, "position", 1, p, noon))
		}
		got := values(evs)
		if want == nil {
			want = got
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(got) != 5 {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
		r.Shuffle(len(payloads), func(i, j int) { payloads[i], payloads[j] = payloads[j], payloads[i] })
	}
}

// The state as of a past moment is the fold of what was there then.
func TestTimeTravel(t *testing.T) {
	registry := builtIn(t)
	evs := []events.Event{
		eventAt(1, "position", 1, `{"speed":1}`, noon),
		eventAt(2, "position", 1, `{"speed":2}`, noon.Add(time.Second)),
		eventAt(3, "position", 1, `{"speed":3}`, noon.Add(2*time.Second)),
	}
	for n := range evs {
		state := foldAll(t, registry, evs[:n+1])
		if speed, _ := state.Signal("position", "speed"); string(speed.Value) != fmt.Sprint(n+1) || state.Position != evs[n].Position {
			t.Errorf("after %d: %s at %s", n+1, speed.Value, state.Position)
		}
	}
	if state := foldAll(t, registry, nil); len(state.Messages) != 0 || string(state.AppendJSON(nil)) != `{"device":"car-1","position":{"epoch":0,"partition":0,"seq":0},"id":"","received":"0001-01-01T00:00:00Z","events":0,"messages":{}}` {
		t.Errorf("of nothing: %s", state.AppendJSON(nil))
	}
}

func TestFoldTellsWhatIsMissing(t *testing.T) {
	registry := builtIn(t)
	if _, err := Fold("car-1", sequence([]events.Event{eventAt(1, "position", 9, `{}`, noon)}), registry, Rules{}); err == nil || !strings.Contains(err.Error(), "version 9 of schema position") {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	_, err := Fold("car-1", func(yield func(events.Event, error) bool) { yield(events.Event{}, broken) }, registry, Rules{})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// Rules of one's own.
func TestRules(t *testing.T) {
	rules := Rules{Tolerance: time.Second, Oldest: noon.Add(-time.Hour)}
	for _, c := range []struct {
		ahead time.Duration
		flag  Flag
	}{{time.Second, ""}, {time.Second + time.Microsecond, Future}, {-time.Hour, ""}, {-time.Hour - time.Microsecond, Ancient}} {
		payload := fmt.Sprintf(`{"time":"%s","speed":1}`, noon.Add(c.ahead).Format(time.RFC3339Nano))
		state, err := Fold("car-1", sequence([]events.Event{eventAt(1, "position", 1, payload, noon)}), builtIn(t), rules)
		if err != nil {
			t.Fatal(err)
		}
		speed, _ := state.Signal("position", "speed")
		if speed.Flag != c.flag || !speed.Time.Equal(noon.Add(c.ahead)) || !speed.Received.Equal(noon) {
			t.Errorf("%v ahead: %+v", c.ahead, speed)
		}
	}
}

// A device that invents message types has its newest 64 shown.
func TestInventedTypes(t *testing.T) {
	var evs []events.Event
	for i := range 200 {
		evs = append(evs, eventAt(i+1, fmt.Sprintf("t%03d", (i*37)%200), 0, `{}`, noon.Add(time.Duration((i*37)%200)*time.Second)))
	}
	state := foldAll(t, builtIn(t), evs)
	if len(state.Messages) != maxRawKeys || state.Messages[0].Type != "t136" || state.Messages[63].Type != "t199" {
		t.Errorf("%d types, %s to %s", len(state.Messages), state.Messages[0].Type, state.Messages[len(state.Messages)-1].Type)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add(`{"time":1795435200000,"speed":1.5,"mystery":{"a":[1,"\u2028"]}}`, "winch", `{"x":"\\\"[{"}`)
	f.Add("\x08\x01", "a\x00b", `[[[[`)
	f.Add(`[{"latitude":-0.0},{"speed":1e-9,"altitude":1e300}]`, "<&>", "\xff")
	registry := builtIn(f)
	f.Fuzz(func(t *testing.T, payload, typ, raw string) {
		if typ == "" || typ == "position" {
			return
		}
		state, err := Fold("car-1", sequence([]events.Event{eventAt(1, "position", 1, payload, noon), eventAt(2, typ, 0, raw, noon)}), registry, Rules{})
		if err != nil {
			t.Fatal(err)
		}
		text := state.AppendJSON(nil)
		var again State
		if err := again.UnmarshalJSON(text); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if back := again.AppendJSON(nil); !slices.Equal(back, text) && !strings.Contains(string(text), `\ufffd`) {
			t.Fatalf("read back as\n%s\nwritten as\n%s", back, text)
		}
	})
}

// A dead letter that is replayed arrived when its message did: its value counts
// by that, and the state's own arrival does not go back.
func TestReplayedLetter(t *testing.T) {
	registry := builtIn(t)
	start := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	speed := func(minute, v int) string { return fmt.Sprintf(`{"time":%d,"speed":%d}`, at(minute).UnixMilli(), v) }
	first, last := eventAt(1, "position", 1, speed(0, 1), at(0)), eventAt(2, "position", 1, speed(10, 2), at(10))
	letter := events.LetterID{Position: events.Position{Epoch: 1, Seq: 1}}
	for name, c := range map[string]struct {
		payload string
		want    string
		arrival time.Time
	}{
		"older":               {speed(5, 3), "2", at(10)},
		"without a time":      {`{"speed":3}`, "2", at(10)}, // it has that of its arrival, minute 5
		"a clock ahead":       {speed(11, 3), "2", at(10)},  // 6 minutes ahead of its arrival: counts as minute 5
		"a clock a bit ahead": {speed(9, 3), "2", at(10)},
	} {
		replay := letter.Replay(eventAt(1, "position", 1, c.payload, at(5)), 1)
		replay.Position = events.Position{Epoch: 1, Seq: 3}
		state := foldAll(t, registry, []events.Event{first, last, replay})
		sig, _ := state.Signal("position", "speed")
		if string(sig.Value) != c.want || !state.Received.Equal(c.arrival) || state.Position.Seq != 3 {
			t.Errorf("%s: %s, received %s at %s", name, sig.Value, state.Received, state.Position)
		}
	}
	replay := letter.Replay(eventAt(1, "position", 1, `{"latitude":7}`, at(5)), 1)
	replay.Position = events.Position{Epoch: 1, Seq: 3}
	state := foldAll(t, registry, []events.Event{first, last, replay})
	if sig, ok := state.Signal("position", "latitude"); !ok || string(sig.Value) != "7" || !sig.Received.Equal(at(5)) || !sig.Time.Equal(at(5)) {
		t.Errorf("a signal of the letter alone: %+v", sig)
	}
}
