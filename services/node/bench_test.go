package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
)

// BenchmarkCommand is the round trip from the HTTP interface to the car and its
// answer back to who waits there, with the log synced to disk, beside a bare
// QoS 1 message of the same car through the same gateway in the same run.
func BenchmarkCommand(b *testing.B) {
	node := startNode(b, defaults(b, "--role", "gateway,api"))
	token, err := node.auth.Add(b.Context(), "car-1")
	if err != nil {
		b.Fatal(err)
	}
	admin, err := os.ReadFile(node.Addresses().AdminTokenFile)
	if err != nil {
		b.Fatal(err)
	}
	car := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + node.Addresses().MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(token).SetOrderMatters(false))
	wait := func(t mqtt.Token) {
		if !t.WaitTimeout(10*time.Second) || t.Error() != nil {
			b.Fatal("no answer: ", t.Error())
		}
	}
	wait(car.Connect())
	defer car.Disconnect(100)
	wait(car.Subscribe("commands/+", 1, func(c mqtt.Client, m mqtt.Message) { c.Publish(m.Topic()+"/answer", 1, false, `{"state":"succeeded"}`) }))
	call := func(method, path, body string) (answer struct{ ID, State string }) {
		req, err := http.NewRequestWithContext(b.Context(), method, "http://"+node.Addresses().HTTP+path, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(admin)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || json.Unmarshal(text, &answer) != nil || resp.StatusCode/100 != 2 {
			b.Fatalf("%s %s: %s %s %v", method, path, resp.Status, text, err)
		}
		return answer
	}
	var bare, command []time.Duration
	for b.Loop() {
		began := time.Now()
		wait(car.Publish("telemetry/position", 1, false, `{"latitude":52.5}`))
		bare = append(bare, time.Since(began))
		began = time.Now()
		c := call(http.MethodPost, "/v1/devices/car-1/commands", `{"name":"unlock"}`)
		if c = call(http.MethodGet, "/v1/devices/car-1/commands/"+c.ID+"?wait=10s", ""); c.State != "succeeded" {
			b.Fatalf("%+v", c)
		}
		command = append(command, time.Since(began))
	}
	for name, took := range map[string][]time.Duration{"bare": bare, "command": command} {
		slices.Sort(took)
		for _, q := range []int{50, 99} {
			b.ReportMetric(float64(took[(len(took)-1)*q/100].Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", name, q))
		}
	}
}

// BenchmarkStart is what a node takes to start, with 300,000 facts in its log
// already.
func BenchmarkStart(b *testing.B) {
	config := defaults(b, "--role", "gateway,api", "--durability", "fast")
	n := startNode(b, config)
	for i := range 300 {
		facts := make([]events.Event, 1000)
		for j := range facts {
			facts[j] = events.Event{Stream: events.Stream{Kind: events.Letter, ID: fmt.Sprint("car-", i), Name: "1.0.1-0"}, Type: "dropped", ID: events.UniqueID(), Payload: []byte(`{"message":"position","note":"a fact of the usual length that no fold of a gateway has to remember, so that reading is all"}`)}
		}
		if _, err := n.log.Append(b.Context(), events.Any, facts...); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		stopNode(b, n)
		n = startNode(b, config)
	}
}

// BenchmarkStartCompacted is what a node takes to start with 300,000 facts of cars
// that come and go in its log, before they are compacted and after, by turns.
func BenchmarkStartCompacted(b *testing.B) {
	var took [2][]time.Duration
	var facts [2]float64
	var compacting time.Duration
	configs := [2]Config{}
	for i := range configs {
		config := defaults(b, "--role", "gateway,api", "--durability", "fast", "--keep-control", "24h")
		config.settle = time.Nanosecond
		n := startNode(b, config)
		for car := range 300 {
			comesAndGoes(b, n.log, fmt.Sprint("car-", car), 430, false) // 1,003 facts
		}
		if i == 1 {
			began := time.Now()
			if err := n.compactor.Pass(b.Context(), time.Now().Add(25*time.Hour)); err != nil {
				b.Fatal(err)
			}
			compacting = time.Since(began)
		}
		base, err := n.log.Base(b.Context())
		bounds, err2 := n.log.Bounds(b.Context(), events.ControlPartition)
		if err != nil || err2 != nil || (base.Facts > 0) != (i == 1) {
			b.Fatal(base, err, err2)
		}
		facts[i] = float64(bounds.Newest.Seq - base.UpTo.Seq + base.Facts)
		configs[i] = config
		stopNode(b, n)
	}
	for b.Loop() {
		for i, config := range configs {
			began := time.Now()
			n := startNode(b, config)
			took[i] = append(took[i], time.Since(began))
			stopNode(b, n)
		}
	}
	for i, name := range []string{"before", "after"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, name+"-ms")
		b.ReportMetric(facts[i], name+"-facts")
	}
	b.ReportMetric(float64(compacting.Milliseconds()), "compacting-ms")
}
