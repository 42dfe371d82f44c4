package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt3 "github.com/eclipse/paho.mqtt.golang/packets"
)

// An Obeyer is a car that does what it is told, as far as it is there: it
// connects and vanishes at random, with clean and with kept sessions, before
// and after it has acknowledged. What it did and owes outlives its connections.
type Obeyer struct {
	Name, Token string
	Dedupes     bool // it remembers ids and does nothing twice

	mu       sync.Mutex
	Received map[string]bool   // ids of all commands whose bytes arrived
	Done     map[int]int       // how often it did what order n says
	Late     int               // commands that arrived after their deadline and were not done
	outcome  map[string][]byte // the answer for each id, once there is one
	owed     map[string]bool   // ids whose answer is not acknowledged
}

// Executions calls f for each order that was done and how often.
func (o *Obeyer) Executions(f func(order, times int)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, times := range o.Done {
		f(n, times)
	}
}

// Owes returns how many answers are not acknowledged.
func (o *Obeyer) Owes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.owed)
}

// Knows tells whether a command's bytes arrived, and what the car answers.
func (o *Obeyer) Knows(id string) (received bool, state string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var answer struct{ State string }
	_ = json.Unmarshal(o.outcome[id], &answer) // none: no state
	return o.Received[id], answer.State
}

// Live comes and goes until ctx ends; once calm is set it stays. addr says where
// the node listens now.
func (o *Obeyer) Live(ctx context.Context, addr func() string, calm *atomic.Bool, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 11))
	o.Received, o.Done, o.outcome, o.owed = map[string]bool{}, map[int]int{}, map[string][]byte{}, map[string]bool{}
	for ctx.Err() == nil {
		_ = o.connect(ctx, addr(), calm, r) // that connections break is the point
		away := time.Duration(20+r.IntN(600)) * time.Millisecond
		if calm.Load() {
			away = 100 * time.Millisecond
		}
		_ = sleep(ctx, away)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A visit is one connection.
type visit struct {
	o    *Obeyer
	conn net.Conn
	ids  map[uint16]string // answers on their way, by packet id
	next uint16
}

func (o *Obeyer) connect(ctx context.Context, addr string, calm *atomic.Bool, r *rand.Rand) error {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // fails on a closed connection only
	in := bufio.NewReader(conn)
	v := &visit{o: o, conn: conn, ids: map[uint16]string{}}
	if err := v.greet(in, r.IntN(2) == 0); err != nil {
		return err
	}
	stay := time.Now().Add(time.Duration(50+r.IntN(1500)) * time.Millisecond)
	for ctx.Err() == nil {
		if calm.Load() {
			stay = time.Now().Add(time.Minute)
		}
		_ = conn.SetDeadline(stay)
		p, err := mqtt3.ReadPacket(in)
		if err != nil {
			if !calm.Load() && r.IntN(2) == 0 {
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_ = mqtt3.NewControlPacket(mqtt3.Disconnect).Write(conn) // or without a word
			}
			return err
		}
		switch p := p.(type) {
		case *mqtt3.PublishPacket:
			fate := 1.0
			if !calm.Load() {
				fate = r.Float64()
			}
			if err := v.obey(p, fate); err != nil {
				return err
			}
		case *mqtt3.PubackPacket:
			o.mu.Lock()
			delete(o.owed, v.ids[p.MessageID])
			o.mu.Unlock()
			delete(v.ids, p.MessageID)
		}
	}
	return ctx.Err()
}

// greet connects, subscribes and sends what is owed.
func (v *visit) greet(in *bufio.Reader, clean bool) error {
	p := mqtt3.NewControlPacket(mqtt3.Connect).(*mqtt3.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.ClientIdentifier, p.Keepalive = "MQTT", 4, clean, v.o.Name, 120
	p.UsernameFlag, p.PasswordFlag, p.Username, p.Password = true, true, v.o.Name, []byte(v.o.Token)
	if err := p.Write(v.conn); err != nil {
		return err
	}
	answer, err := mqtt3.ReadPacket(in)
	if err != nil {
		return err
	}
	if ack, ok := answer.(*mqtt3.ConnackPacket); !ok || ack.ReturnCode != 0 {
		return fmt.Errorf("refused: %v", answer)
	}
	s := mqtt3.NewControlPacket(mqtt3.Subscribe).(*mqtt3.SubscribePacket)
	s.MessageID, s.Topics, s.Qoss = v.id(), []string{"commands/+"}, []byte{1}
	if err := s.Write(v.conn); err != nil {
		return err
	}
	v.o.mu.Lock()
	owed := make([]string, 0, len(v.o.owed))
	for id := range v.o.owed {
		owed = append(owed, id)
	}
	v.o.mu.Unlock()
	for _, id := range owed {
		if err := v.answer(id); err != nil {
			return err
		}
	}
	return nil
}

func (v *visit) id() uint16 {
	if v.next++; v.next == 0 {
		v.next = 1
	}
	return v.next
}

var errVanished = fmt.Errorf("vanished")

// obey does what it is told, unless fate has it vanish before or after.
func (v *visit) obey(p *mqtt3.PublishPacket, fate float64) error {
	var m struct {
		ID         string
		Deadline   int64
		Parameters struct{ Order int }
	}
	if err := json.Unmarshal(p.Payload, &m); err != nil || !strings.HasPrefix(p.TopicName, "commands/") {
		return fmt.Errorf("not a command: %s %s", p.TopicName, p.Payload)
	}
	o := v.o
	o.mu.Lock()
	o.Received[m.ID] = true
	if fate < 0.03 {
		o.mu.Unlock()
		return errVanished
	}
	_, again := o.outcome[m.ID]
	late := time.Now().UnixMilli() >= m.Deadline
	switch {
	case again && (o.Dedupes || late):
	case late:
		o.Late++
		o.outcome[m.ID] = []byte(`{"state":"rejected","code":"late"}`)
	default:
		o.Done[m.Parameters.Order]++
		o.outcome[m.ID] = []byte(`{"state":"succeeded"}`)
	}
	o.owed[m.ID] = true
	o.mu.Unlock()
	if fate < 0.08 {
		return errVanished
	}
	ack := mqtt3.NewControlPacket(mqtt3.Puback).(*mqtt3.PubackPacket)
	ack.MessageID = p.MessageID
	if p.Qos > 0 {
		if err := ack.Write(v.conn); err != nil {
			return err
		}
	}
	if fate < 0.11 {
		return errVanished
	}
	return v.answer(m.ID)
}

func (v *visit) answer(id string) error {
	v.o.mu.Lock()
	body := v.o.outcome[id]
	v.o.mu.Unlock()
	p := mqtt3.NewControlPacket(mqtt3.Publish).(*mqtt3.PublishPacket)
	p.Qos, p.MessageID, p.TopicName, p.Payload = 1, v.id(), "commands/"+id+"/answer", body
	v.ids[p.MessageID] = id
	return p.Write(v.conn)
}
