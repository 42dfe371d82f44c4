package node

import (
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// TestSessionAfterRestart: sessions live in memory, and the node says so: after a
// restart no session is present, and its client hears again once it has
// subscribed again.
func TestSessionAfterRestart(t *testing.T) {
	c := defaults(t, "--role", "gateway,api")
	n := startNode(t, c)
	token, err := n.auth.Add(t.Context(), "car-1")
	if err != nil {
		t.Fatal(err)
	}
	connect := func(n *Node) (mqtt.Client, bool) {
		t.Helper()
		client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.addrs.MQTT).SetClientID("kept").SetCleanSession(false).
			SetUsername("car-1").SetPassword(token).SetAutoReconnect(false))
		tok := client.Connect()
		if !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
			t.Fatal("connect: ", tok.Error())
		}
		return client, tok.(*mqtt.ConnectToken).SessionPresent()
	}
	heard := make(chan string, 8)
	subscribe := func(client mqtt.Client) {
		t.Helper()
		const topic = "shadow/#"
		tok := client.Subscribe(topic, 1, func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() })
		if !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
			t.Fatal("subscribe: ", tok.Error())
		}
		if granted := tok.(*mqtt.SubscribeToken).Result()[topic]; granted > 2 {
			t.Fatalf("subscribe: %#x", granted)
		}
	}
	for i, want := range []bool{false, true} {
		client, present := connect(n)
		if present != want {
			t.Errorf("connection %d: session present %v", i, present)
		}
		if !present {
			subscribe(client)
		}
		client.Disconnect(100)
	}
	stopNode(t, n)
	n = startNode(t, c)
	client, present := connect(n)
	defer client.Disconnect(100)
	if present {
		t.Error("a session is present that the node has forgotten")
	}
	subscribe(client)
	if tok := client.Publish("shadow/get", 1, false, ""); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		t.Fatal("publish: ", tok.Error())
	}
	select {
	case topic := <-heard:
		if topic != "shadow/get/rejected" { // there is none
			t.Errorf("heard %s", topic)
		}
	case <-time.After(20 * time.Second):
		t.Error("heard nothing")
	}
}
