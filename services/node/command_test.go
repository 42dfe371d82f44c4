package node

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// TestCommandConformance tells a car to do something over HTTP, on a running
// program: round trip, a kill -9 with a command that waits, the command after
// the restart, and what ClickHouse has of it all.
func TestCommandConformance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := serve(t, dir)
	var device struct{ Token string }
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"car-1"}`)), &device); err != nil {
		t.Fatal(err)
	}
	connect := func() mqtt.Client {
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(device.Token).
			SetCleanSession(true).SetAutoReconnect(false).SetOrderMatters(false).SetDefaultPublishHandler(func(c mqtt.Client, m mqtt.Message) {
			for _, answer := range []string{`{"state":"running"}`, `{"state":"succeeded","result":{"open":true}}`} {
				c.Publish(m.Topic()+"/answer", 1, false, answer).WaitTimeout(30 * time.Second)
			}
		}))
		for _, step := range []func() mqtt.Token{c.Connect, func() mqtt.Token { return c.Subscribe("commands/+", 1, nil) }} {
			if token := step(); !token.WaitTimeout(2*time.Minute) || token.Error() != nil {
				t.Fatal("car does not connect: ", token.Error())
			}
		}
		return c
	}
	type told struct{ ID, State string }
	send := func(body string) (c told) {
		t.Helper()
		if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices/car-1/commands", body)), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	outcome := func(id string) string {
		t.Helper()
		return p.request("GET", "/v1/devices/car-1/commands/"+id+"?wait=50s", "")
	}

	car := connect()
	now := send(`{"name":"unlock","parameters":{"door":2}}`)
	if got := outcome(now.ID); !strings.Contains(got, `"state":"succeeded"`) || !strings.Contains(got, `"result":{"open":true}`) {
		t.Error(got)
	}
	car.Disconnect(500)
	waits := send(`{"name":"update","policy":"until_deadline","deadline":"1h"}`)
	dry := send(`{"name":"update","policy":"until_deadline","deadline":"5s","dry_run":true}`)

	if err := p.cmd.Process.Kill(); err != nil { // -9
		t.Fatal(err)
	}
	<-p.exited
	p = serve(t, dir)
	if got := outcome(dry.ID); !strings.Contains(got, `"state":"expired"`) {
		t.Error(got)
	}
	car = connect()
	defer car.Disconnect(0)
	if got := outcome(waits.ID); !strings.Contains(got, `"state":"succeeded"`) {
		t.Error(got)
	}
	p.await("SELECT count() FROM tacho.commands WHERE final", "3")
	p.await("SELECT name, parameters, state, attempts, result, sent >= queued, ended >= running FROM tacho.commands WHERE id = '"+now.ID+"'",
		"unlock\t{\"door\":2}\tsucceeded\t1\t{\"open\":true}\t1\t1")
	p.await("SELECT name, dry_run, commands, succeeded, expired, success_rate, succeeded_ms[1] >= 0 FROM tacho.commands_1h WHERE name = 'update' AND NOT dry_run",
		"update\tfalse\t1\t1\t0\t1\t1")
	p.await("SELECT commands, succeeded, expired FROM tacho.commands_1h WHERE dry_run", "1\t0\t1")

	// The car was there, went, and is back; the gateway that was killed had none.
	if got := p.request("GET", "/v1/devices?connected=true", ""); !strings.Contains(got, `"id":"car-1"`) {
		t.Error(got)
	}
	p.await("SELECT groupArray((change, reason)) FROM (SELECT * FROM tacho.presence ORDER BY version)", `[('connected',NULL),('disconnected','clean'),('connected',NULL)]`)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	p = serve(t, dir)
	p.await("SELECT change, reason FROM tacho.presence ORDER BY version DESC LIMIT 1", "disconnected\tgateway_died")
	p.await("SELECT count(), sum(reason = 'clean'), sum(reason = 'gateway_died') FROM tacho.presence_sessions", "2\t1\t1")
	p.await("SELECT connections, seconds_online > 0 FROM tacho.presence_1h", "2\t1")
}
