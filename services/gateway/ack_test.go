package gateway_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

var errTimeout = os.ErrDeadlineExceeded

func both(t *testing.T, run func(t *testing.T, version byte)) {
	t.Run("3.1.1", func(t *testing.T) { t.Parallel(); run(t, 4) })
	t.Run("5", func(t *testing.T) { t.Parallel(); run(t, 5) })
}

// No acknowledgement goes out before the log has answered, and they go out in
// the order of the messages.
func TestAckAfterTheLog(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		log := &gatewaytest.HeldLog{Log: newMemlog(t)}
		f := gatewaytest.Start(t, log, gateway.Limits{})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		log.Hold()
		for id := uint16(1); id <= 9; id++ {
			r.send(publish(byte(id%3), id, "telemetry/position", fmt.Sprintf(`{"latitude":%d}`, id), func(p *mochi.Packet) {
				if id%3 == 0 {
					p.PacketID = 0
				}
			}))
		}
		r.sync() // all were read
		gatewaytest.Eventually(t, "all are on their way", func() bool { return log.Held() == 9 })
		r.quiet(50 * time.Millisecond)
		log.Release(4)
		r.wantAck(mochi.Puback, 1, 0)
		r.wantAck(mochi.Pubrec, 2, 0)
		r.wantAck(mochi.Puback, 4, 0)
		r.quiet(50 * time.Millisecond)
		log.Release(-1)
		r.wantAck(mochi.Pubrec, 5, 0)
		r.wantAck(mochi.Puback, 7, 0)
		r.wantAck(mochi.Pubrec, 8, 0)
		for _, id := range []uint16{2, 5, 8} {
			r.send(pubrel(id))
			r.wantAck(mochi.Pubcomp, id, 0)
		}
	})
}

// A refusal in the middle keeps its place in the queue.
func TestRefusalKeepsItsPlace(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{})
	r := connected(t, f, 5, "car-1", f.Add(t, "car-1"))
	log.Hold()
	r.send(publish(1, 1, "telemetry/position", position))
	r.send(publish(1, 2, "telemetry/car-2/position", position))
	r.send(publish(1, 3, "telemetry/position", `{"latitude":"north"}`))
	r.send(publish(2, 4, "telemetry/No", position))
	r.sync()
	r.quiet(50 * time.Millisecond)
	log.Release(-1)
	r.wantAck(mochi.Puback, 1, 0)
	r.wantAck(mochi.Puback, 2, 0x87)
	r.wantAck(mochi.Puback, 3, 0x99)
	r.wantAck(mochi.Pubrec, 4, 0x90)
	if got := len(f.Stored(t, "car-1")); got != 2 {
		t.Errorf("%d stored, want the good and the undecodable one", got)
	}
	for reason, want := range map[gateway.Reason]float64{gateway.ForeignTopic: 1, gateway.Undecodable: 1, gateway.BadType: 1} {
		if got := f.Metric(t, "refused_total", "via", "mqtt", "reason", string(reason)); got != want {
			t.Errorf("%s: counted %v, want %v", reason, got, want)
		}
	}
}

// While the window is full nothing more is read, nothing grows, and nothing is
// lost.
func TestBackPressure(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{Window: 10})
	r := connected(t, f, 4, "car-1", f.Add(t, "car-1"))
	log.Hold()
	const n = 5000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			if _, err := r.nc.Write(encode(t, publish(1, uint16(i+1), "telemetry/position", position), 4)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	gatewaytest.Eventually(t, "the window is full", func() bool { return log.Held() == 10 })
	time.Sleep(100 * time.Millisecond)
	if got := log.Held(); got != 10 {
		t.Fatalf("%d messages on their way, the window is 10", got)
	}
	log.Release(-1)
	for i := range n {
		r.wantAck(mochi.Puback, uint16(i+1), 0)
	}
	<-sent
	if got := len(f.Stored(t, "car-1")); got != n {
		t.Errorf("%d stored, want %d", got, n)
	}
}

