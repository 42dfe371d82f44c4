package node

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2/packets"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/services/gateway"
)

// A victim is a live node with a hostile device, car-1, and one that means well
// and stays connected throughout, car-2. What it is told it gives back as text:
// "PUBACK 0x99", "422 undecodable_payload", "closed".
type victim struct {
	*Node
	t     testing.TB
	token string // of car-1
	admin string
	nc    *nats.Conn // car-1's
	good  mqtt.Client
	sent  int
}

func newVictim(t *testing.T, n *Node) *victim {
	t.Helper()
	v := &victim{Node: n, t: t}
	var err error
	if v.token, err = n.auth.Add(t.Context(), "car-1"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(n.addrs.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	v.admin = strings.TrimSpace(string(b))
	other, err := n.auth.Add(t.Context(), "car-2")
	if err != nil {
		t.Fatal(err)
	}
	v.good = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.addrs.MQTT).SetClientID("good").SetUsername("car-2").SetPassword(other).
		SetAutoReconnect(false).SetConnectionLostHandler(func(_ mqtt.Client, err error) { t.Error("the other device lost its connection: ", err) }))
	if tok := v.good.Connect(); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		t.Fatal("connect: ", tok.Error())
	}
	t.Cleanup(func() { v.good.Disconnect(100) })
	if v.nc, err = nats.Connect(n.addrs.NATS, nats.UserInfo("car-1", v.token), nats.CustomInboxPrefix(gateway.NATSInbox("car-1")),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.nc.Close)
	return v
}

// unharmed wants the other device served, on the connection that it has.
func (v *victim) unharmed() {
	v.t.Helper()
	v.sent++
	tok := v.good.Publish("telemetry/position", 1, false, fmt.Sprintf(`{"altitude":%d}`, v.sent))
	if !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		v.t.Fatal("the other device is not served: ", tok.Error())
	}
}

// connect says CONNECT of version 5 and then, when let in, the bytes; it returns
// the answer to whichever came last.
func (v *victim) connect(user, token string, then ...byte) string {
	v.t.Helper()
	nc, err := net.Dial("tcp", v.addrs.MQTT)
	if err != nil {
		v.t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	p := mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, ProtocolVersion: 5, Connect: mochi.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "hostile", Clean: true, Keepalive: 60,
		Username: []byte(user), UsernameFlag: user != "", Password: []byte(token), PasswordFlag: token != "",
	}}
	var b bytes.Buffer
	if err := p.ConnectEncode(&b); err != nil {
		v.t.Fatal(err)
	}
	if _, err := nc.Write(b.Bytes()); err != nil {
		v.t.Fatal(err)
	}
	in := bufio.NewReader(nc)
	answer := mqttAnswer(in)
	if answer != "CONNACK 0x0" || len(then) == 0 {
		return answer
	}
	go nc.Write(then) // a server that is not pleased may close before it has read it all
	return mqttAnswer(in)
}

func mqttAnswer(in *bufio.Reader) string {
	head, err := in.ReadByte()
	if err != nil {
		return "closed"
	}
	n, _, err := mochi.DecodeLength(in)
	if err != nil {
		return "closed"
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return "closed"
	}
	code := map[byte]int{mochi.Connack: 1, mochi.Puback: 2, mochi.Pubrec: 2, mochi.Disconnect: 0}
	reason := byte(0)
	if at, ok := code[head>>4]; ok && at < len(body) {
		reason = body[at]
	}
	return fmt.Sprintf("%s %#x", strings.ToUpper(mochi.PacketNames[head>>4]), reason)
}

func (v *victim) publish(topic string, payload string) string {
	v.t.Helper()
	p := mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Publish, Qos: 1}, ProtocolVersion: 5, PacketID: 1, TopicName: topic, Payload: []byte(payload)}
	var b bytes.Buffer
	if err := p.PublishEncode(&b); err != nil {
		v.t.Fatal(err)
	}
	return v.connect("car-1", v.token, b.Bytes()...)
}

var impatient = &http.Client{Timeout: time.Minute}

// http asks and returns status and code. An error must have the whole body.
func (v *victim) http(method, path, token, body string) string {
	v.t.Helper()
	req, err := http.NewRequest(method, "http://"+v.addrs.HTTP+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := impatient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	if resp.StatusCode < 400 {
		return strconv.Itoa(resp.StatusCode)
	}
	var answer struct {
		Error struct{ Code, Message, Hint string }
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Error.Message == "" || answer.Error.Hint == "" {
		v.t.Errorf("%s %.60s: %d with the body %s", method, path, resp.StatusCode, b)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, answer.Error.Code)
}

func (v *victim) post(payload string) string {
	v.t.Helper()
	return v.http("POST", "/v1/devices/car-1/telemetry/position", v.token, payload)
}

func (v *victim) request(subject, payload string) string {
	v.t.Helper()
	msg, err := v.nc.Request(subject, []byte(payload), time.Minute)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return "too large for the client"
	case err != nil:
		return err.Error()
	case msg.Header.Get("Nats-Service-Error-Code") != "":
		return msg.Header.Get("Nats-Service-Error-Code") + " " + msg.Header.Get("Nats-Service-Error")
	}
	return "200"
}

// violation publishes where it may not and returns what the server says.
func (v *victim) violation(subject string) string {
	v.t.Helper()
	if err := v.nc.Publish(subject, []byte("{}")); err != nil {
		v.t.Fatal(err)
	}
	if err := v.nc.Flush(); err != nil {
		v.t.Fatal(err)
	}
	if err := v.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return "permissions violation"
	}
	return fmt.Sprint(v.nc.LastError())
}

func (v *victim) natsLogin(user, token string) string {
	nc, err := nats.Connect(v.addrs.NATS, nats.UserInfo(user, token))
	if err == nil {
		nc.Close()
		return "let in"
	}
	return err.Error()
}

// counted sums the series of /metrics that begin so and hold every label.
func (v *victim) counted(name string, labels ...string) (sum float64) {
	v.t.Helper()
	resp, err := http.Get("http://" + v.addrs.HTTP + "/metrics")
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		at := strings.LastIndexByte(lines.Text(), ' ')
		series, value := lines.Text()[:max(at, 0)], lines.Text()[at+1:]
		ok := (series == name || strings.HasPrefix(series, name+"{"))
		for _, l := range labels {
			ok = ok && strings.Contains(series, l)
		}
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			v.t.Fatal(lines.Text(), err)
		}
		sum += n
	}
	return sum
}

func (v *victim) eventually(what string, ok func() bool) {
	v.t.Helper()
	within(v.t, 2*time.Minute, what, ok)
}

func within(t testing.TB, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("never: %s", what)
			return
		}
	}
}
