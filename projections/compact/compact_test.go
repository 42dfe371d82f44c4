package compact

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/projections/shadow"
)

// A history is a stream's facts and, behind it, what is left of them when it is
// compacted now and then.
type history struct {
	t      *testing.T
	stream events.Stream
	all    []events.Event // as they were appended
	base   []events.Event
	upTo   int // how many of all the base stands for
}

func (h *history) append(typ string, payload []byte, received time.Time) {
	h.all = append(h.all, events.Event{
		Stream: h.stream, Type: typ, ID: events.UniqueID(), Payload: payload, Received: received,
		Position: events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: uint64(3*len(h.all) + 1)},
	})
}

// compact makes a base of the base and some of what came since.
func (h *history) compact(r *rand.Rand) {
	h.t.Helper()
	upTo := h.upTo + r.IntN(len(h.all)-h.upTo+1)
	var c Compaction
	for _, e := range append(h.base[:len(h.base):len(h.base)], h.all[h.upTo:upTo]...) {
		c.Add(e)
	}
	kept, err := c.Facts()
	if err != nil {
		h.t.Fatal(err)
	}
	last := uint64(0)
	for _, e := range kept {
		if e.Position.Seq <= last || e.Position.Seq > 3*uint64(upTo) {
			h.t.Fatalf("out of order: %+v", kept)
		}
		last = e.Position.Seq
	}
	h.base, h.upTo = kept, upTo
}

// left is what a fold is made of.
func (h *history) left() []events.Event {
	return append(h.base[:len(h.base):len(h.base)], h.all[h.upTo:]...)
}

// seeds are those of a random test: with -short, which is how the race detector runs
// what has one goroutine, a tenth.
func seeds(n uint64) uint64 {
	if testing.Short() {
		return n / 10
	}
	return n
}

func TestPresence(t *testing.T) {
	for seed := range seeds(90) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := &history{t: t, stream: events.Stream{Kind: events.Presence, ID: "car"}}
		sessions := 1 + int(seed%3)
		now, most := int64(1000), 0
		var d presence.Device
		for range 200 {
			now += int64(r.IntN(40))
			session := fmt.Sprint("s", r.IntN(sessions))
			f, news := d.Connect(session, "client", "gateway", now)
			switch r.IntN(3) {
			case 0:
				f, news = d.Disconnect(session, []string{presence.Clean, presence.Network}[r.IntN(2)], now)
			case 1:
				f, news = d.GoOffline(now, 30)
			}
			if news {
				d.Evolve(f)
				payload, err := f.Payload()
				if err != nil {
					t.Fatal(err)
				}
				h.append(f.Type, payload, time.UnixMilli(now))
			}
			if r.IntN(10) == 0 {
				h.compact(r)
				most = max(most, len(h.base))
			}
			if got := fold(h.left()); !sameDevice(got, d) {
				t.Fatalf("seed %d: %+v, want %+v", seed, got, d)
			}
			if n := len(h.left()); n > 0 && h.left()[n-1].ID != h.all[len(h.all)-1].ID {
				t.Fatalf("seed %d: the newest fact is not the newest", seed)
			}
		}
		if sessions == 1 && most > 6 {
			t.Errorf("seed %d: %d facts are kept of a car that comes and goes", seed, most)
		}
	}
}

