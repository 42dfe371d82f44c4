package presence

import (
	"encoding/json"
	"fmt"
	"maps"
)

// The types of a presence event.
const (
	TypeConnected    = "connected"
	TypeDisconnected = "disconnected"
	TypeOffline      = "offline" // the device has had no connection for the grace period
)

// Why a connection ended.
const (
	Clean       = "clean"        // the device said so
	KeepAlive   = "keep_alive"   // it was silent for longer than it had agreed
	TakenOver   = "taken_over"   // it connected again with the same client id
	Network     = "network"      // the connection broke
	Revoked     = "revoked"      // its token is no longer valid
	Stopped     = "stopped"      // the gateway was stopped
	GatewayDied = "gateway_died" // the gateway's process is gone, and the connection with it
	Refused     = "refused"      // it broke the protocol or a limit
)

// A Fact is one event in a device's presence; its JSON is the event's payload.
type Fact struct {
	Type    string `json:"type"`
	At      int64  `json:"at"`                // epoch milliseconds, by the gateway's clock
	Version uint64 `json:"version"`           // counts a device's presence events; it only grows
	Session string `json:"session,omitempty"` // one connection
	Client  string `json:"client,omitempty"`  // its MQTT client id
	Gateway string `json:"gateway,omitempty"` // the process that has it
	Reason  string `json:"reason,omitempty"`  // of disconnected
}

// Payload renders the fact as an event's payload.
func (f Fact) Payload() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("render presence fact %s: %w", f.Type, err)
	}
	return b, nil
}

// ParseFact reads an event's payload.
func ParseFact(payload []byte) (Fact, error) {
	var f Fact
	if err := json.Unmarshal(payload, &f); err != nil {
		return f, fmt.Errorf("parse presence fact: %w", err)
	}
	switch f.Type {
	case TypeConnected, TypeDisconnected:
		if f.Session == "" {
			return f, fmt.Errorf("parse presence fact %s: no session", f.Type)
		}
	case TypeOffline:
	default:
		return f, fmt.Errorf("parse presence fact: unknown type %q", f.Type)
	}
	return f, nil
}

// A Session is a connection that has not ended.
type Session struct {
	Client  string
	Gateway string
	Since   int64 // epoch milliseconds
}

// A Device is the fold of a device's facts. The zero value is one that was
// never there.
type Device struct {
	Sessions map[string]Session
	Version  uint64
	Since    int64  // of what Connected says, epoch milliseconds; 0: never there
	Reason   string // why the last connection ended
	Offline  bool   // services have been told
}

// Connected tells whether the device has a connection.
func (d *Device) Connected() bool { return len(d.Sessions) > 0 }

// Clone returns a copy that shares nothing.
func (d *Device) Clone() Device {
	c := *d
	c.Sessions = maps.Clone(d.Sessions)
	return c
}

// Connect decides on a connection's beginning; false when it is no news.
func (d *Device) Connect(session, client, gateway string, at int64) (Fact, bool) {
	if _, known := d.Sessions[session]; known {
		return Fact{}, false
	}
	return Fact{Type: TypeConnected, At: at, Version: d.Version + 1, Session: session, Client: client, Gateway: gateway}, true
}

// Disconnect decides on a connection's end; false when it is no news.
func (d *Device) Disconnect(session, reason string, at int64) (Fact, bool) {
	s, known := d.Sessions[session]
	if !known {
		return Fact{}, false
	}
	return Fact{Type: TypeDisconnected, At: at, Version: d.Version + 1, Session: session, Client: s.Client, Gateway: s.Gateway, Reason: reason}, true
}

// GoOffline decides whether services are told that the device is gone: when it
// has been away for grace milliseconds, once.
func (d *Device) GoOffline(at, grace int64) (Fact, bool) {
	if d.Connected() || d.Offline || d.Since == 0 || at < d.Since+grace {
		return Fact{}, false
	}
	return Fact{Type: TypeOffline, At: at, Version: d.Version + 1, Reason: d.Reason}, true
}

// Evolve folds one fact, in place.
func (d *Device) Evolve(f Fact) {
	d.Version = max(d.Version+1, f.Version)
	was := d.Connected()
	switch f.Type {
	case TypeConnected:
		if d.Sessions == nil {
			d.Sessions = map[string]Session{}
		}
		d.Sessions[f.Session] = Session{f.Client, f.Gateway, f.At}
		d.Offline = false
	case TypeDisconnected:
		delete(d.Sessions, f.Session)
		d.Reason = f.Reason
	case TypeOffline:
		d.Offline = !was
		return
	}
	if now := d.Connected(); now != was {
		d.Since = f.At
	}
}
