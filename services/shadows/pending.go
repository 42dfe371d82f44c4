package shadows

import (
	"slices"
	"strings"
	"time"
)

// A Pending is a device that is not as desired.
type Pending struct {
	Device   string     `json:"device"`
	Name     string     `json:"name,omitempty"`
	Version  uint64     `json:"version"`
	Since    time.Time  `json:"since"`
	Why      Why        `json:"why"`
	Rejected *Rejection `json:"rejected,omitempty"` // the device's own last report since then, if it was refused
}

// Why a device is not as desired.
type Why string

// The reasons.
const (
	Offline  Why = "offline"  // it has no connection
	Refused  Why = "rejected" // what it reported was refused
	Silent   Why = "silent"   // it is connected and has not reported
	Unknowns Why = "unknown"  // nobody has told this process who is connected
)

// Pending returns up to limit shadows whose device has not reported what is
// desired, by device and name, after the given ones.
func (s *Shadows) Pending(afterDevice, afterName string, limit int) (all []Pending) {
	entries := slices.DeleteFunc(s.all(), func(e *entry) bool {
		return e.device < afterDevice || e.device == afterDevice && e.name <= afterName
	})
	slices.SortFunc(entries, func(a, b *entry) int {
		if c := strings.Compare(a.device, b.device); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	for _, e := range entries {
		if len(all) == limit {
			break
		}
		if p, ok := s.pendingOf(e); ok {
			all = append(all, p)
		}
	}
	return all
}

func (s *Shadows) pendingOf(e *entry) (Pending, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending == 0 {
		return Pending{}, false
	}
	p := Pending{Device: e.device, Name: e.name, Version: e.doc.Version, Since: time.UnixMilli(e.pending).UTC(), Rejected: e.rejected}
	there, known := s.there(e.device)
	switch {
	case !known:
		p.Why = Unknowns
	case !there:
		p.Why = Offline
	case e.rejected != nil:
		p.Why = Refused
	default:
		p.Why = Silent
	}
	return p, true
}

// there tells whether the device has a connection, here or to another process.
func (s *Shadows) there(device string) (there, known bool) {
	here := s.out != nil && s.out.Connected(device)
	if s.connected == nil {
		return here, s.out != nil
	}
	return here || s.connected(device), true
}