func TestCommand(t *testing.T) {
	fold := func(all []events.Event) (c command.Command) {
		for _, e := range all {
			f, err := command.ParseFact(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if c.State != "" || f.Type == string(command.Queued) {
				c.Evolve(f)
			}
		}
		return c
	}
	steps := []string{"sent", "sent", "progress", "unsent", "sent", "delivered", "progress", "refused", "running", "cancel_requested", "succeeded", "timed_out"}
	gone, open := 0, 0
	for seed := range seeds(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		h := &history{t: t, stream: events.Stream{Kind: events.Command, ID: "car", Name: "lock"}}
		add := func(f command.Fact) {
			f.At = int64(len(h.all))
			payload, err := f.Payload()
			if err != nil {
				t.Fatal(err)
			}
			h.append(f.Type, payload, time.UnixMilli(f.At))
		}
		for range 1 + r.IntN(2) { // the key is used again
			add(command.Fact{Type: "queued", Order: &command.Order{ID: "lock", Device: "car", Deadline: 5, AnswerBy: 9}})
			for i := range 40 {
				if i > r.IntN(40) && fold(h.all).State.Final() { // only then it can be
					break
				}
				f := command.Fact{Type: steps[r.IntN(len(steps))], Attempt: i}
				if fold(h.all).State.Final() { // what may still come then
					f = []command.Fact{{Type: command.TypeRefused}, {Type: "succeeded", Late: true}}[r.IntN(2)]
				}
				add(f)
				if r.IntN(4) == 0 {
					h.compact(r)
				}
				whole, got := fold(h.all), fold(h.left())
				switch {
				case reflect.DeepEqual(got, whole):
					open++
				case got.State == "" && fold(h.all[:h.upTo]).State.Final() && len(h.base) == 0: // it had ended by then
					gone++
				default:
					t.Fatalf("seed %d: %+v, want %+v", seed, got, whole)
				}
				if !fold(h.all[:h.upTo]).State.Final() && len(h.base) > 0 && h.base[len(h.base)-1].ID != h.all[h.upTo-1].ID {
					t.Fatalf("seed %d: the newest fact of the base is not the newest", seed)
				}
			}
		}
	}
	if gone == 0 || open == 0 {
		t.Errorf("%d looks at one that had ended, %d at others: this shows nothing", gone, open)
	}
}

func TestShadow(t *testing.T) {
	values := []string{`1`, `1.50`, `1e3`, `"a\u00e9\n"`, `true`, `[1,{"b":[2]},"x"]`, `{"deep":{"deeper":{"x":1}}}`, `{"o":1,"v":2,"t":3}`, `null`, `{}`}
	restated := 0
	for seed := range seeds(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		h := &history{t: t, stream: events.Stream{Kind: events.Shadow, ID: "car", Name: []string{"", "doors"}[seed%2]}}
		now := int64(1_700_000_000_000)
		zero := shadow.Track{Document: shadow.Document{Name: h.stream.Name}}
		fold := func(all []events.Event) shadow.Track {
			track := zero
			for _, e := range all {
				f, err := shadow.ParseFact(e.Type, e.Payload)
				if err != nil {
					t.Fatal(err)
				}
				track = track.Evolve(f)
			}
			return track
		}
		want := zero
		for range 60 {
			if now += int64(r.IntN(5000)); r.IntN(20) == 0 {
				now += (49 * time.Hour).Milliseconds()
			}
			by := shadow.Context{At: now, By: "device", Device: "car"}
			var f shadow.Fact
			if r.IntN(8) == 0 && want.Document.Exists {
				var refused *shadow.Error
				if f, refused = shadow.DecideDelete(want.Document, nil, "", by); refused != nil {
					t.Fatal(refused)
				}
			} else {
				body := fmt.Sprintf(`{"state":{%q:{%q:%s,%q:%s}}}`, []string{"desired", "reported"}[r.IntN(2)], "k", values[r.IntN(len(values))], fmt.Sprint("o", r.IntN(3)), values[r.IntN(len(values))])
				req, refused := shadow.ParseRequest([]byte(body), shadow.Limits{})
				if refused != nil {
					t.Fatalf("%s: %v", body, refused)
				}
				if f, refused = shadow.Decide(want.Document, req, by); refused != nil {
					t.Fatal(refused)
				}
			}
			want = want.Evolve(f)
			h.append(f.Type, f.Payload(), time.UnixMilli(now-int64(r.IntN(9))))
			if r.IntN(6) == 0 {
				h.compact(r)
				for _, e := range h.base {
					if e.Type == shadow.TypeRestated {
						restated++
					}
					for _, before := range h.all[:h.upTo] {
						if before.Received.After(e.Received) && e.Type == shadow.TypeRestated {
							t.Fatalf("seed %d: it stands for what arrived after it", seed)
						}
					}
				}
				if h.upTo > 0 && (len(h.base) != 1 || h.base[0].ID != h.all[h.upTo-1].ID || h.base[0].Position != h.all[h.upTo-1].Position) {
					t.Fatalf("seed %d: %+v", seed, h.base)
				}
			}
			got := fold(h.left())
			if got.Pending != want.Pending || string(got.Document.Get(0, "")) != string(want.Document.Get(0, "")) ||
				got.Document.Exists != want.Document.Exists || got.Document.Version != want.Document.Version || got.Document.At != want.Document.At || got.Document.Name != want.Document.Name {
				t.Fatalf("seed %d:\n%+v %s\n%+v %s", seed, got, got.Document.Get(0, ""), want, want.Document.Get(0, ""))
			}
		}
	}
	if restated == 0 {
		t.Error("nothing was restated")
	}
}

// TestOthers: of a kind that is not known every fact stays, and what a fold cannot
// read.
func TestOthers(t *testing.T) {
	var c Compaction
	var all []events.Event
	for i, s := range []events.Stream{
		{Kind: events.Registry, ID: "car"}, {Kind: events.Credential, ID: "car"}, {Kind: "tomorrow", ID: "car"}, {Kind: events.Registry, ID: "car"},
		{Kind: events.Shadow, ID: "car"}, {Kind: events.Presence, ID: "car"}, {Kind: events.Forgotten, ID: "car", Name: "1"}, {Kind: events.Letter, ID: "car", Name: "1.0.1-0"},
	} {
		e := events.Event{Stream: s, Type: "x", ID: events.UniqueID(), Payload: []byte("?"), Position: events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: uint64(i + 1)}}
		all = append(all, e)
		c.Add(e)
	}
	kept, err := c.Facts()
	if err != nil || !reflect.DeepEqual(kept, all) || c.Taken() != uint64(len(all)) {
		t.Fatalf("%+v, %v", kept, err)
	}
}
