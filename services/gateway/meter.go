package gateway

import (
	"sync"
	"time"
)

// A meter is a device's allowance of messages and bytes: two token buckets that
// hold a second's worth each.
type meter struct {
	mu       sync.Mutex
	messages float64
	bytes    float64
	at       time.Time
}

// take books one message. wait is how long the device must pause to keep its
// rates; 0 for nearly every message of nearly every device.
func (m *meter) take(l *Limits, now time.Time, size int) (wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refill(l, now)
	m.messages--
	m.bytes -= float64(size)
	debt := max(-m.messages/l.MessagesPerSecond, -m.bytes/l.BytesPerSecond)
	if debt <= 0 {
		return 0
	}
	return time.Duration(debt * float64(time.Second))
}

// allow is take for who will not wait: nothing is booked when it answers false.
func (m *meter) allow(l *Limits, now time.Time, size int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refill(l, now)
	if m.messages < 1 || m.bytes < min(float64(size), l.BytesPerSecond) {
		return false
	}
	m.messages--
	m.bytes -= float64(size)
	return true
}

func (m *meter) refill(l *Limits, now time.Time) {
	if m.at.IsZero() {
		m.messages, m.bytes = l.MessagesPerSecond, l.BytesPerSecond
	} else if dt := now.Sub(m.at).Seconds(); dt > 0 {
		m.messages = min(l.MessagesPerSecond, m.messages+dt*l.MessagesPerSecond)
		m.bytes = min(l.BytesPerSecond, m.bytes+dt*l.BytesPerSecond)
	}
	m.at = now
}

// A Sender is a device that has proved who it is. Get one from Gateway.Sender.
type Sender struct {
	device string
	meter  meter
}

// Device returns the sender's id.
func (s *Sender) Device() string { return s.device }

// senders holds one Sender for each device that ever sent, so that the rates
// hold over all its connections. It is bounded by the number of devices.
type senders struct {
	mu sync.RWMutex
	m  map[string]*Sender
}

func (s *senders) get(device string) *Sender {
	s.mu.RLock()
	sender := s.m[device]
	s.mu.RUnlock()
	if sender != nil {
		return sender
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sender = s.m[device]; sender == nil {
		sender = &Sender{device: device}
		s.m[device] = sender
	}
	return sender
}

func (s *senders) forget(device string) {
	s.mu.Lock()
	delete(s.m, device)
	s.mu.Unlock()
}
