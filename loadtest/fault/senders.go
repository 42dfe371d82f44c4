package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

// Senders are devices: each sends messages of several types until it is told to
// stop, each message again and again until it is acknowledged, and knows what
// was. One of them imports: its messages arrived months ago.
type Senders struct {
	to      receiver
	tokens  map[string]string
	version atomic.Int64 // newest of the schema climate
	clock   atomic.Int64 // ms, of the devices
	paused  atomic.Bool

	mu    sync.Mutex
	acked [][]ledger.Entry // by what was acknowledged together; a device sends no more before
	resty sync.WaitGroup
	stop  context.CancelFunc
	bad   atomic.Pointer[error]
}

// A receiver is where senders send to; its addresses may change.
type receiver interface {
	gatewayNode() (*fleet.Node, error)
	natsURL() string
}

// Message types. climate grows by a field with each version; meter has integers.
const (
	typeClimate, typeMeter, typePosition = "climate", "meter", "position"

	cars     = 5 // at least
	importer = "import-1"
)

func climateSchema(version int64) string {
	text := `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Climate { google.protobuf.Timestamp time = 1; optional double temperature = 2;`
	for v := int64(2); v <= version; v++ {
		text += fmt.Sprintf(" optional %s f%d = %d;", []string{"double", "int64"}[v%2], v, v+1)
	}
	return text + ` }`
}

const meterSchema = `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Meter { google.protobuf.Timestamp time = 1; optional int64 total = 2; optional uint32 ticks = 3; }`

// NewSenders registers devices, as many that each of so many partitions has one, and schemas.
func NewSenders(ctx context.Context, to receiver, partitions int) (*Senders, error) {
	s := &Senders{to: to, tokens: map[string]string{}}
	s.clock.Store(1_700_000_000_000)
	node, err := to.gatewayNode()
	if err != nil {
		return nil, err
	}
	layout, driven := events.NewLayout(partitions), map[uint16]bool{}
	for i := 0; i < cars || len(driven) < partitions; i++ {
		device := fmt.Sprintf("car-%d", i)
		driven[layout.PartitionOf(events.Slot(device))] = true
		token, err := node.Register(ctx, device)
		if err != nil {
			return nil, err
		}
		s.tokens[device] = token
	}
	if err := s.register(ctx, typeMeter, meterSchema); err != nil {
		return nil, err
	}
	return s, s.Grow(ctx)
}

func (s *Senders) register(ctx context.Context, name, text string) error {
	for {
		err := errors.New("there is no gateway")
		if node, ferr := s.to.gatewayNode(); ferr == nil {
			err = call(ctx, node, http.MethodPost, "/v1/schemas?name="+name, []byte(text), nil)
		}
		if err == nil {
			return nil
		}
		if perr := pause(ctx, 100*time.Millisecond); perr != nil {
			return errors.Join(err, perr)
		}
	}
}

// Grow registers the next version of climate; what is sent from then on has its
// fields.
func (s *Senders) Grow(ctx context.Context) error {
	next := s.version.Load() + 1
	if err := s.register(ctx, typeClimate, climateSchema(next)); err != nil {
		return err
	}
	s.version.Store(next)
	return nil
}

// Begin starts the devices; End lets each have its last message acknowledged.
func (s *Senders) Begin(ctx context.Context, seed uint64) {
	ctx, s.stop = context.WithCancel(ctx)
	s.paused.Store(false)
	for i, device := range slices.Sorted(maps.Keys(s.tokens)) {
		r := rand.New(rand.NewPCG(seed, uint64(i+1)))
		s.resty.Go(func() { s.drive(ctx, device, r) })
	}
	s.resty.Go(func() { s.importing(ctx, rand.New(rand.NewPCG(seed, 0))) })
}

// End waits until every device has stopped. Those who wait for an
// acknowledgement get it first, or patience ends.
func (s *Senders) End(patience time.Duration) error {
	s.paused.Store(true)
	over := time.AfterFunc(patience, s.stop)
	s.resty.Wait()
	late := !over.Stop()
	s.stop()
	if err := s.bad.Load(); err != nil {
		return *err
	}
	if late {
		return fmt.Errorf("messages are not acknowledged after %s", patience)
	}
	return nil
}

// Acknowledged is what was, until now: batches of one device each, in its order.
func (s *Senders) Acknowledged() [][]ledger.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.acked)
}

func (s *Senders) note(device, typ string, payloads [][]byte) {
	var batch []ledger.Entry
	for _, p := range payloads {
		batch = append(batch, ledger.Entry{Device: device, Type: typ, ID: events.DeriveID(device, typ, p)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = append(s.acked, batch)
}

func (s *Senders) drive(ctx context.Context, device string, r *rand.Rand) {
	types := []string{typeClimate, typeMeter, typePosition}
	for !s.paused.Load() && ctx.Err() == nil {
		typ := types[r.IntN(len(types))]
		var batch [][]byte
		for range 1 + r.IntN(12) {
			batch = append(batch, s.message(r, typ))
		}
		for again := 0; again < 1 || r.IntN(12) == 0; again++ { // some repeat themselves
			for !s.post(ctx, device, typ, batch) {
				if pause(ctx, 30*time.Millisecond) != nil {
					return
				}
			}
		}
		s.note(device, typ, batch)
		if pause(ctx, time.Duration(5+r.IntN(40))*time.Millisecond) != nil {
			return
		}
	}
}

// message makes one that no device has sent before: a sample, a few, or a few of
// which one cannot be read. The first can, for a message whose time is not known
// is never taken for a repeat.
func (s *Senders) message(r *rand.Rand, typ string) []byte {
	sample := func() string {
		at := s.clock.Add(250) // no two are equal, and most come late
		if r.IntN(5) == 0 {
			at -= 250 * r.Int64N(30_000)
		}
		v := float64(r.IntN(4000)-2000) / 4
		switch typ {
		case typeMeter:
			return fmt.Sprintf(`{"time":%d,"total":%d,"ticks":%d}`, at, r.Int64N(1<<40)-1<<39, s.clock.Load()%1_000_000)
		case typePosition:
			return fmt.Sprintf(`{"time":%d,"speed":%v,"latitude":%v,"traveled_distance":%d}`, at, v, v/8, s.clock.Load()%1_000_000)
		}
		text := fmt.Sprintf(`{"time":%d,"temperature":%v`, at, v)
		for f := int64(2); f <= s.version.Load(); f++ {
			if r.IntN(2) == 0 {
				text += fmt.Sprintf(`,"f%d":%d`, f, r.IntN(1000))
			}
		}
		return text + "}"
	}
	if r.IntN(6) > 0 {
		return []byte(sample())
	}
	samples := []string{sample(), sample(), sample()}
	if r.IntN(4) == 0 {
		samples[1+r.IntN(2)] = fmt.Sprintf(`{"time":%q}`, unreadable)
	}
	return []byte("[" + strings.Join(samples, ",") + "]")
}

// unreadable stands in samples that no schema reads.
const unreadable = "never"

// post sends a batch as NDJSON; true if all of it was acknowledged.
func (s *Senders) post(ctx context.Context, device, typ string, batch [][]byte) bool {
	node, err := s.to.gatewayNode()
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node.HTTP+"/v1/devices/"+url.PathEscape(device)+"/telemetry/"+typ, bytes.NewReader(bytes.Join(batch, []byte("\n"))))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens[device])
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := clusterClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return false
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusMultiStatus:
		return true
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		err := fmt.Errorf("%s %s: %s: %.500s", device, typ, resp.Status, b)
		s.bad.Store(&err)
	}
	return false
}