// Version 5 announces the window, and who ignores it is told so.
func TestReceiveMaximum(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{Window: 10})
	r := dial(t, f, 5)
	if ack := r.login("car-1", f.Add(t, "car-1")); ack.ReasonCode != 0 || ack.Properties.ReceiveMaximum != 10 {
		t.Fatalf("CONNACK %+v", ack)
	}
	log.Hold()
	for i := range 11 {
		r.send(publish(byte(1+i%2), uint16(i+1), "telemetry/position", position))
	}
	r.wantEnd(0x93)
	log.Release(-1)

	// QoS 2 messages count until PUBCOMP, refused ones and repeats don't.
	r = connected(t, f, 5, "car-1", f.Add(t, "car-2"), func(p *mochi.Packet) { p.Connect.Username = []byte("car-2") })
	for round := range 30 {
		id := uint16(round%7 + 1)
		r.send(publish(2, id, "telemetry/position", position))
		r.wantAck(mochi.Pubrec, id, 0)
		r.send(publish(2, id, "telemetry/position", position))
		r.wantAck(mochi.Pubrec, id, 0)
		r.send(publish(2, 100, "telemetry/Bad", position))
		r.wantAck(mochi.Pubrec, 100, 0x90)
		r.send(pubrel(id))
		r.wantAck(mochi.Pubcomp, id, 0)
	}
	if got := len(f.Stored(t, "car-2")); got != 30 {
		t.Errorf("%d stored, want 30", got)
	}
}

// A QoS 2 packet id that comes again before PUBREL is not appended twice, on the
// same connection or, with the session kept, on the next; not even while the
// first copy is still on its way.
func TestQoS2Once(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		log := &gatewaytest.HeldLog{Log: newMemlog(t)}
		f := gatewaytest.Start(t, log, gateway.Limits{})
		token := f.Add(t, "car-1")
		keep := func(p *mochi.Packet) {
			p.Connect.Clean = false
			p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = 100, true
		}
		r := connected(t, f, version, "car-1", token, keep)
		log.Hold()
		r.send(publish(2, 7, "telemetry/position", position))
		r.send(publish(2, 7, "telemetry/position", position, func(p *mochi.Packet) { p.FixedHeader.Dup = true }))
		r.sync()
		r.quiet(20 * time.Millisecond)
		_ = r.nc.Close()
		gatewaytest.Eventually(t, "it is gone", func() bool { return f.Metric(t, "mqtt_connections") == 0 })

		r = dial(t, f, version)
		if ack := r.login("car-1", token, keep); !ack.SessionPresent {
			t.Fatal("the session was not kept")
		}
		r.send(publish(2, 7, "telemetry/position", position, func(p *mochi.Packet) { p.FixedHeader.Dup = true }))
		r.sync()
		r.quiet(20 * time.Millisecond)
		log.Release(-1)
		r.wantAck(mochi.Pubrec, 7, 0)
		r.send(publish(2, 7, "telemetry/position", position, func(p *mochi.Packet) { p.FixedHeader.Dup = true }))
		r.wantAck(mochi.Pubrec, 7, 0)
		r.send(pubrel(7))
		r.wantAck(mochi.Pubcomp, 7, 0)
		if got := len(f.Stored(t, "car-1")); got != 1 {
			t.Errorf("stored %d times", got)
		}
		r.send(pubrel(7))
		r.wantAck(mochi.Pubcomp, 7, map[byte]byte{4: 0, 5: 0x92}[version])
		r.send(publish(2, 7, "telemetry/position", position)) // the id is free again
		r.wantAck(mochi.Pubrec, 7, 0)
		if got := len(f.Stored(t, "car-1")); got != 2 {
			t.Errorf("stored %d, want 2", got)
		}
	})
}

// Clients that lose their state use a packet id again for another message. That
// is no repeat, and is not swallowed.
func TestQoS2OtherMessageUnderTheSameID(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		for _, payload := range []string{`{"n":1}`, `{"n":2}`, `{"n":2}`} {
			r.send(publish(2, 7, "telemetry/position", payload))
			r.wantAck(mochi.Pubrec, 7, 0)
		}
		if got := len(f.Stored(t, "car-1")); got != 2 {
			t.Errorf("%d stored, want 2", got)
		}
	})
}

// A QoS 1 message that is sent again is appended again under the same id; who
// reads the log recognises it.
func TestQoS1RepeatHasTheSameID(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	r := connected(t, f, 4, "car-1", f.Add(t, "car-1"))
	for _, payload := range []string{position, position, `{"latitude":1}`, `{"latitude":1}`} {
		r.send(publish(1, 3, "telemetry/position", payload, func(p *mochi.Packet) { p.FixedHeader.Dup = true }))
		r.wantAck(mochi.Puback, 3, 0)
	}
	got := f.Stored(t, "car-1")
	if len(got) != 4 || got[0].ID != got[1].ID || got[0].ID != events.DeriveID("car-1", "position", []byte(position)) {
		t.Errorf("stored %+v", got)
	} else if got[2].ID == got[3].ID {
		t.Error("messages without a device time have the same id")
	}
}

