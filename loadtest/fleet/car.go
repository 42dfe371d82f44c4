package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/eclipse/paho.golang/autopaho"
	mqtt5 "github.com/eclipse/paho.golang/paho"
)

// A connection is a device's MQTT session.
type connection interface {
	// publish returns nil once the message is acknowledged (QoS 1).
	publish(ctx context.Context, topic string, payload []byte) error
	close()
}

const ackPatience = 15 * time.Second

// dial connects a device: MQTT 5 or 3.1.1, the two libraries of the field, so
// that the demo shows both at work. Both reconnect by themselves.
func dial(ctx context.Context, addr, device, token string, five bool) (connection, error) {
	if five {
		return dial5(ctx, addr, device, token)
	}
	o := mqtt3.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(device).SetUsername(device).SetPassword(token).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(true).SetMaxReconnectInterval(2 * time.Second).
		SetConnectRetry(true).SetConnectRetryInterval(500 * time.Millisecond).SetOrderMatters(false).SetKeepAlive(time.Minute)
	c := mqtt3.NewClient(o)
	t := c.Connect()
	select {
	case <-t.Done():
		return connection3{c}, t.Error()
	case <-ctx.Done():
		c.Disconnect(0)
		return nil, ctx.Err()
	}
}

type connection3 struct{ c mqtt3.Client }

func (c connection3) publish(ctx context.Context, topic string, payload []byte) error {
	t := c.c.Publish(topic, 1, false, payload)
	select {
	case <-t.Done():
		return t.Error()
	case <-time.After(ackPatience):
		return errors.New("no acknowledgement")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c connection3) close() { c.c.Disconnect(250) }

type connection5 struct {
	c    *autopaho.ConnectionManager
	stop context.CancelFunc
}

func dial5(ctx context.Context, addr, device, token string) (connection, error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	c, err := autopaho.NewConnection(life, autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "mqtt", Host: addr}}, KeepAlive: 60, CleanStartOnInitialConnection: true,
		ConnectUsername: device, ConnectPassword: []byte(token),
		ReconnectBackoff: func(int) time.Duration { return 500 * time.Millisecond },
		ClientConfig:     mqtt5.ClientConfig{ClientID: device},
	})
	if err == nil {
		err = c.AwaitConnection(ctx)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return connection5{c, stop}, nil
}

func (c connection5) publish(ctx context.Context, topic string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, ackPatience)
	defer cancel()
	if err := c.c.AwaitConnection(ctx); err != nil {
		return err
	}
	answer, err := c.c.Publish(ctx, &mqtt5.Publish{Topic: topic, QoS: 1, Payload: payload})
	if err == nil && answer != nil && answer.ReasonCode >= 0x80 {
		return fmt.Errorf("refused with reason code %#x", answer.ReasonCode)
	}
	return err
}

func (c connection5) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.c.Disconnect(ctx) // the server notices either way
	c.stop()
}
