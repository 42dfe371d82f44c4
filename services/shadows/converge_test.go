package shadows_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/shadows"
)

// TestConverges is the short form of BenchmarkConverges.
func TestConverges(t *testing.T) { converge(t, 1_000) }

// BenchmarkConverges: a device that comes and goes at random, with clean and
// with kept sessions, while its desired configuration changes 10,000 times, does
// nothing but answer deltas, and ends as desired.
func BenchmarkConverges(b *testing.B) {
	for b.Loop() {
		converge(b, 10_000)
	}
}

func converge(t testing.TB, changes int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := start(t, jetLog(t), shadows.Limits{DeviceInFlight: 1000, InFlight: 2000}) // it does not come back to what was refused
	token := s.gw.Add(t, "car-1")

	var changed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range changes {
			if _, err := do(t, s.Shadows, "car-1", "", fmt.Sprintf(`{"state":{"desired":{"k%d":%d}}}`, i%20, i)); err != nil {
				t.Error(err)
				return
			}
			changed.Add(1)
		}
	}()
	sessions := 0
	for last := false; !last; sessions++ {
		c, cut := connectAnswering(t, s, token, random.IntN(2) == 0)
		select {
		case <-time.After(time.Duration(random.IntN(60)) * time.Millisecond):
			if random.IntN(2) == 0 {
				cut()
			}
			c.Disconnect(0)
			gatewaytest.Eventually(t, "it is gone", func() bool { return !s.gw.Connected("car-1") })
		case <-done:
			last = true
			gatewaytest.Eventually(t, "the device is as desired", func() bool {
				doc, _ := s.Get("car-1", "")
				return doc.Converged()
			})
			c.Disconnect(0)
		}
	}
	t.Logf("%d changes, %d connections", changed.Load(), sessions)
}

// connectAnswering connects a device that reports each delta. It subscribes only
// when the gateway has kept no session for it. cut ends its connection without a
// word.
func connectAnswering(t testing.TB, s *site, token string, clean bool) (c mqtt.Client, cut func()) {
	var nc net.Conn
	c = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(token).
		SetCleanSession(clean).SetAutoReconnect(false).SetOrderMatters(false).SetStore(noStore{}).SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		var err error
		nc, err = net.Dial("tcp", u.Host)
		return nc, err
	}).SetDefaultPublishHandler(func(c mqtt.Client, m mqtt.Message) {
		var delta struct{ State json.RawMessage }
		if err := json.Unmarshal(m.Payload(), &delta); err != nil {
			t.Errorf("%s: %v", m.Payload(), err)
		}
		c.Publish(aws+"update", 1, false, `{"state":{"reported":`+string(delta.State)+`}}`)
	}))
	token1 := c.Connect()
	if !token1.WaitTimeout(30*time.Second) || token1.Error() != nil {
		t.Fatal("connect: ", token1.Error())
	}
	if !token1.(*mqtt.ConnectToken).SessionPresent() {
		c.Subscribe(aws+"update/delta", 1, nil).WaitTimeout(30 * time.Second)
	}
	return c, func() { _ = nc.Close() }
}

// noStore keeps nothing for a client's next connection. A client that connects
// sends once more what its store holds, and with the store of paho this is also
// what a handler is publishing at that moment: it then writes to a packet that
// another goroutine is sending.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
