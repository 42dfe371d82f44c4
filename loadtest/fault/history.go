package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/loadtest/fleet"
)

// playDrives has the recorded vehicles drive as fast as they are answered.
func (s *site) playDrives(ctx context.Context, fixes []fleet.Fix) error {
	n, err := s.gatewayNode()
	if err != nil {
		return err
	}
	return (&fleet.Demo{Node: n, Fixes: fixes, Speed: 1e9}).Run(ctx)
}

// obeyers is how many cars come, obey and go in a random history.
const obeyers = 4

// playRandom makes a history of everything that a log can hold, by seed: cars whose
// messages come late, twice, in months gone by, and damaged; schemas that grow
// meanwhile; shadows that are changed and deleted; commands that are obeyed, expire and are
// cancelled by cars that come and go; dead letters that are replayed and dropped.
func (s *site) playRandom(ctx context.Context, seed uint64, lasts time.Duration) error {
	senders, err := NewSenders(ctx, s, s.partitions)
	if err != nil {
		return err
	}
	node, err := s.gatewayNode()
	if err != nil {
		return err
	}
	names := make([]string, obeyers)
	for i := range names {
		names[i] = fmt.Sprintf("obeyer-%d", i)
	}
	tokens, err := node.Tokens(ctx, names)
	if err != nil {
		return err
	}
	driving, park := context.WithCancel(ctx)
	var on sync.WaitGroup
	defer on.Wait()
	defer park()
	var calm atomic.Bool
	for i, name := range names {
		car := &fleet.Obeyer{Name: name, Token: tokens[name], Dedupes: i%2 == 0}
		on.Go(func() { car.Live(driving, s.mqtt, &calm, seed*1_000_003+uint64(i)) })
	}
	senders.Begin(ctx, seed)
	r := rand.New(rand.NewPCG(seed, 30))
	for began, n := time.Now(), 0; time.Since(began) < lasts; n++ {
		if err := s.happen(ctx, r, senders, node, names, n); err != nil {
			return err
		}
		if err := pause(ctx, ms(r, 5, 60)); err != nil {
			return err
		}
	}
	if err := senders.End(healing); err != nil {
		return err
	}
	calm.Store(true) // all come home
	if err := s.letters(ctx, r, senders); err != nil {
		return err
	}
	return pause(ctx, commandWithin+commandAnswer) // every command is over then
}

// How long a command may wait to be sent, and to be answered then.
const (
	commandWithin = 800 * time.Millisecond
	commandAnswer = time.Second
)

// happen does one of many things.
func (s *site) happen(ctx context.Context, r *rand.Rand, senders *Senders, node *fleet.Node, names []string, n int) error {
	device := names[r.IntN(len(names))]
	shadow := "/v1/devices/" + url.PathEscape(device) + "/shadow"
	if r.IntN(2) == 0 {
		shadow += "?name=doors"
	}
	switch what := r.IntN(20); {
	case what < 6:
		section := []string{"desired", "reported"}[r.IntN(2)]
		body := fmt.Sprintf(`{"state":{%q:{"locked":%v,"climate":{"target":%d,"mode":[%d]},"k%d":%q}}}`, section, r.IntN(2) == 0, r.IntN(30), n, r.IntN(5), "ä <&> "+strings.Repeat("x", r.IntN(20)))
		if r.IntN(5) == 0 {
			body = fmt.Sprintf(`{"state":{%q:{"climate":null,"locked":null}}}`, section)
		}
		_, err := s.ask(ctx, http.MethodPost, shadow, []byte(body))
		return err
	case what < 7:
		_, _ = s.ask(ctx, http.MethodDelete, shadow, nil) // there may be none
	case what < 11:
		o := &fleet.Order{N: n, Device: device, Policy: []string{"now_or_never", "until_deadline"}[r.IntN(2)]}
		within := 100*time.Millisecond + time.Duration(r.Int64N(int64(commandWithin-100*time.Millisecond)))
		if _, err := node.Order(ctx, o, within, commandAnswer); err != nil {
			return err
		}
		if r.IntN(4) == 0 {
			_ = node.Cancel(ctx, o) // it may be over
		}
	case what < 12:
		return senders.Grow(ctx)
	case what < 17:
		return s.appended(ctx, damaged(r, senders, n))
	default:
		_, err := node.Register(ctx, fmt.Sprintf("new-%d", r.IntN(5)))
		return err
	}
	return nil
}

// damaged are messages that no gateway would have let in, or that one of an older
// release has: cut off, of other types, of fields that a later version knows, by devices with odd names.
func damaged(r *rand.Rand, senders *Senders, n int) (msgs []*nats.Msg) {
	at := senders.clock.Add(250)
	good := fmt.Sprintf(`{"time":%d,"total":%d,"ticks":%d}`, at, r.Int64N(1000), r.IntN(1000))
	noise := make([]byte, r.IntN(40))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for range 1 + r.IntN(4) {
		device, typ, version := fmt.Sprintf("car-%d", r.IntN(cars)), typeMeter, uint32(1)
		payload := []byte(good)
		switch r.IntN(9) {
		case 0:
			payload = payload[:r.IntN(len(payload))]
		case 1:
			payload = noise
		case 2:
			payload = fmt.Appendf(nil, `{"time":%d,"total":%d,"ticks":-%d}`, at, n, 1+r.IntN(9)) // meterLater reads it
		case 3:
			payload = fmt.Appendf(nil, `[%s,{"time":%d,"total":1e99},%s,7]`, good, at, good)
		case 4:
			typ, version = "blob", 0
			payload = noise
		case 5: // the field is a column only from a later version on
			typ = typeClimate
			payload = fmt.Appendf(nil, `{"time":%d,"temperature":%d,"f%d":%d}`, at, r.IntN(40), 2+r.IntN(20), n)
		case 6:
			device = []string{"wagen ä", "a.b*>c", "=x"}[r.IntN(3)]
		case 7: // from the future, from 1970, without a time
			payload = fmt.Appendf(nil, `{"time":%d,"total":1}`, []int64{4_000_000_000_000, 1, 0}[r.IntN(3)])
		}
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: typ, Schema: version, Payload: payload}
		m := nats.NewMsg(e.Subject())
		m.Data = payload
		for range 1 + r.IntN(2) { // some twice
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// letters has the schema of meter read what it could not, and lets some go.
func (s *site) letters(ctx context.Context, r *rand.Rand, senders *Senders) error {
	if err := s.caughtUp(ctx, time.Minute); err != nil { // the tables tell which there are
		return err
	}
	if err := senders.register(ctx, typeMeter, meterLater); err != nil {
		return err
	}
	for _, path := range []string{"replay?limit=20", fmt.Sprintf("drop?limit=%d&type=%s&note=of+no+use", 1+r.IntN(10), typePosition)} {
		if _, err := s.ask(ctx, http.MethodPost, "/v1/dead-letters/"+path, nil); err != nil {
			return err
		}
	}
	return nil
}

// meterLater reads more than meterSchema does: ticks may be negative and large.
const meterLater = `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Meter { google.protobuf.Timestamp time = 1; optional int64 total = 2; optional int64 ticks = 3; optional string note = 4; }`