// A device may name its message.
func TestOwnMessageID(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	r := connected(t, f, 5, "car-1", f.Add(t, "car-1"))
	for i, id := range []string{"boot-7_42", "a b", "a b"} {
		r.send(publish(1, uint16(i+1), "telemetry/position", position, func(p *mochi.Packet) {
			p.Properties.User = []mochi.UserProperty{{Key: "other", Val: "x"}, {Key: "id", Val: id}}
		}))
		r.wantAck(mochi.Puback, uint16(i+1), 0)
	}
	got := f.Stored(t, "car-1")
	if got[0].ID != "boot-7_42" || got[1].ID != got[2].ID || !events.ValidID(got[1].ID) {
		t.Errorf("ids %s %s %s", got[0].ID, got[1].ID, got[2].ID)
	}
}

// When the log refuses, version 5 says so and goes on; version 3.1.1 gets no
// acknowledgement and is cut off after a while.
func TestFullLog(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		log := &gatewaytest.HeldLog{Log: newMemlog(t)}
		f := gatewaytest.Start(t, log, gateway.Limits{FullDelay: 200 * time.Millisecond})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		log.Refuse(fmt.Errorf("append: %w", events.ErrFull))
		r.send(publish(0, 0, "telemetry/position", position))
		r.send(publish(1, 5, "telemetry/position", position))
		if version == 5 {
			r.wantAck(mochi.Puback, 5, 0x97)
			r.send(publish(2, 6, "telemetry/position", position))
			r.wantAck(mochi.Pubrec, 6, 0x97)
			log.Refuse(nil)
			r.send(publish(2, 6, "telemetry/position", position))
			r.wantAck(mochi.Pubrec, 6, 0)
		} else {
			began := time.Now()
			r.wantEnd(0)
			if took := time.Since(began); took < 150*time.Millisecond {
				t.Errorf("cut off after %v, so that it is back at once", took)
			}
		}
		gatewaytest.Eventually(t, "counted", func() bool {
			return f.Metric(t, "refused_total", "reason", string(gateway.LogFull)) >= 2
		})
	})
}

// After an unknown outcome there is no acknowledgement: the device sends again.
func TestUnknownOutcome(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		log := &gatewaytest.HeldLog{Log: newMemlog(t)}
		f := gatewaytest.Start(t, log, gateway.Limits{})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		log.Refuse(fmt.Errorf("append: %w", events.ErrUnknown))
		r.send(publish(0, 0, "telemetry/position", position))
		r.sync()
		r.send(publish(1, 5, "telemetry/position", position))
		r.wantEnd(0x83)
	})
}

// A gateway that stops acknowledges what is on its way, says good-bye, and
// leaves nobody behind.
func TestDrain(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		log := &gatewaytest.HeldLog{Log: newMemlog(t)}
		f := gatewaytest.Start(t, log, gateway.Limits{})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"), func(p *mochi.Packet) {
			p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload = true, "telemetry/position", []byte(position)
		})
		idle := dial(t, f, version) // never says a word
		log.Hold()
		r.send(publish(1, 1, "telemetry/position", position))
		r.send(publish(2, 2, "telemetry/position", position))
		r.sync()
		stopped := make(chan error, 1)
		go func() { stopped <- f.Stop() }()
		r.quiet(50 * time.Millisecond)
		log.Release(-1)
		r.wantAck(mochi.Puback, 1, 0)
		r.wantAck(mochi.Pubrec, 2, 0)
		r.wantEnd(0x8B)
		idle.wantEnd(0)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if got := len(f.Stored(t, "car-1")); got != 2 {
			t.Errorf("%d stored: a will is not for a gateway that stops", got)
		}
	})
}

// A gateway stops in time even when the log doesn't answer.
func TestDrainIsBounded(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{Drain: 100 * time.Millisecond})
	r := connected(t, f, 5, "car-1", f.Add(t, "car-1"))
	log.Hold()
	r.send(publish(1, 1, "telemetry/position", position))
	r.sync()
	began := time.Now()
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	r.wantEnd(0x8B)
	log.Release(-1) // answers to nobody
}
